"""A bounded cache of the values used last: open files, sample tables, permutations, decoded objects."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

__all__ = ["LruCache"]

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class LruCache(Generic[Key, Value]):
    """A mapping that computes missing values, and drops those not used for longest.

    Args:
        make: value of a key. It must be a pure function, so that dropping a value never changes a result.
        limit: largest sum of weights; the value asked for last stays even if it alone is heavier.
        weigh: weight of a value; None: 1 each.
        drop: called with every dropped value, e.g. to close it.

    A pickled cache, e.g. for a loader process, is empty.
    """

    def __init__(
        self,
        make: Callable[[Key], Value],
        limit: int,
        weigh: Callable[[Value], int] | None = None,
        drop: Callable[[Value], object] | None = None,
    ) -> None:
        self.make, self.limit, self.weigh, self.drop = make, limit, weigh, drop
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._weight = 0

    def __getitem__(self, key: Key) -> Value:
        """The value of `key`, computed if it is not there."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        value = self._values[key] = self.make(key)
        self._weight += self._weight_of(value)
        while self._weight > self.limit and len(self._values) > 1:
            self._drop_oldest()
        return value

    def __len__(self) -> int:
        return len(self._values)

    def clear(self) -> None:
        """Drop all values."""
        while self._values:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, value = self._values.popitem(last=False)
        self._weight -= self._weight_of(value)
        if self.drop is not None:
            self.drop(value)

    def _weight_of(self, value: Value) -> int:
        return 1 if self.weigh is None else self.weigh(value)

    def __getstate__(self) -> dict[str, Any]:
        return {"make": self.make, "limit": self.limit, "weigh": self.weigh, "drop": self.drop}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

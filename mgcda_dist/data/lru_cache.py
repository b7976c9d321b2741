"""Keep what was used last: a small bounded store for open files, shard indices, permutations and decoded objects."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

__all__ = ["LruCache"]

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class LruCache(Generic[Key, Value]):
    """A mapping that makes what it lacks, and forgets what was not used for longest.

    Args:
        make: value of a key. It must be a pure function, so that forgetting never changes a result.
        limit: largest sum of weights kept; the value asked for last stays even when it alone is heavier.
        weigh: weight of a value; None: 1 each.
        drop: called with every forgotten value, e.g. to close it.

    Pickling (to start a loader process) keeps the recipe and forgets the values.
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
        """The value of `key`, made if it is not there."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        value = self._values[key] = self.make(key)
        self._weight += self._weight_of(value)
        while self._weight > self.limit and len(self._values) > 1:
            self._forget_oldest()
        return value

    def __len__(self) -> int:
        return len(self._values)

    def clear(self) -> None:
        """Forget everything."""
        while self._values:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
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

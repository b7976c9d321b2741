"""Samples from a data set reader to the shard writer, encoded, and read on demand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from mgcda_dist.errors import ShardError

__all__ = ["LazySamples", "SourceSample"]


@dataclass(frozen=True)
class SourceSample:
    """One frame, or one object to paste.

    Attributes:
        key: unique within the dataset split; made by `keys.safe_key`.
        image: encoded image bytes. For an object: PNG with alpha, which is its mask.
        image_ext: format of these bytes; shards hold `jpg`, `png` and `webp`, others are re-encoded.
        label: PNG bytes, 8-bit single channel, raw ids of the dataset's own label format; None: unlabelled.
        meta: small JSON-able values (source photo, category, credit), stored as `KEY.json` when not empty.
        image_file, label_file: that they were read from, for errors; not stored.
    """

    key: str
    image: bytes
    image_ext: str
    label: bytes | None = None
    meta: dict[str, str | int | float] = field(default_factory=dict)
    image_file: Path | None = None
    label_file: Path | None = None

    @property
    def image_where(self) -> str:
        """The key, which `skip` takes, and the file of the image, for errors."""
        return f"{self.key} ({self.image_file})" if self.image_file else self.key

    @property
    def label_where(self) -> str:
        """The same with the file of the label."""
        return f"{self.key} ({self.label_file})" if self.label_file else self.key


def _no_check(items: Sequence[Any]) -> None:  # no lambda: samples travel
    pass


class LazySamples:
    """The samples of a split: their number is known; each is read on demand, several in parallel if wanted.

    Args:
        items: descriptions of the samples, in order, each with its `key`.
        load: item → sample; called from several threads.
        check: raises for items that cannot be written, such as one whose file is missing. The writer calls it when it
            is known which are written; the others may be broken.
    """

    def __init__(
        self,
        items: Sequence[Any],
        load: Callable[[Any], SourceSample],
        check: Callable[[Sequence[Any]], None] = _no_check,
    ) -> None:
        self.items, self.load, self.check = items, load, check

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[SourceSample]:
        self.check(self.items)
        return (self.load(item) for item in self.items)

    def loaders(self) -> Iterator[Callable[[], SourceSample]]:
        """One function per sample that reads it."""
        return (partial(self.load, item) for item in self.items)

    def part(self, start: int, stop: int) -> LazySamples:
        """The samples from `start` to before `stop`, by their place, which travel without their check."""
        return LazySamples(self.items[start:stop], self.load)

    def matching(self, patterns: Collection[str]) -> LazySamples:
        """The samples whose key matches one of the shell patterns (`*`, `?`, `[…]`; `*` passes slashes).

        Raises:
            ShardError: no key matches one of the patterns.
        """
        for pattern in patterns:
            if not any(fnmatchcase(item.key, pattern) for item in self.items):
                first = next((item.key for item in self.items), "")
                raise ShardError("only", f"no sample has a key like {pattern}", f"keys look like {first}")
        chosen = [item for item in self.items if any(fnmatchcase(item.key, pattern) for pattern in patterns)]
        return LazySamples(chosen, self.load, self.check)

    def without(self, keys: Collection[str]) -> LazySamples:
        """The same samples but those with these keys.

        Raises:
            ShardError: no sample has one of the keys.
        """
        rest = [item for item in self.items if item.key not in keys]
        if len(rest) + len(set(keys)) != len(self.items):
            unknown = sorted(set(keys) - {item.key for item in self.items})
            first = next((item.key for item in self.items), "")
            raise ShardError("skip", f"no sample has the key {unknown[0]}", f"keys look like {first}")
        return LazySamples(rest, self.load, self.check)

"""Samples by number, encoded or decoded: one positioned read per member, at the offset that the shard's index gives."""

from __future__ import annotations

import os
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np

from mgcda_dist.choices import Exif
from mgcda_dist.data.decode import decode_image, decode_pair
from mgcda_dist.data.lru_cache import LruCache
from mgcda_dist.data.pixels import Pixels
from mgcda_dist.data.shards.manifest import MIXED_UP, Manifest
from mgcda_dist.data.shards.remote import Prefetch
from mgcda_dist.errors import SampleError, ShardError
from mgcda_dist.trust import MEMBER_BYTES

__all__ = ["EncodedSample", "FrameReader", "RawFrame", "ShardReader"]

_REMEDY = "shard or sample table is damaged: run `mgcda shards verify`, then write or copy it again"
_OPEN_SHARDS = 32  # a window of the plan holds a handful of shards


class EncodedSample(NamedTuple):
    """One sample as it is in the shard."""

    key: str
    image: bytes
    label: bytes | None
    """PNG of raw ids; None: the sample has no label."""
    where: str
    """`shard path: key`, for messages."""
    exif: Exif | None
    """As the manifest says."""


class RawFrame(NamedTuple):
    """One frame as it was recorded, its label in the ids of its data set."""

    key: str
    image: Pixels
    """H×W×3 RGB, uint8; it may belong to the user's own program, and is only read."""
    ids: Pixels | None
    """H×W raw ids, uint8; None: the frame has no label, or nobody asked for it."""
    where: str
    """For messages."""


class FrameReader(Protocol):
    """Frames by number, as a stream reads them; handed to loader processes."""

    def __len__(self) -> int: ...

    def frame(self, index: int, *, labelled: bool = True) -> RawFrame:
        """One frame; without `labelled` its label is not looked at.

        Raises:
            SampleError: this frame is damaged.
            ShardError: no frame can be read.
        """
        ...

    def prefetch(self, index: int) -> None:
        """Prepare for a frame that will be read later."""
        ...


class ShardReader:
    """Reads the samples of one shard folder.

    Safe to hand to loader processes: reads are positioned, so processes that share a file descriptor after a fork do
    not disturb each other, and a pickled reader opens its files anew.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._ends = np.cumsum(manifest.shard_sizes, dtype=np.int64)
        self._length = int(self._ends[-1]) if len(self._ends) else 0
        self._shards: LruCache[int, _OpenShard] = LruCache(
            partial(_open, manifest), _OPEN_SHARDS, drop=_OpenShard.close
        )
        self._prefetch = Prefetch()

    def __len__(self) -> int:
        return self._length

    def read(self, index: int) -> EncodedSample:
        """The sample with this flat index.

        Raises:
            ShardError: no such sample, or its shard is missing or shorter than its index says.
        """
        if not 0 <= index < self._length:
            raise ShardError(self.manifest.place, f"sample {index} is not among its {self._length}")
        number = int(self._ends.searchsorted(index, side="right"))
        shard = self._shards[number]
        key, image_offset, image_bytes, label_offset, label_bytes = shard.rows[index - int(self._ends[number])]
        where = f"{shard.path}: {key}"
        image = _pread(shard, image_bytes, image_offset, where)
        label = _pread(shard, label_bytes, label_offset, where) if label_bytes else None
        return EncodedSample(key, image, label, where, self.manifest.exif)

    def frame(self, index: int, *, labelled: bool = True) -> RawFrame:
        """The sample with this flat index, decoded; without `labelled` its label is not looked at.

        Raises:
            ShardError: as `read`, and as `decode_pair`.
        """
        sample = self.read(index)
        if sample.label is None or not labelled:
            image, ids = decode_image(sample.image, sample.where, sample.exif), None
        else:
            image, ids = decode_pair(sample.image, sample.label, sample.where, sample.exif)
        return RawFrame(sample.key, image, ids, sample.where)

    def prefetch(self, index: int) -> None:
        """Start to fetch the shard of a sample that will be read later, unless shards are read in place."""
        if self.manifest.mirrored:
            self._prefetch.ask(self.manifest.shard_path, int(self._ends.searchsorted(index, side="right")))

    def close(self) -> None:
        """Close all files; the next read opens them again."""
        self._shards.clear()

    def __del__(self) -> None:
        if hasattr(self, "_shards"):
            self.close()


class _OpenShard(NamedTuple):
    """A shard's file descriptor and its index as plain tuples, which are read five times as fast as NumPy's rows."""

    file: int
    num_bytes: int
    path: str
    rows: list[tuple[str, int, int, int, int]]
    """Per sample: key, image offset and bytes, label offset and bytes. Read from the end: row i - size is sample i."""

    def close(self) -> None:
        os.close(self.file)


def _open(manifest: Manifest, shard: int, attempts: int = 5) -> _OpenShard:
    index, path = manifest.shard_index(shard), str(manifest.shard_path(shard))
    numbers = (index[name].tolist() for name in ("image_offset", "image_bytes", "label_offset", "label_bytes"))
    keys = [key.decode() for key in index["key"].tolist()]
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        if manifest.mirrored and attempts > 1:  # dropped from the mirror between the fetch and the opening
            return _open(manifest, shard, attempts - 1)
        raise ShardError(path, f"cannot be opened: {error.strerror}", "run `mgcda shards verify`") from error
    except OSError as error:
        raise ShardError(path, f"cannot be opened: {error.strerror}", "run `mgcda shards verify`") from error
    opened = _OpenShard(file, os.fstat(file).st_size, path, list(zip(keys, *numbers, strict=True)))
    said = int(manifest.table[shard]["num_bytes"])
    # Where a shard is cut within its samples, the lost ones say so, and others stand in for them.
    if opened.num_bytes != said and all(max(i + n, j + m) <= opened.num_bytes for _, i, n, j, m in opened.rows):
        opened.close()
        raise ShardError(path, f"{opened.num_bytes} bytes, but the shard table says {said}", MIXED_UP)
    return opened


def _pread(shard: _OpenShard, size: int, offset: int, where: str) -> bytes:
    # Both are checked before memory is asked for: a damaged table may claim gigabytes, and a sparse file have them.
    lacking = offset + size - shard.num_bytes
    if lacking <= 0 and size > MEMBER_BYTES:
        raise SampleError(where, f"{size} bytes are over the bound of {MEMBER_BYTES}", _REMEDY)
    if lacking <= 0:
        try:
            data = os.pread(shard.file, size, offset)
        except OSError as error:
            raise ShardError(where, f"cannot be read: {error.strerror}", "check the disk or mount") from error
        if len(data) == size:
            return data
        lacking = size - len(data)
    problem = f"the shard ends {lacking} bytes before the sample does"
    raise SampleError(where, problem, _REMEDY)

"""Encoded samples by number: one positioned read per member, at the offset that the shard's index gives."""

from __future__ import annotations

import os
from functools import partial
from typing import NamedTuple

import numpy as np

from mgcda_dist.data.recent import Recent
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.errors import ShardError

__all__ = ["EncodedSample", "ShardReader"]

_OPEN_SHARDS = 64  # files and indices kept open; a window of the plan holds a handful per domain


class EncodedSample(NamedTuple):
    """One sample as it lies in the shard."""

    key: str
    image: bytes
    label: bytes | None
    """PNG of raw ids; None: the sample has no label."""
    where: str
    """`shard path: key`, for messages."""


class ShardReader:
    """Reads the samples of one shard folder.

    Safe to hand to loader processes: reads are positioned, so processes that share a file descriptor after a fork do
    not disturb each other, and a pickled reader opens its files anew.

    Args:
        manifest: the folder's manifest.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._ends = np.cumsum(manifest.shard_sizes, dtype=np.int64)
        self._indices: Recent[int, np.ndarray] = Recent(manifest.shard_index, _OPEN_SHARDS)
        self._files: Recent[int, int] = Recent(partial(_open, manifest), _OPEN_SHARDS, drop=os.close)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, index: int) -> EncodedSample:
        """The sample with this flat index.

        Raises:
            ShardError: no such sample, or its shard is missing or shorter than its index says.
        """
        if not 0 <= index < len(self):
            raise ShardError(str(self.manifest.folder), f"sample {index} is not among its {len(self)}")
        shard = int(np.searchsorted(self._ends, index, side="right"))
        row = self._indices[shard][index - int(self._ends[shard])]  # negative: counted from the shard's end
        key = row["key"].decode()
        where = f"{self.manifest.shard_path(shard)}: {key}"
        image = self._pread(shard, int(row["image_offset"]), int(row["image_bytes"]), where)
        size = int(row["label_bytes"])
        label = self._pread(shard, int(row["label_offset"]), size, where) if size else None
        return EncodedSample(key, image, label, where)

    def close(self) -> None:
        """Close all files; the next read opens them again."""
        self._files.clear()

    def _pread(self, shard: int, offset: int, size: int, where: str) -> bytes:
        try:
            data = os.pread(self._files[shard], size, offset)
        except OSError as error:
            raise ShardError(where, f"cannot be read: {error.strerror}", "check the disk or mount") from error
        if len(data) != size:
            problem = f"the shard ends {size - len(data)} bytes before the sample does"
            raise ShardError(
                where, problem, "the shard is truncated: run `mgcda shards verify`, then copy or write it again"
            )
        return data

    def __del__(self) -> None:
        if hasattr(self, "_files"):
            self.close()


def _open(manifest: Manifest, shard: int) -> int:
    path = manifest.shard_path(shard)
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ShardError(str(path), f"cannot be opened: {error.strerror}", "run `mgcda shards verify`") from error

"""One shard file: a plain tar, written with fixed headers so that the same samples give the same bytes."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path
from typing import BinaryIO

from mgcda_dist.data.shards.encode import EncodedSample
from mgcda_dist.data.shards.tables import SampleRow, ShardRow, index_path, sample_table, save_table
from mgcda_dist.files import PendingFile

__all__ = ["ShardWriter"]

_BLOCK = 512


class ShardWriter:
    """Writes one shard under a temporary name; `finish` gives it its own.

    Args:
        path: final path of the tar file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pending = PendingFile(path)
        self._file: BinaryIO = self._pending.temporary.open("wb")
        self._digest = hashlib.sha256()
        self._offset = 0
        self.rows: list[SampleRow] = []

    def add(self, sample: EncodedSample) -> None:
        """Append the members of a sample: image, label, meta; the last two only where present."""
        image = self._member(f"{sample.key}.{sample.image_ext}", sample.image)
        label = self._member(f"{sample.key}.label.png", sample.label)
        meta = self._member(f"{sample.key}.json", sample.meta)
        row = SampleRow(
            sample.key, image, len(sample.image), sample.image_ext, label, len(sample.label), meta, len(sample.meta),
            sample.category,
        )  # fmt: skip
        self.rows.append(row)

    def finish(self) -> ShardRow:
        """Close the file, make it durable, and put first its sample table, then itself in place.

        A tar file under its own name therefore always has its table.
        """
        self._write(bytes(2 * _BLOCK))
        self._file.close()
        save_table(sample_table(self.rows), index_path(self._path))
        self._pending.commit()
        return ShardRow(self._path.name, len(self.rows), self._offset, self._digest.digest())

    def abandon(self) -> None:
        """Close and remove the temporary file."""
        self._file.close()
        self._pending.discard()

    def _member(self, name: str, data: bytes) -> int:
        """Write a member; offset of its bytes, or 0 when there are none."""
        if not data:
            return 0
        info = tarfile.TarInfo(name)
        info.size, info.mtime, info.mode = len(data), 0, 0o644
        self._write(info.tobuf(tarfile.GNU_FORMAT))
        start = self._offset
        self._write(data)
        self._write(bytes(-len(data) % _BLOCK))
        return start

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._offset += len(data)

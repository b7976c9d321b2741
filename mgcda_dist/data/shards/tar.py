"""Shard files: plain tars, written by WebDataset with fixed headers, so that the same samples give the same bytes."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

from mgcda_dist.data.shards.encode import EncodedSample
from mgcda_dist.data.shards.tables import SampleRow, ShardRow, index_path, sample_table, save_table
from mgcda_dist.files import PendingFile

__all__ = ["ShardFile", "ShardWriter"]


class ShardFile:
    """A tar file in the making.

    Attributes:
        path: of the file, which is created.
        rows: the sample table so far.
    """

    def __init__(self, path: Path) -> None:
        from webdataset.writer import TarWriter  # imports torch, which writing shards needs for nothing else

        self.path, self.rows = path, list[SampleRow]()
        self._file = path.open("w+b")
        self._tar = TarWriter(self._file, user="", group="", mode=0o644, mtime=0, encoder=False)
        self._tar.tarstream.format = tarfile.GNU_FORMAT  # TarWriter 1.0 ignores its own argument `format`
        self._tar.tarstream.encoding = "utf-8"  # and not that of the machine's locale

    def add(self, sample: EncodedSample) -> None:
        """Append the members of a sample: image, label, meta; the last two only where present."""
        image = self._member(sample.key, sample.image_ext, sample.image)
        label = self._member(sample.key, "label.png", sample.label)
        meta = self._member(sample.key, "json", sample.meta)
        row = SampleRow(
            sample.key, image, len(sample.image), sample.image_ext, label, len(sample.label), meta, len(sample.meta),
            sample.category,
        )  # fmt: skip
        self.rows.append(row)

    def finish(self, name: str) -> ShardRow:
        """End the archive and close the file; its row of the shard table, under that name."""
        # TarWriter fills the file up to a multiple of 10240 bytes; two empty blocks are what ends an archive.
        num_bytes = self._tar.tarstream.offset + 2 * tarfile.BLOCKSIZE
        self._tar.close()
        with self._file as file:
            file.truncate(num_bytes)
            file.seek(0)
            return ShardRow(name, len(self.rows), num_bytes, hashlib.file_digest(file, "sha256").digest())

    def close(self) -> None:
        """Close the file; nothing is left to do after `finish`."""
        self._tar.close()
        self._file.close()

    def _member(self, key: str, extension: str, data: bytes) -> int:
        """Write a member; offset of its bytes, or 0 when there are none."""
        if not data:
            return 0
        self._tar.write({"__key__": key, extension: data})  # one by one: TarWriter would sort those of a sample
        return self._tar.tarstream.offset - len(data) - -len(data) % tarfile.BLOCKSIZE


class ShardWriter:
    """Writes one shard of a folder under a temporary name; `finish` gives it its own."""

    def __init__(self, path: Path) -> None:
        self._pending = PendingFile(path)
        self._file = ShardFile(self._pending.temporary)
        self.add = self._file.add

    def finish(self) -> ShardRow:
        """Close the file, and put first its sample table, then itself in place.

        A tar file under its own name therefore always has its table.
        """
        path = self._pending.path
        row = self._file.finish(path.name)
        save_table(sample_table(self._file.rows), index_path(path))
        self._pending.commit()
        return row

    def abandon(self) -> None:
        """Close and remove the temporary file."""
        self._file.close()
        self._pending.discard()

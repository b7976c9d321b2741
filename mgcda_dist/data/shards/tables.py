"""The two kinds of tables beside the tar files: one row per shard, one row per sample.

`shards.npy` is memory-mapped, so a set of a million shards opens at once; a sample table is read with its shard. They
are plain NumPy files that other tools can read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mgcda_dist.choices import SHARD_TABLE
from mgcda_dist.errors import ShardError
from mgcda_dist.files import PendingFile
from mgcda_dist.trust import regular

__all__ = [
    "SHARD_TABLE",
    "SampleRow",
    "ShardRow",
    "index_path",
    "load_table",
    "sample_table",
    "save_table",
    "shard_name",
    "shard_table",
]

_REMEDY = "write the shards again with `mgcda shards write`, or index the tar files with `mgcda shards index`"


class ShardRow(NamedTuple):
    """One shard: file name, sample count, file size, SHA-256 of the file (32 raw bytes)."""

    name: str
    num_samples: int
    num_bytes: int
    sha256: bytes


class SampleRow(NamedTuple):
    """One sample of a shard: offsets and sizes of its members in the tar file; 0 bytes: no such member."""

    key: str
    image_offset: int
    image_bytes: int
    image_ext: str
    label_offset: int
    label_bytes: int
    meta_offset: int
    meta_bytes: int
    category: str = ""
    """Of an object, so that objects can be chosen without reading the tar files."""


def shard_name(index: int) -> str:
    """File name of a written shard."""
    return f"shard-{index:06d}.tar"


def index_path(shard: Path) -> Path:
    """The sample table of a shard, e.g. `shard-000000.idx.npy`."""
    return shard.with_name(shard.name.removesuffix(".tar") + ".idx.npy")


def shard_table(rows: Sequence[ShardRow]) -> np.ndarray:
    """Structured array, one row per shard.

    The checksum is 32 bytes and not a NumPy string, because those lose trailing zeros.
    """
    width = max((len(row.name.encode()) for row in rows), default=1)
    table = np.empty(
        len(rows), [("name", f"S{width}"), ("num_samples", "<u4"), ("num_bytes", "<u8"), ("sha256", "u1", (32,))]
    )
    for i, row in enumerate(rows):
        table[i] = (row.name.encode(), row.num_samples, row.num_bytes, np.frombuffer(row.sha256, np.uint8))
    return table


def sample_table(rows: Sequence[SampleRow]) -> np.ndarray:
    """Structured array, one row per sample of a shard, in file order."""
    width = max((len(row.key.encode()) for row in rows), default=1)
    offsets = [
        (f"{part}_{what}", form) for part in ("label", "meta") for what, form in (("offset", "<u8"), ("bytes", "<u4"))
    ]
    fields = [("key", f"S{width}"), ("image_offset", "<u8"), ("image_bytes", "<u4"), ("image_ext", "S4"), *offsets]
    if any(row.category for row in rows):
        fields.append(("category", f"S{max(len(row.category.encode()) for row in rows)}"))
    table = np.empty(len(rows), fields)
    for i, row in enumerate(rows):
        numbers = (row.label_offset, row.label_bytes, row.meta_offset, row.meta_bytes)
        values = (row.key.encode(), row.image_offset, row.image_bytes, row.image_ext.encode(), *numbers)
        table[i] = (*values, row.category.encode())[: len(fields)]
    return table


def save_table(table: np.ndarray, path: Path) -> None:
    """Write a table, at once or not at all."""
    with PendingFile(path) as temporary, temporary.open("wb") as file:
        np.save(file, table)


def load_table(path: Path, columns: Sequence[str], *, mapped: bool) -> np.ndarray:
    """The table of a file.

    Args:
        path: a `.npy` file.
        columns: fields it must have.
        mapped: memory-map it instead of reading it.

    Raises:
        ShardError: the file is missing, cut off, or no such table.
    """
    try:
        table = np.load(regular(path), mmap_mode="r" if mapped else None, allow_pickle=False)
    except FileNotFoundError:
        raise ShardError(str(path), "no such file", _REMEDY) from None
    except Exception as error:  # of a damaged header NumPy raises all kinds
        raise ShardError(str(path), f"not a readable NumPy table ({error})", _REMEDY) from error
    missing = [name for name in columns if name not in (table.dtype.names or ())]
    if missing:
        raise ShardError(str(path), f"the table lacks the columns {', '.join(missing)}", _REMEDY)
    return table

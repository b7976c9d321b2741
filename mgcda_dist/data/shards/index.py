"""Tar files that another tool wrote → a readable shard folder: the tables and the manifest are made beside them.

A sample is what WebDataset calls one: members whose names are equal up to the first dot of the file name. The tar files
are not changed.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mgcda_dist.data.labels import known_ids
from mgcda_dist.data.shards.encode import decode_ids
from mgcda_dist.data.shards.manifest import MANIFEST, Kind, Manifest
from mgcda_dist.data.shards.members import category_of
from mgcda_dist.data.shards.tables import SampleRow, ShardRow, index_path, sample_table, save_table
from mgcda_dist.data.shards.write import finish_manifest
from mgcda_dist.errors import ShardError

__all__ = ["Extensions", "index_shards"]


@dataclass(frozen=True)
class Extensions:
    """What follows the first dot of the members' names; of several present the first counts."""

    image: tuple[str, ...] = ("jpg", "jpeg", "webp", "image.jpg", "image.png", "rgb.jpg", "rgb.png", "png")
    label: tuple[str, ...] = ("label.png", "labels.png", "mask.png", "seg.png", "labelids.png", "png")


class _Indexed(NamedTuple):
    row: ShardRow
    histogram: np.ndarray


def index_shards(
    folder: Path | str,
    *,
    dataset: str,
    split: str,
    label_format: str,
    kind: Kind = "frames",
    extensions: Extensions | None = None,
    progress: Callable[[int], None] | None = None,
    workers: int | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Make the manifest of the tar files in a folder.

    Args:
        folder: with `*.tar`, taken in the order of their names.
        dataset, split, label_format, kind: as nothing in the tar files says it.
        extensions: which members are images and labels.
        progress: called with the number of tar files done since the last call.
        workers: threads; None: one per processor.
        overwrite: index a folder again that has a manifest.

    Raises:
        ShardError: no tar file, a compressed or damaged one, a sample without an image, a label that holds no ids.
        ConfigError: no such label format.
    """
    folder = Path(folder).absolute()
    known_ids(label_format)
    if (folder / MANIFEST).exists() and not overwrite:
        raise ShardError(str(folder), f"already has a {MANIFEST}", "give --overwrite to index it again")
    tars = sorted(folder.glob("*.tar")) if folder.is_dir() else []
    if not tars:
        packed = [path.name for path in folder.glob("*.tar.*")] if folder.is_dir() else []
        remedy = f"unpack the compression first: {packed[0]} cannot be read by offset" if packed else "check the folder"
        raise ShardError(str(folder), "no *.tar here", remedy)
    rows: list[ShardRow] = []
    histogram = np.zeros(256, np.int64)
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        for indexed in pool.map(partial(_index_tar, extensions=extensions or Extensions()), tars):
            rows.append(indexed.row)
            histogram += indexed.histogram
            if progress is not None:
                progress(1)
    return finish_manifest(
        rows, folder, dataset=dataset, split=split, label_format=label_format, kind=kind,
        histogram={raw: int(count) for raw, count in enumerate(histogram) if count},
        options={}, provenance={"indexed": "tar files of another tool"},
    )  # fmt: skip


def _index_tar(path: Path, extensions: Extensions) -> _Indexed:
    """Write the sample table of one tar file; its row of the shard table and its pixels per raw id."""
    rows: list[SampleRow] = []
    histogram = np.zeros(256, np.int64)
    with path.open("rb") as file:
        for key, members in _groups(path).items():
            row = _sample_row(path, key, members, extensions)
            rows.append(row._replace(category=category_of(os.pread(file.fileno(), row.meta_bytes, row.meta_offset))))
            if rows[-1].label_bytes:
                label = os.pread(file.fileno(), rows[-1].label_bytes, rows[-1].label_offset)
                histogram += np.bincount(decode_ids(label, f"{path}: {key}").ravel(), minlength=256)
        digest = hashlib.file_digest(file, "sha256").digest()
    save_table(sample_table(rows), index_path(path))
    return _Indexed(ShardRow(path.name, len(rows), path.stat().st_size, digest), histogram)


def _groups(path: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """Key → extension → (offset, bytes), in file order."""
    groups: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                stem, dot, extension = name.partition(".")
                if not member.isreg() or not dot or not stem:
                    continue
                if member.name.startswith("/") or ".." in member.name.split("/"):
                    problem = f"the member {member.name!r} leads out of the archive"
                    raise ShardError(str(path), problem, "pack it again with plain names, or do not trust it")
                key = f"{folder}/{stem}" if folder else stem
                parts = groups.setdefault(key.removeprefix("./"), {})
                if extension.lower() in parts:
                    raise ShardError(f"{path}: {key}", f"two members .{extension}", "keys must be unique in a shard")
                parts[extension.lower()] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ShardError(
            str(path), f"not a whole tar file ({error})", "copy it again; compressed tars cannot be used"
        ) from error
    if not groups:
        raise ShardError(str(path), "no sample in it", "remove the file")
    return groups


def _sample_row(path: Path, key: str, members: dict[str, tuple[int, int]], extensions: Extensions) -> SampleRow:
    image = next((e for e in extensions.image if e in members), None)
    if image is None:
        remedy = "name the image's extension with --image-ext"
        raise ShardError(f"{path}: {key}", f"no image among the members {', '.join(sorted(members))}", remedy)
    label = next((e for e in extensions.label if e in members and e != image), None)
    kind = image.rpartition(".")[2]
    extension = "jpg" if kind == "jpeg" else kind
    label_place = members[label] if label else (0, 0)
    return SampleRow(key, *members[image], extension, *label_place, *members.get("json", (0, 0)))

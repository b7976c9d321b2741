"""Tar files that another tool wrote → a readable shard folder: the tables and the manifest are made beside them.

A sample is what WebDataset calls one: members whose names are equal up to the first dot of the file name. The tar files
are not changed. Those that can only be streamed (compressed, or behind a command) are streamed once, into the mirror.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mgcda_dist.choices import Exif, ShardKind
from mgcda_dist.data.decode import decode_ids
from mgcda_dist.data.header import read_header
from mgcda_dist.data.labels import known_ids
from mgcda_dist.data.ledger import LEDGER, Ledger
from mgcda_dist.data.listing import files_below
from mgcda_dist.data.shards.manifest import MANIFEST, Manifest
from mgcda_dist.data.shards.members import REPACK, Member, category_of, members_of, sample_member
from mgcda_dist.data.shards.remote import ShardCache
from mgcda_dist.data.shards.roles import OWN, Extensions
from mgcda_dist.data.shards.streamed import STREAMED, StreamSource, is_packed, shard_names, split_place
from mgcda_dist.data.shards.tables import SHARD_TABLE, SampleRow, ShardRow, index_path, sample_table, save_table
from mgcda_dist.data.shards.write import finish_manifest
from mgcda_dist.errors import ShardError
from mgcda_dist.processors import usable_processors
from mgcda_dist.trust import below, regular

__all__ = ["index_shards", "shards_at"]


class _Indexed(NamedTuple):
    row: ShardRow
    histogram: np.ndarray
    ledger: Ledger


def index_shards(
    place: Path | str,
    names: Sequence[str] = (),
    *,
    dataset: str,
    split: str,
    label_format: str,
    kind: ShardKind = "frames",
    extensions: Extensions | None = None,
    exif: Exif | None = None,
    progress: Callable[[int], None] | None = None,
    workers: int | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Make the manifest of the tar files in a folder.

    Args:
        place: folder of tar files, or `FOLDER pipe:COMMAND`, where the manifest goes to the folder.
        names: of the shards, in order; none: those of the folder, see `shards_at`.
        dataset, split, label_format, kind: as nothing in the tar files says it.
        extensions: which members are images and labels.
        exif: use of orientation marks, as `EncodeOptions.exif`.
        progress: called with the number of tar files done since the last call.
        workers: threads; None: one per processor.
        overwrite: index a folder again that has a manifest.

    Raises:
        ShardError: no tar file, a compressed or damaged one, a sample without an image, a label that holds no ids.
        ConfigError: no such label format.
    """
    folder, command = split_place(place)
    folder = Path(folder).absolute()
    known_ids(label_format)
    if (folder / MANIFEST).exists() and not overwrite:
        raise ShardError(str(folder), f"already has a {MANIFEST}", "choose `overwrite` to index it again")
    names = list(names) or shards_at(place, None)
    if command:
        folder.mkdir(parents=True, exist_ok=True)
    extensions = extensions or Extensions()
    streamed = bool(command) or any(map(is_packed, names))
    rows: list[ShardRow] = []
    histogram = np.zeros(256, np.int64)
    ledger = Ledger() if command else _beside(folder, set(names))
    with ThreadPoolExecutor(workers or usable_processors()) as pool:
        labels = label_format if kind == "frames" else "unlabelled"
        for indexed in pool.map(partial(_index, folder, command, extensions, labels, exif), names):
            rows.append(indexed.row)
            ledger.update(indexed.ledger)
            histogram += indexed.histogram
            if progress is not None:
                progress(1)
    return finish_manifest(
        rows, folder, dataset=dataset, split=split, label_format=label_format, kind=kind,
        histogram={raw: int(count) for raw, count in enumerate(histogram) if count},
        options=({STREAMED: asdict(extensions)} if streamed else {}) | ({"exif": exif} if exif else {}),
        provenance={
            "indexed": "tar files of another tool",
            LEDGER: ledger.as_json(sum(row.num_samples for row in rows)),
        },
    )  # fmt: skip


def shards_at(place: Path | str, pattern: str | None) -> list[str]:
    """Names of the shards to index: those of a pattern with braces, or the tar files of a folder, in order.

    Raises:
        ShardError: there is none, or a command without a pattern.
    """
    folder, command = Path(split_place(place)[0]), split_place(place)[1]
    if pattern:
        return shard_names(pattern)
    if command:
        raise ShardError(str(place), "the names of its shards are not known", "give them, e.g. train-{000..127}.tar")
    files = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    tars = [name for name in files if _is_tar(name)]
    tars = [name for name in tars if name.endswith(".tar") or _unpacked_name(name) not in tars]
    if not tars:
        packed = [name for name in files if ".tar." in name]
        remedy = f"unpack the compression first, or use gzip: {packed[0]}" if packed else "check the folder"
        raise ShardError(str(folder), "no *.tar, *.tar.gz or *.tgz here", remedy)
    return tars


def _is_tar(name: str) -> bool:
    return name.endswith(".tar") or is_packed(name)


def _unpacked_name(name: str) -> str:
    return name.removesuffix(".gz").removesuffix(".tgz").removesuffix(".tar") + ".tar"


def _beside(folder: Path, names: set[str]) -> Ledger:
    """The files of a folder and its subfolders that are none of the shards that are indexed."""
    ledger = Ledger()
    for path in files_below(folder, ledger, depth=1):
        name, tar = path.name, _is_tar(path.name)
        if path.parent != folder:
            if tar:
                ledger.add("in a subfolder", path.relative_to(folder).as_posix())
        elif not (name in names or name in (MANIFEST, SHARD_TABLE) or name.endswith(".idx.npy")):
            copy = tar and _unpacked_name(name) in names
            ledger.add("a tar of this name is there, too" if copy else "not one of the shards", name)
    return ledger


def _index(
    folder: Path, command: str, extensions: Extensions, label_format: str, exif: Exif | None, name: str
) -> _Indexed:
    """Index one shard; one that can only be streamed is left in the mirror, where training will look for it."""
    table = index_path(folder / name)
    if not command and not is_packed(name):
        return _index_tar(regular(below(folder, name)), name, table, extensions, label_format, exif)
    source = StreamSource(folder, command, extensions, ShardCache.default(), label_format=label_format)
    path = source.fetch_unchecked(name)
    try:
        indexed = _index_tar(path, name, table, OWN, label_format, exif)
        final = source.path(name, indexed.row.sha256)
        os.replace(path, final)
    finally:
        path.unlink(missing_ok=True)
    source.cache.make_room(keep=final)
    return indexed._replace(ledger=source.ledger)


def _index_tar(
    path: Path, name: str, table: Path, extensions: Extensions, label_format: str, exif: Exif | None
) -> _Indexed:
    """Write the sample table of one tar file; its row of the shard table and its pixels per raw id."""
    rows: list[SampleRow] = []
    histogram = np.zeros(256, np.int64)
    ledger = Ledger()
    with path.open("rb") as file:
        for key, members in _groups(path, ledger, safe_keys=extensions.safe_keys).items():
            row = _sample_row(file.fileno(), f"{path}: {key}", key, members, extensions, label_format, ledger)
            if row is None:
                continue
            rows.append(row._replace(category=category_of(os.pread(file.fileno(), row.meta_bytes, row.meta_offset))))
            if row.label_bytes:
                where = f"{path}: {key}"
                image = os.pread(file.fileno(), row.image_bytes, row.image_offset)
                ids = decode_ids(os.pread(file.fileno(), row.label_bytes, row.label_offset), where, exif)
                read_header(image, where).refuse_unchosen(exif, ids.shape, where)
                histogram += np.bincount(ids.ravel(), minlength=256)
        digest = hashlib.file_digest(file, "sha256").digest()
    if not rows:
        raise ShardError(str(path), "no sample in it", "remove the file")
    save_table(sample_table(rows), table)
    return _Indexed(ShardRow(name, len(rows), path.stat().st_size, digest), histogram, ledger)


def _groups(path: Path, ledger: Ledger, *, safe_keys: bool) -> dict[str, dict[str, Member]]:
    """Key → extension → member, in file order."""
    members, broken = members_of(path)
    if broken:
        raise ShardError(str(path), broken, "copy it again; tars put one behind the other must be whole, too")
    groups: dict[str, dict[str, Member]] = {}
    for member in members:
        if (found := sample_member(member.name, str(path), ledger, safe=safe_keys)) is None:
            continue
        key, extension = found
        parts = groups.setdefault(key, {})
        if extension in parts:
            problem = f"two members .{extension}, {parts[extension].name} and {member.name}"
            raise ShardError(f"{path}: {key}", problem, "names must be unique in a shard, also if case does not count")
        parts[extension] = member
    return groups


def _sample_row(
    file: int, where: str, key: str, members: dict[str, Member], extensions: Extensions, label_format: str,
    ledger: Ledger,
) -> SampleRow | None:  # fmt: skip
    """The row of a sample; None for members that are none, which are counted."""

    def place(extension: str) -> tuple[int, int]:
        member = members[extension]
        if member.problem:
            raise ShardError(f"{where}: {member.name}", member.problem, REPACK)
        return member.offset, member.size

    chosen = extensions.choose(where, members, label_format, lambda extension: os.pread(file, *place(extension)[::-1]))
    used = {extension for extension in (*(chosen or ()), "json" if chosen else None) if extension in members}
    for extension, member in members.items():
        if extension not in used:
            ledger.add("not the image, the label or the JSON of a sample", member.name)
    if chosen is None:
        return None
    image, label = chosen
    if label and place(label) == place(image):
        raise ShardError(where, f"its label {members[label].name} is its image", "name the labels (`label_ext`)")
    others = [place(extension) if extension else (0, 0) for extension in (label, "json" if "json" in used else None)]
    return SampleRow(key, *place(image), extensions.kind(image), *others[0], *others[1])

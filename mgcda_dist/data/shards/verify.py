"""Verification of a shard folder: does it match its manifest, and is it fit for training?

Files first (missing, cut off, altered), then the tar's headers against the sample table, then every image and label,
and the sum of the labels. Every fault is one problem with a remedy.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mgcda_dist.choices import MANIFEST, SHARD_TABLE
from mgcda_dist.data.decode import decode_cutout, decode_ids, decode_image
from mgcda_dist.data.header import BROKEN, check_pair, read_header
from mgcda_dist.data.labels import doubtful_labels, known_ids, void_ids
from mgcda_dist.data.shards.leaks import Fingerprint, find_leaks, fingerprint
from mgcda_dist.data.shards.manifest import CHANGED, Manifest, manifest_digest
from mgcda_dist.data.shards.members import members_of, misplaced_rows
from mgcda_dist.data.shards.sources import SOURCES
from mgcda_dist.errors import ConfigError, ShardError
from mgcda_dist.processors import usable_processors

__all__ = ["Problem", "Verified", "shared_images", "verify_shards"]

_COPY = "copy the shard again from where it came, or write the folder again"


@dataclass(frozen=True)
class Problem:
    """One fault: shard file (empty: the folder), sample (empty: the file), reason, and remedy."""

    shard: str
    key: str
    why: str
    remedy: str


@dataclass(frozen=True)
class Verified:
    """The problems of a folder, and fingerprints of its images, to compare it with other folders.

    Attributes:
        problems: faults of files, tables, images and labels.
        fingerprints: of the images that could be decoded.
        histogram: int64[256], pixels per raw id over the labels that could be decoded.
    """

    problems: list[Problem]
    fingerprints: list[Fingerprint]
    histogram: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))


@dataclass(frozen=True)
class _Limits:
    """The ids that labels may hold."""

    label_format: str
    known: np.ndarray
    void: np.ndarray

    @classmethod
    def of(cls, label_format: str) -> _Limits:
        known, void = np.zeros(256, bool), np.zeros(256, bool)
        known[list(known_ids(label_format))] = True
        void[list(void_ids(label_format))] = True
        return cls(label_format, known, void)


def verify_shards(
    manifest: Manifest,
    *,
    partial: bool = False,
    contents: bool = True,
    progress: Callable[[int], None] | None = None,
    workers: int | None = None,
) -> Verified:
    """Check a shard folder.

    Args:
        partial: a part of a known dataset is fine.
        contents: decode every image and label; False: files, checksums and tables only.
        progress: called with the number of samples checked since the last call.
        workers: threads; None: one per processor.

    Raises:
        ShardError: the manifest or shard table itself cannot be read.
    """
    table_problems, problems = _table_problems(manifest, partial=partial), list[Problem]()
    histogram = np.zeros(256, np.int64)
    try:
        limits = _Limits.of(manifest.label_format)
        if doubt := doubtful_labels(manifest.label_format, manifest.label_histogram):
            table_problems.append(Problem(MANIFEST, "", *doubt))
    except ConfigError as error:  # a manifest that somebody changed; nothing says which ids its labels may hold
        table_problems.append(Problem(MANIFEST, "", error.problem, error.remedy))
        limits = _Limits("", np.ones(256, bool), np.zeros(256, bool))
    fingerprints: list[Fingerprint] = []
    keys: set[bytes] = set()

    def check(shard: int) -> Verified:
        return _check_shard(manifest, shard, limits if contents else None)

    with ThreadPoolExecutor(workers or usable_processors()) as pool:
        for shard, found in enumerate(pool.map(check, range(manifest.num_shards))):
            problems += found.problems
            fingerprints += found.fingerprints
            histogram += found.histogram
            problems += _twice(manifest, shard, keys)
            if progress is not None:
                progress(int(manifest.shard_sizes[shard]))
    if contents and not problems:  # a label that is lost or unreadable is missing in the sum, and is named already
        table_problems += _histogram_problems(manifest, histogram)
    return Verified(table_problems + problems, fingerprints, histogram)


def shared_images(first: Verified, second: Verified) -> Iterator[Problem]:
    """One problem per image of the second folder that is in the first, too."""
    for leak in find_leaks(first.fingerprints, second.fingerprints):
        same = "the same image as" if leak.bits is None else f"looks the same ({leak.bits} of 256 bits differ) as"
        why = f"{same} {leak.first.key} in {leak.first.folder}"
        yield Problem("", leak.second.key, why, "keep it in one split only")


def _table_problems(manifest: Manifest, *, partial: bool) -> list[Problem]:
    """Totals, digest, and the official number of frames."""
    problems: list[Problem] = []
    total = int(manifest.shard_sizes.sum(dtype=np.int64))
    if total != manifest.num_samples:
        why = f"the shard table counts {total} samples, the manifest {manifest.num_samples}"
        problems.append(Problem(SHARD_TABLE, "", why, CHANGED))
    num_bytes = int(manifest.table["num_bytes"].sum(dtype=np.int64))
    if num_bytes != manifest.num_bytes:
        why = f"the shard table counts {num_bytes} bytes, the manifest {manifest.num_bytes}"
        problems.append(Problem(SHARD_TABLE, "", why, CHANGED))
    if manifest_digest(manifest.table, *manifest.identity) != manifest.digest:
        problems.append(Problem(SHARD_TABLE, "", "the shard table does not have the manifest's digest", CHANGED))
    source = SOURCES.get(manifest.dataset)
    official = source.counts.get(manifest.split) if source else None
    left_out = len(manifest.provenance.get("selection", {}).get("skip", []))
    if official is not None and official != manifest.num_samples + left_out and not partial:
        why = f"{manifest.num_samples} samples, but {manifest.dataset} {manifest.split} has {official}"
        why += f" ({left_out} left out by `skip`)" if left_out else ""
        problems.append(Problem(MANIFEST, "", why, "complete the source and write again, or allow a part (`partial`)"))
    return problems + list(_strays(manifest))


def _strays(manifest: Manifest) -> Iterator[Problem]:
    """Tar files of a local folder that the shard table does not count: other WebDataset readers would read them."""
    if manifest.remote:
        return
    counted = set(manifest.table["name"].tolist())
    for path in sorted(manifest.folder.glob("*.tar")):
        if path.name.encode() not in counted:
            remedy = "remove it, or index the folder again"
            yield Problem(path.name, "", "it is here, but not in the shard table", remedy)


def _histogram_problems(manifest: Manifest, found: np.ndarray) -> Iterator[Problem]:
    counted = np.zeros(256, np.int64)
    for raw, count in manifest.label_histogram.items():
        counted[raw % 256] = count
    differing = np.flatnonzero(counted != found)
    if len(differing):
        listing = ", ".join(map(str, differing[:8])) + (" …" if len(differing) > 8 else "")
        why = f"the labels hold other ids, or other numbers of pixels, than the manifest counts: {listing}"
        yield Problem(MANIFEST, "", why, _COPY)


def _twice(manifest: Manifest, shard: int, seen: set[bytes]) -> Iterator[Problem]:
    try:
        keys = manifest.shard_index(shard)["key"].tolist()
    except ShardError:
        return  # reported with the shard
    for key in keys:
        if key in seen:
            yield Problem(
                manifest.shard_path(shard).name, key.decode(), "a second sample has this key", "write the folder again"
            )
        seen.add(key)


def _check_shard(manifest: Manifest, shard: int, limits: _Limits | None) -> Verified:
    problems: list[Problem] = []
    try:
        path = manifest.shard_path(shard)
    except ShardError as error:
        name = manifest.table[shard]["name"].decode(errors="replace")
        return Verified([Problem(name, "", error.problem, error.remedy)], [])
    if not path.is_file():
        return Verified([Problem(path.name, "", "the file is missing", _COPY)], [])
    try:
        index = manifest.shard_index(shard)
    except ShardError as error:
        return Verified([Problem(path.name, "", f"its sample table: {error.problem}", _COPY)], [])
    size, expected = path.stat().st_size, int(manifest.table[shard]["num_bytes"])
    if size == 0:
        return Verified([Problem(path.name, "", "the file is empty", _COPY)], [])
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if size < expected:
            whole = _ends(index) <= size
            lost = index[~whole]
            why = f"cut off: {size} bytes instead of {expected}; {len(lost)} of its {len(index)} samples are lost"
            problems.append(Problem(path.name, "", why + _from(lost), _COPY))
            index = index[whole]
        elif size > expected:  # what is behind the end mark would be a second problem
            problems.append(Problem(path.name, "", f"too long: {size} bytes instead of {expected}", _COPY))
        else:
            if hashlib.sha256(data).digest() != manifest.table[shard]["sha256"].tobytes():
                problems.append(Problem(path.name, "", "altered: the checksum is not the manifest's", _COPY))
            problems += _tar_problems(path, index, data)
        found = Verified(problems, [])
        if limits is not None:
            for sample in index:
                problems += _check_sample(manifest, path.name, sample, data, limits, found)
    return found


def _ends(index: np.ndarray) -> np.ndarray:
    """The ends of image and label of each sample."""
    parts = [index[f"{part}_offset"] + index[f"{part}_bytes"] for part in ("image", "label")]
    return np.max(parts, axis=0)


def _from(samples: np.ndarray) -> str:
    return f", from {samples[0]['key'].decode()} on" if len(samples) else ""


def _tar_problems(path: Path, index: np.ndarray, data: mmap.mmap) -> Iterator[Problem]:
    """At most one problem: the tar file is broken, or its headers and the sample table disagree."""
    members, broken = members_of(path)
    misplaced = misplaced_rows(index, members, data)
    if len(misplaced) or broken:
        why = f"{broken}; " if broken else ""
        why += f"{len(misplaced)} of its {len(index)} samples are not where the sample table says"
        yield Problem(path.name, "", why + _from(misplaced), _COPY)


def _check_sample(
    manifest: Manifest, shard: str, row: np.void, data: mmap.mmap, limits: _Limits, found: Verified
) -> Iterator[Problem]:
    """Problems of one sample; its fingerprint and the ids of its label are added to `found`."""
    key = row["key"].decode()

    def problem(why: str, remedy: str) -> Problem:
        return Problem(shard, key, why, remedy)

    start, size = int(row["image_offset"]), int(row["image_bytes"])
    encoded = data[start : start + size]
    try:
        decode = decode_cutout if manifest.kind == "objects" else decode_image
        image = decode(encoded, key, manifest.exif)
    except ShardError as error:
        yield problem(error.problem, _COPY if error.remedy == BROKEN else error.remedy)
        return
    if manifest.kind == "objects":
        if not (image[..., 3] > 127).any():
            yield problem("nothing of the object is visible", "write object shards from a source of objects")
        found.fingerprints.append(fingerprint(manifest, key, encoded, None))
        return
    found.fingerprints.append(fingerprint(manifest, key, encoded, image))
    start, size = int(row["label_offset"]), int(row["label_bytes"])
    if size:
        try:
            ids = decode_ids(data[start : start + size], key, manifest.exif)
            check_pair(read_header(encoded, key), ids.shape, manifest.exif, key)
        except ShardError as error:
            yield problem(error.problem, _COPY if error.remedy == BROKEN else error.remedy)
            return
        yield from (problem(*pair) for pair in _label_problems(ids, limits, found.histogram))
    elif manifest.label_histogram:  # others have labels
        yield problem(
            "no label", "complete the labels and write again, or without any (`unlabelled` of `mgcda shards write`)"
        )


def _label_problems(ids: np.ndarray, limits: _Limits, histogram: np.ndarray) -> Iterator[tuple[str, str]]:
    """Problems of the ids of a label, with remedies; they are added to the histogram."""
    counts = np.bincount(ids.ravel(), minlength=256)
    histogram += counts
    unknown = np.flatnonzero((counts > 0) & ~limits.known)
    if len(unknown):
        share = counts[unknown].sum() / ids.size
        listing = ", ".join(map(str, unknown[:8])) + (" …" if len(unknown) > 8 else "")
        why = f"ids {listing} are none of {limits.label_format}'s ({share:.1%} of the pixels)"
        if share > 0.5 and len(unknown) > 2:
            why += ": it looks like colours turned to grey"
        yield why, "write again with the right `label_format` of `mgcda shards write`; colour maps are no labels"
    elif not (counts > 0)[~limits.void].any():
        yield "every pixel is void", "remove the frame, or write no labels (`unlabelled` of `mgcda shards write`)"

"""The reader of a data set, and functions for readers of pairs of images and labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os.path import isfile  # unlike Path.is_file, also for names that are too long
from pathlib import Path

from mgcda_dist.data.shards.keys import safe_key
from mgcda_dist.data.shards.manifest import Kind
from mgcda_dist.data.shards.record import LazySamples, SourceSample
from mgcda_dist.errors import ShardError

__all__ = [
    "IMAGE_SUFFIXES",
    "FramePair",
    "Source",
    "SourceSet",
    "frame_set",
    "images_in",
    "read_pair",
    "safe_key",
    "unpacked",
]

IMAGE_SUFFIXES = {".jpg": "jpg", ".jpeg": "jpg", ".png": "png", ".webp": "webp"}


@dataclass(frozen=True)
class SourceSet:
    """The samples of a split, the raw ids their labels hold, and metadata for the provenance (a version).

    Attributes:
        passed_over: reason → how many entries were left out for it.
    """

    samples: LazySamples
    label_format: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    passed_over: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """A dataset in its own layout.

    Attributes:
        name: as in `mgcda shards write NAME`.
        open: (folder, split, **options) → the samples; raises ShardError where the layout does not fit.
        url, licence: origin and terms.
        kind: scenes, or objects to paste.
        options: names of the options that `open` takes.
        counts: official number of samples per split, which verification compares.
    """

    name: str
    open: Callable[..., SourceSet]
    url: str
    licence: str
    kind: Kind = "frames"
    options: tuple[str, ...] = ("unlabelled",)
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class FramePair:
    """A frame on disk: its key, its image and, unless unlabelled, its label."""

    key: str
    image: Path
    label: Path | None = None


def images_in(folder: Path, layout: str, *, below: bool = False) -> list[Path]:
    """The images of a folder in order of their names, `below`: of its subfolders, too.

    Raises:
        ShardError: no such folder, or no image in it.
    """
    if not folder.is_dir():
        near = sorted(path.name for path in folder.parent.iterdir() if path.is_dir()) if folder.parent.is_dir() else []
        listing = f"; there is {', '.join(near[:8])}" if near else ""
        raise ShardError(str(folder), "no such folder", f"expected {layout}{listing}")
    found = folder.rglob("*") if below else folder.iterdir()
    # macOS leaves hidden files beside each one (`._NAME.png`) when it packs an archive.
    images = sorted(p for p in found if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
    if not images:
        raise ShardError(str(folder), "no image here", f"expected {layout}")
    return images


def unpacked(folder: Path, below: str) -> Path:
    """`folder/below`, or `folder/ARCHIVE/below` where an archive was unpacked into a folder of its own.

    Raises:
        ShardError: there are several.
    """
    if (folder / below).is_dir():
        return folder / below
    found = sorted(path for path in folder.glob(f"*/{below}") if path.is_dir())
    if len(found) > 1:
        listing = ", ".join(path.relative_to(folder).as_posix() for path in found)
        raise ShardError(
            str(folder), f"{below} is there {len(found)} times: {listing}", "give the folder of one, or merge them"
        )
    return found[0] if found else folder / below


def read_pair(pair: FramePair) -> SourceSample:
    """The encoded bytes of a pair."""
    label = None if pair.label is None else pair.label.read_bytes()
    return SourceSample(pair.key, pair.image.read_bytes(), IMAGE_SUFFIXES[pair.image.suffix.lower()], label)


def frame_set(
    pairs: Sequence[FramePair],
    label_format: str,
    *,
    unlabelled: bool = False,
    read: Callable[[FramePair], SourceSample] = read_pair,
) -> SourceSet:
    """The set of those pairs.

    Args:
        pairs: with the expected place of each label.
        unlabelled: leave the labels out, even if they exist.

    Raises:
        ShardError: a label file is missing.
    """
    if unlabelled:
        return SourceSet(LazySamples([FramePair(pair.key, pair.image) for pair in pairs], read), "unlabelled")
    missing = [pair.label for pair in pairs if pair.label is not None and not isfile(pair.label)]
    if missing:
        problem = f"no such label file ({len(missing)} of {len(pairs)} images have none)"
        raise ShardError(str(missing[0]), problem, "complete the labels, or choose `unlabelled` to write images only")
    return SourceSet(LazySamples(pairs, read), label_format)

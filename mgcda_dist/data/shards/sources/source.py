"""The reader of a data set, and functions for readers of pairs of images and labels."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from os.path import isfile  # unlike Path.is_file, also for names that are too long
from pathlib import Path

from mgcda_dist.choices import ShardKind
from mgcda_dist.data.ledger import Ledger
from mgcda_dist.data.listing import IMAGE_SUFFIXES, files_below
from mgcda_dist.data.shards.keys import safe_key
from mgcda_dist.data.shards.record import LazySamples, SourceSample
from mgcda_dist.errors import ShardError

__all__ = [
    "FramePair",
    "Root",
    "Source",
    "SourceSet",
    "frame_set",
    "images_in",
    "passed_over",
    "read_pair",
    "safe_key",
    "unpacked",
]


@dataclass(frozen=True)
class SourceSet:
    """The samples of a split.

    Attributes:
        label_format: the raw ids that their labels hold.
        metadata: for the provenance, a version for instance.
        passed_over: what the folders hold beside the samples.
    """

    samples: LazySamples
    label_format: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    passed_over: Ledger = field(default_factory=Ledger)


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
    kind: ShardKind = "frames"
    options: tuple[str, ...] = ("unlabelled",)
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class FramePair:
    """A frame on disk: its key, its image and, unless unlabelled, its label; `other`: a second file for its label."""

    key: str
    image: Path
    label: Path | None = None
    other: Path | None = None


@dataclass(frozen=True)
class Root:
    """A folder whose every file is accounted for.

    Attributes:
        why: pictures in it that belong to no sample are passed over.
        below: the layout has subfolders; else only pictures in them are counted.
    """

    folder: Path
    why: str = "not named as a frame of this layout"
    below: bool = False


def images_in(folder: Path, layout: str, *, below: bool = False) -> list[Path]:
    """The images of a folder in order of their names, `below`: of its subfolders, too.

    Raises:
        ShardError: no such folder, or no image in it.
    """
    if not folder.is_dir():
        near = sorted(path.name for path in folder.parent.iterdir() if path.is_dir()) if folder.parent.is_dir() else []
        listing = f"; there is {', '.join(near[:8])}" if near else ""
        raise ShardError(str(folder), "no such folder", f"expected {layout}{listing}")
    found = files_below(folder, depth=None if below else 0)
    images = [path for path in found if path.suffix.lower() in IMAGE_SUFFIXES]
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
    image_ext = IMAGE_SUFFIXES[pair.image.suffix.lower()]
    return SourceSample(
        pair.key, pair.image.read_bytes(), image_ext, label, image_file=pair.image, label_file=pair.label
    )


def frame_set(
    pairs: Sequence[FramePair],
    roots: Sequence[Root],
    label_format: str,
    *,
    unlabelled: bool = False,
    read: Callable[[FramePair], SourceSample] = read_pair,
    aside: Callable[[Path], bool] = lambda path: False,
    check: Callable[[Sequence[FramePair]], None] = lambda pairs: None,
) -> SourceSet:
    """The set of those pairs, whose labels are checked when it is known which are written.

    Args:
        pairs: with the expected place of each label.
        roots, aside: as for `passed_over`.
        unlabelled: leave the labels out, even if they exist.
        check: of a layout's own, before that of the labels; raises `ShardError`.
    """
    used = {path for pair in pairs for path in (pair.image, pair.label) if path is not None}
    ledger = passed_over(roots, used, aside)
    if unlabelled:
        images = [FramePair(pair.key, pair.image) for pair in pairs]
        return SourceSet(LazySamples(images, read, check), "unlabelled", passed_over=ledger)

    def check_all(chosen: Sequence[FramePair]) -> None:
        check(chosen)
        _check_labels(chosen, pairs)

    return SourceSet(LazySamples(pairs, read, check_all), label_format, passed_over=ledger)


def passed_over(
    roots: Sequence[Root], used: Iterable[Path], aside: Callable[[Path], bool] = lambda path: False
) -> Ledger:
    """The files in folders beside those that are used.

    Args:
        roots: the folders.
        used: images and labels.
        aside: files that the layout has for other purposes, or for another split; they are not counted.
    """
    ledger, used = Ledger(), set(used)
    for root in roots:
        for path in files_below(root.folder, ledger, depth=None if root.below else 1):
            picture = path.suffix.lower() in IMAGE_SUFFIXES
            inside = root.below or path.parent == root.folder
            if path in used or aside(path) or not (picture or inside):
                continue
            why = "a suffix that is not read" if not picture else root.why if inside else "in a folder below the images"
            ledger.add(why, path.relative_to(root.folder.parent).as_posix())
    return ledger


def _check_labels(pairs: Sequence[FramePair], every: Sequence[FramePair]) -> None:
    """Refuse a label that is missing, ambiguous, that of two images, or an image of the set.

    Args:
        pairs: those that are written.
        every: of the split.
    """
    for pair in pairs:
        if pair.other is not None:
            problem = f"{pair.other.name} is there, too, so which is the label of {pair.image.stem}?"
            raise ShardError(str(pair.label), problem, "leave one of them")
    missing = [pair for pair in pairs if pair.label is not None and not isfile(pair.label)]
    if missing:
        problem = f"no such label file ({len(missing)} of {len(pairs)} images have none)"
        remedy = (
            "complete the labels, choose `unlabelled` to write images only, or leave these images out by their keys "
            f"(`skip`), here {missing[0].key}"
        )
        raise ShardError(str(missing[0].label), problem, remedy)
    owners = Counter(pair.label for pair in pairs if pair.label is not None)
    images = {os.path.realpath(pair.image) for pair in every}
    for pair in pairs:
        if pair.label is None:
            continue
        if owners[pair.label] > 1:
            owned = ", ".join(other.image.name for other in pairs if other.label == pair.label)
            raise ShardError(str(pair.label), f"it would be the label of {owned}", "give each image a label of its own")
        if os.path.realpath(pair.label) in images:
            raise ShardError(str(pair.label), "it is an image, and would be a label, too", "name the folder of labels")

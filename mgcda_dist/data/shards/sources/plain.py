"""Folders without a dataset's layout: `images/` + `labels/`, or `NAME.jpg` beside `NAME_label.png`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from pathlib import Path

from mgcda_dist.data.labels import known_ids
from mgcda_dist.data.listing import LOSSLESS_SUFFIXES, files_below
from mgcda_dist.data.shards.sources.source import FramePair, Root, Source, SourceSet, frame_set, images_in, safe_key

__all__ = ["GTA5", "PLAIN", "ROAD_ANOMALY", "open_plain", "plain_layout"]

_LAYOUT = "images/NAME.jpg and labels/NAME.png (with or without SPLIT/ above or below), or NAME.jpg and NAME_label.png"
_ROAD_ANOMALY = "frames/NAME.jpg and frames/NAME.labels/labels_semantic.png"
_ENDINGS = ("_label", "_labels", "_labelIds", "_gt")


def plain_layout(folder: Path, split: str) -> tuple[list[FramePair], list[Root]]:
    """Image and label pairs of a plain folder, in the order of their names, and the folders they lie in.

    A label has the name of its image, with or without one of the known endings; a file that is another image's by its
    whole name is never a label by an ending.

    Raises:
        ShardError: the folder has neither layout.
    """
    top = folder / split if (folder / split).is_dir() else folder
    if not (top / "images").is_dir():
        return _side_by_side(top)
    images, labels = top / "images", top / "labels"
    if (images / split).is_dir():
        images, labels = images / split, labels / split
    stems = {path: _stem(path, images) for path in images_in(images, _LAYOUT, below=True)}
    names = set(stems.values())
    found = _labels_in(labels, names, ("", *_ENDINGS), names, below=True)
    pairs = [
        FramePair(safe_key(stem), path, *found.get(stem, [labels / f"{stem}.png"])[:2]) for path, stem in stems.items()
    ]
    return pairs, [Root(images, below=True), Root(labels, "a label without an image", below=True)]


def _side_by_side(top: Path) -> tuple[list[FramePair], list[Root]]:
    """Images beside their labels, which have an ending; a picture with a label of its own is an image in any case."""
    pictures = {path: path.stem for path in images_in(top, _LAYOUT)}
    own = _labels_in(top, pictures.values(), _ENDINGS)
    stems = {path: stem for path, stem in pictures.items() if stem in own or not _is_label(path)}
    found = {stem: labels for stem, labels in own.items() if labels[0] not in stems}
    pairs = [
        FramePair(safe_key(stem), path, *found.get(stem, [top / f"{stem}{_ENDINGS[0]}.png"])[:2])
        for path, stem in stems.items()
    ]
    return pairs, [Root(top, "named as a label, but there is no such image")]


def _labels_in(
    folder: Path, stems: Iterable[str], endings: Sequence[str], images: Container[str] = (), *, below: bool = False
) -> dict[str, list[Path]]:
    """Stem of an image → its labels, by the first ending that is there; names of `images` are theirs alone."""
    by_name: defaultdict[str, list[Path]] = defaultdict(list)
    for path in files_below(folder, depth=None if below else 0):
        if path.suffix.lower() in LOSSLESS_SUFFIXES:
            by_name[_stem(path, folder)].append(path)
    found: dict[str, list[Path]] = {}
    for stem in stems:
        names = (f"{stem}{ending}" for ending in endings)
        labels = next((by_name[name] for name in names if name in by_name and (name == stem or name not in images)), [])
        if labels:
            found[stem] = labels
    return found


def _is_label(path: Path) -> bool:
    return path.suffix.lower() in LOSSLESS_SUFFIXES and path.stem.endswith(_ENDINGS)


def _stem(path: Path, folder: Path) -> str:
    """Path below a folder without the suffix."""
    return path.relative_to(folder).with_suffix("").as_posix()


def open_plain(folder: Path, split: str, *, label_format: str = "binary", unlabelled: bool = False) -> SourceSet:
    """The pairs of a plain folder.

    Raises:
        ShardError: the folder has no such layout.
        ConfigError: no such label format.
    """
    known_ids(label_format)  # refuses a name that is no format, before anything is written
    return frame_set(*plain_layout(folder, split), label_format, unlabelled=unlabelled)


def _open_gta5(folder: Path, split: str, *, unlabelled: bool = False) -> SourceSet:
    """Plain folders, with the label ids of Cityscapes, and 34."""
    return open_plain(folder, split, label_format="gta5_ids", unlabelled=unlabelled)


def _open_road_anomaly(folder: Path, split: str, *, unlabelled: bool = False) -> SourceSet:
    frames = folder / "frames"
    pairs = [
        FramePair(safe_key(path.stem), path, frames / f"{path.stem}.labels" / "labels_semantic.png")
        for path in images_in(frames, _ROAD_ANOMALY)
    ]
    return frame_set(
        pairs, [Root(frames)], "road_anomaly", unlabelled=unlabelled,
        aside=lambda path: path.parent.name.endswith(".labels"),
    )  # fmt: skip


PLAIN = Source(
    "plain",
    open_plain,
    url="your own",
    licence="your own",
    options=("unlabelled", "label_format"),
)

GTA5 = Source(
    "gta5",
    _open_gta5,
    url="https://download.visinf.tu-darmstadt.de/data/from_games",
    licence="research and education",
)

ROAD_ANOMALY = Source(
    "road_anomaly",
    _open_road_anomaly,
    url="https://www.epfl.ch/labs/cvlab/data/road-anomaly",
    licence="photos: see credits.txt; labels CC BY-SA 4.0",
    counts={"test": 60},
)

"""Folders without a dataset's layout: `images/` + `labels/`, or `NAME.jpg` beside `NAME_label.png`."""

from __future__ import annotations

from os.path import isfile
from pathlib import Path

from mgcda_dist.data.labels import known_ids
from mgcda_dist.data.shards.sources.source import FramePair, Source, SourceSet, frame_set, images_in, safe_key

__all__ = ["GTA5", "PLAIN", "ROAD_ANOMALY", "open_plain", "plain_pairs"]

_LAYOUT = "images/NAME.jpg and labels/NAME.png (with or without SPLIT/ above or below), or NAME.jpg and NAME_label.png"
_ROAD_ANOMALY = "frames/NAME.jpg and frames/NAME.labels/labels_semantic.png"
_LABEL_ENDINGS = ("", "_label", "_labels", "_labelIds", "_gt")


def plain_pairs(folder: Path, split: str) -> list[FramePair]:
    """Image and label pairs of a plain folder, in the order of their names.

    Raises:
        ShardError: the folder has neither layout.
    """
    top = folder / split if (folder / split).is_dir() else folder
    if not (top / "images").is_dir():
        images = [path for path in images_in(top, _LAYOUT) if not path.stem.endswith(_LABEL_ENDINGS[1:])]
        return [FramePair(safe_key(path.stem), path, _label_of(path.stem, top, _LABEL_ENDINGS[1:])) for path in images]
    images, labels = top / "images", top / "labels"
    if (images / split).is_dir():
        images, labels = images / split, labels / split
    stems = [
        (path, path.relative_to(images).with_suffix("").as_posix()) for path in images_in(images, _LAYOUT, below=True)
    ]
    return [FramePair(safe_key(stem), path, _label_of(stem, labels, _LABEL_ENDINGS)) for path, stem in stems]


def open_plain(folder: Path, split: str, *, label_format: str = "binary", unlabelled: bool = False) -> SourceSet:
    """The pairs of a plain folder.

    Raises:
        ShardError: the folder has no such layout, or labels are missing.
        ConfigError: no such label format.
    """
    known_ids(label_format)  # refuses a name that is no format, before anything is written
    return frame_set(plain_pairs(folder, split), label_format, unlabelled=unlabelled)


def _label_of(stem: str, folder: Path, endings: tuple[str, ...]) -> Path:
    """The first candidate that exists; else the first, for the error that will name it."""
    candidates = [folder / f"{stem}{ending}.png" for ending in endings]
    return next((path for path in candidates if isfile(path)), candidates[0])


def _open_gta5(folder: Path, split: str, *, unlabelled: bool = False) -> SourceSet:
    """Plain folders, with the label ids of Cityscapes, and 34."""
    return open_plain(folder, split, label_format="gta5_ids", unlabelled=unlabelled)


def _open_road_anomaly(folder: Path, split: str, *, unlabelled: bool = False) -> SourceSet:
    frames = folder / "frames"
    pairs = [
        FramePair(safe_key(path.stem), path, frames / f"{path.stem}.labels" / "labels_semantic.png")
        for path in images_in(frames, _ROAD_ANOMALY)
    ]
    return frame_set(pairs, "road_anomaly", unlabelled=unlabelled)


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

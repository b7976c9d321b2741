"""SegmentMeIfYouCan: RoadAnomaly21 and RoadObstacle21, labels of the validation frames only."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from mgcda_dist.data.shards.sources.source import FramePair, Root, Source, SourceSet, frame_set, images_in, safe_key
from mgcda_dist.errors import ShardError

__all__ = ["ROAD_ANOMALY_21", "ROAD_OBSTACLE_21"]

_LAYOUT = "images/NAME.jpg (or .webp) and labels_masks/NAME_labels_semantic.png, NAME of val starting with validation"


def _open(folder: Path, split: str, *, archive: str, unlabelled: bool = False) -> SourceSet:
    """The `val` frames are those named so, the `test` frames all others."""
    if split not in ("val", "test"):
        raise ShardError(str(folder), f"no split {split!r} here", "expected val, or test, `unlabelled`")
    top = folder / archive if (folder / archive).is_dir() else folder
    pairs = [
        FramePair(safe_key(path.stem), path, top / "labels_masks" / f"{path.stem}_labels_semantic.png")
        for path in images_in(top / "images", _LAYOUT)
        if path.stem.startswith("validation") == (split == "val")
    ]
    if not pairs:
        raise ShardError(str(top / "images"), f"no image of {split} here", f"expected {_LAYOUT}")

    def other_split(path: Path) -> bool:
        return path.stem.startswith("validation") != (split == "val")

    return frame_set(pairs, [Root(top / "images")], "binary", unlabelled=unlabelled, aside=other_split)


ROAD_ANOMALY_21 = Source(
    "road_anomaly21",
    partial(_open, archive="dataset_AnomalyTrack"),
    url="https://segmentmeifyoucan.com/datasets",
    licence="photos of many authors: see LICENSE.txt of the archive",
    counts={"val": 10, "test": 100},
)

ROAD_OBSTACLE_21 = Source(
    "road_obstacle21",
    partial(_open, archive="dataset_ObstacleTrack"),
    url="https://segmentmeifyoucan.com/datasets",
    licence="see LICENSE.txt of the archive",
    counts={"val": 30},
)
"""The benchmark leaves night and snow out of its 327 test frames; the archive has them, so no number is insisted on."""

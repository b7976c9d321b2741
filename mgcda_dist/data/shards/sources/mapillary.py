"""Mapillary Vistas, v1.2 and v2.0: palette PNGs whose indices are the class ids."""

from __future__ import annotations

from pathlib import Path

from mgcda_dist.data.shards.sources.source import FramePair, Root, Source, SourceSet, frame_set, images_in, safe_key
from mgcda_dist.errors import ShardError

__all__ = ["MAPILLARY"]

_LAYOUT = "PART/images/NAME.jpg and PART/{v1.2,v2.0}/labels/NAME.png (first release: PART/labels/NAME.png)"
_PARTS = {"train": "training", "val": "validation", "test": "testing"}
_FOLDERS = {"mapillary_v20": "v2.0/labels", "mapillary_v12": "v1.2/labels"}


def _open(folder: Path, split: str, *, label_format: str | None = None, unlabelled: bool = False) -> SourceSet:
    """The frames of a split.

    Args:
        split: `train`, `val` or `test`, or the folder's own name.
        label_format: `mapillary_v12` or `mapillary_v20`; None: the newest that is there.
        unlabelled: write images only.
    """
    if label_format not in (None, *_FOLDERS):
        raise ShardError(str(folder), f"no Vistas labels of format {label_format!r}", f"choose {', '.join(_FOLDERS)}")
    top = folder / _PARTS.get(split, split)
    newest = next((name for name, below in _FOLDERS.items() if (top / below).is_dir()), "mapillary_v12")
    chosen = label_format or newest
    labels = top / _FOLDERS[chosen]
    if chosen == "mapillary_v12" and not labels.is_dir():
        labels = top / "labels"
    pairs = [FramePair(safe_key(p.stem), p, labels / f"{p.stem}.png") for p in images_in(top / "images", _LAYOUT)]
    return frame_set(pairs, [Root(top / "images")], chosen, unlabelled=unlabelled)


MAPILLARY = Source(
    "mapillary",
    _open,
    url="https://www.mapillary.com/dataset/vistas",
    licence="research edition: CC BY-NC-SA 4.0",
    options=("unlabelled", "label_format"),
    counts={"train": 18000, "val": 2000, "test": 5000},
)
"""The test split has no labels: write it `unlabelled`."""

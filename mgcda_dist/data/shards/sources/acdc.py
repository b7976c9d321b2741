"""ACDC: frames of fog, night, rain and snow, with Cityscapes label ids."""

from __future__ import annotations

from pathlib import Path

from mgcda_dist.data.shards.sources.source import (
    FramePair,
    Root,
    Source,
    SourceSet,
    frame_set,
    images_in,
    safe_key,
    unpacked,
)

__all__ = ["ACDC"]

_LAYOUT = (
    "rgb_anon/CONDITION/SPLIT/DRIVE/*_rgb_anon.png and gt/CONDITION/SPLIT/DRIVE/*_gt_labelIds.png, "
    "CONDITION of fog, night, rain, snow"
)
_CONDITIONS = ("fog", "night", "rain", "snow")


def _open(folder: Path, split: str, *, unlabelled: bool = False) -> SourceSet:
    """The frames of a split under all conditions that are there, or of one condition (`night/val`)."""
    rgb, labels = unpacked(folder, "rgb_anon"), unpacked(folder, "gt")
    condition, _, part = split.rpartition("/")
    conditions = [condition] if condition else [name for name in _CONDITIONS if (rgb / name).is_dir()]
    pairs: list[FramePair] = []
    for name in conditions or _CONDITIONS:
        for image in images_in(rgb / name / part, _LAYOUT, below=True):
            place = image.relative_to(rgb).parent
            stem = image.stem.removesuffix("_rgb_anon")
            key = safe_key(f"{name}/{image.parent.name}/{stem}")
            pairs.append(FramePair(key, image, labels / place / f"{stem}_gt_labelIds.png"))
    roots = [Root(rgb / name / part, below=True) for name in conditions]
    return frame_set(pairs, roots, "cityscapes_ids", unlabelled=unlabelled)


ACDC = Source(
    "acdc",
    _open,
    url="https://acdc.vision.ee.ethz.ch",
    licence="ACDC licence, non-commercial",
    counts={"train": 1600, "val": 406, "test": 2000},
)
"""The test split has no labels: write it `unlabelled`. `CONDITION/SPLIT` gives one condition."""

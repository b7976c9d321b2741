"""StreetHazards: rendered towns, anomalies in the test split only."""

from __future__ import annotations

from pathlib import Path

from mgcda_dist.data.shards.sources.source import FramePair, Root, Source, SourceSet, frame_set, images_in, safe_key

__all__ = ["STREET_HAZARDS"]

_LAYOUT = "train/images/{training,validation}/TOWN/N.png, test/images/test/TOWN/N.png, and annotations/ beside images/"
_PLACES = {"train": ("train", "training"), "val": ("train", "validation"), "test": ("test", "test")}
"""Split → part of the release, and the folder in it."""


def _open(folder: Path, split: str, *, unlabelled: bool = False) -> SourceSet:
    part, name = _PLACES.get(split, (split, split))
    archive = folder / f"streethazards_{part}"
    top = (archive if archive.is_dir() else folder) / part
    images = top / "images" / name
    pairs = [
        FramePair(safe_key(stem), path, top / "annotations" / name / f"{stem}.png")
        for path in images_in(images, _LAYOUT, below=True)
        for stem in [path.relative_to(images).with_suffix("").as_posix()]
    ]
    return frame_set(pairs, [Root(images, below=True)], "street_hazards", unlabelled=unlabelled)


STREET_HAZARDS = Source(
    "street_hazards",
    _open,
    url="https://github.com/hendrycks/anomaly-seg",
    licence="not stated: see the repository",
    counts={"train": 5125, "val": 1031, "test": 1500},
)

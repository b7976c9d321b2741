"""SYNTHIA-RAND-CITYSCAPES: rendered frames, 16-bit labels with the class in the first channel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from mgcda_dist.data.decode import decode_channels
from mgcda_dist.data.shards.encode import png_bytes
from mgcda_dist.data.shards.record import SourceSample
from mgcda_dist.data.shards.sources.source import (
    FramePair,
    Root,
    Source,
    SourceSet,
    frame_set,
    images_in,
    read_pair,
    safe_key,
)
from mgcda_dist.errors import ShardError

__all__ = ["SYNTHIA"]

_LAYOUT = "RGB/NAME.png and GT/LABELS/NAME.png (with or without RAND_CITYSCAPES/ above)"


def _open(folder: Path, split: str, *, unlabelled: bool = False) -> SourceSet:
    """All frames: the release has no splits, so any but `train` is refused."""
    if split != "train":
        raise ShardError(str(folder), f"SYNTHIA has no split {split!r}", "the split train is all of it")
    top = folder / "RAND_CITYSCAPES" if (folder / "RAND_CITYSCAPES").is_dir() else folder
    labels = top / "GT" / "LABELS"
    pairs = [FramePair(safe_key(p.stem), p, labels / f"{p.stem}.png") for p in images_in(top / "RGB", _LAYOUT)]
    return frame_set(pairs, [Root(top / "RGB")], "synthia_ids", unlabelled=unlabelled, read=_read)


def _read(pair: FramePair) -> SourceSample:
    """The pair, its label brought to 8-bit class ids; the other channels hold instances."""
    sample = read_pair(pair)
    if sample.label is None:
        return sample
    label = decode_channels(sample.label, str(pair.label))
    if label.ndim == 2:
        return sample
    ids = label[..., 0]
    if ids.size and int(ids.max()) > 255:
        raise ShardError(str(pair.label), f"the label holds the class {int(ids.max())}", f"expected {_LAYOUT}")
    return replace(sample, label=png_bytes(np.ascontiguousarray(ids, np.uint8)))


SYNTHIA = Source(
    "synthia",
    _open,
    url="https://synthia-dataset.net",
    licence="CC BY-NC-SA 3.0",
    counts={"train": 9400},
)

"""Labels of the CARLA simulator: ids in the red channel, or the simulator's colours, turned into plain ids."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from mgcda_dist.data.shards.encode import png_bytes
from mgcda_dist.data.shards.record import SourceSample
from mgcda_dist.data.shards.sources.plain import plain_pairs
from mgcda_dist.data.shards.sources.source import FramePair, Source, SourceSet, frame_set, read_pair
from mgcda_dist.errors import ShardError

__all__ = ["CARLA"]

_COLOURS = {
    (0, 0, 0): 0, (70, 70, 70): 1, (100, 40, 40): 2, (190, 153, 153): 2, (55, 90, 80): 3, (250, 170, 160): 3,
    (220, 20, 60): 4, (153, 153, 153): 5, (157, 234, 50): 6, (128, 64, 128): 7, (244, 35, 232): 8, (107, 142, 35): 9,
    (0, 0, 142): 10, (102, 102, 156): 11, (220, 220, 0): 12, (70, 130, 180): 13, (81, 0, 81): 14, (150, 100, 100): 15,
    (230, 150, 140): 16, (180, 165, 180): 17, (250, 170, 30): 18, (110, 190, 160): 19, (170, 120, 50): 20,
    (45, 60, 150): 21, (145, 170, 100): 22,
}  # fmt: skip
"""RGB of the simulator's Cityscapes palette → id, versions 0.8 … 0.9.13; no colour changed its meaning between them."""


def _open(folder: Path, split: str, *, label_format: str = "carla_ids", unlabelled: bool = False) -> SourceSet:
    return frame_set(plain_pairs(folder, split), label_format, unlabelled=unlabelled, read=_read)


def _read(pair: FramePair) -> SourceSample:
    sample = read_pair(pair)
    if sample.label is None:
        return sample
    label = cv2.imdecode(np.frombuffer(sample.label, np.uint8), cv2.IMREAD_UNCHANGED)
    if label is None:
        raise ShardError(str(pair.label), "not a readable label", "replace the file")
    if label.ndim == 2:
        return sample
    blue, green, red = (label[..., channel].astype(np.int32) for channel in range(3))
    ids = red.astype(np.uint8) if not blue.any() and not green.any() else _ids_of(red, green, blue, pair)
    return replace(sample, label=png_bytes(ids))


def _ids_of(red: np.ndarray, green: np.ndarray, blue: np.ndarray, pair: FramePair) -> np.ndarray:
    """Ids of colours, uint8 H×W."""
    packed = red << 16 | green << 8 | blue
    colours, position = np.unique(packed, return_inverse=True)
    ids = np.empty(len(colours), np.uint8)
    for i, colour in enumerate(colours.tolist()):
        rgb = (colour >> 16, colour >> 8 & 255, colour & 255)
        if rgb not in _COLOURS:
            remedy = "lossy or resized colour labels cannot be read; use id labels"
            raise ShardError(str(pair.label), f"the colour {rgb} is none of CARLA's", remedy)
        ids[i] = _COLOURS[rgb]
    return ids[position].reshape(packed.shape)


CARLA = Source(
    "carla",
    _open,
    layout="images/NAME and labels/NAME.png, or NAME.jpg and NAME_label.png; ids (grey or red channel) or colours",
    splits=(),
    url="https://carla.org",
    licence="CC BY 4.0 (assets)",
    options=("unlabelled", "label_format"),
)

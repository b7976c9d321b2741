"""Labels of the CARLA simulator: ids in the red channel, or the simulator's colours, turned into plain ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from mgcda_dist.data.decode import decode_channels
from mgcda_dist.data.shards.encode import png_bytes
from mgcda_dist.data.shards.record import SourceSample
from mgcda_dist.data.shards.sources.plain import plain_layout
from mgcda_dist.data.shards.sources.source import FramePair, Source, SourceSet, frame_set, read_pair
from mgcda_dist.errors import ShardError

__all__ = ["CARLA"]

_COLOURS_0913 = {
    (0, 0, 0): 0, (70, 70, 70): 1, (100, 40, 40): 2, (190, 153, 153): 2, (55, 90, 80): 3, (250, 170, 160): 3,
    (220, 20, 60): 4, (153, 153, 153): 5, (157, 234, 50): 6, (128, 64, 128): 7, (244, 35, 232): 8, (107, 142, 35): 9,
    (0, 0, 142): 10, (102, 102, 156): 11, (220, 220, 0): 12, (70, 130, 180): 13, (81, 0, 81): 14, (150, 100, 100): 15,
    (230, 150, 140): 16, (180, 165, 180): 17, (250, 170, 30): 18, (110, 190, 160): 19, (170, 120, 50): 20,
    (45, 60, 150): 21, (145, 170, 100): 22,
}  # fmt: skip
"""RGB of the simulator's Cityscapes palette → id, versions 0.8 … 0.9.13; no colour changed its meaning between them."""
_COLOURS_0914 = {
    (0, 0, 0): 0, (128, 64, 128): 1, (244, 35, 232): 2, (70, 70, 70): 3, (102, 102, 156): 4, (190, 153, 153): 5,
    (100, 40, 40): 5, (153, 153, 153): 6, (250, 170, 30): 7, (220, 220, 0): 8, (107, 142, 35): 9, (152, 251, 152): 10,
    (145, 170, 100): 10, (70, 130, 180): 11, (220, 20, 60): 12, (255, 0, 0): 13, (0, 0, 142): 14, (0, 0, 70): 15,
    (0, 60, 100): 16, (0, 80, 100): 17, (0, 0, 230): 18, (119, 11, 32): 19, (110, 190, 160): 20, (170, 120, 50): 21,
    (55, 90, 80): 22, (45, 60, 150): 23, (157, 234, 50): 24, (81, 0, 81): 25, (150, 100, 100): 26, (230, 150, 140): 27,
    (180, 165, 180): 28,
}  # fmt: skip
"""The same from 0.9.14 on; both fences and both terrains, since the documentation and the code name different ones."""
_COLOURS = {"carla_ids": _COLOURS_0913, "carla_0914_ids": _COLOURS_0914}
_Colours = Mapping[tuple[int, int, int], int]


def _open(folder: Path, split: str, *, label_format: str = "carla_ids", unlabelled: bool = False) -> SourceSet:
    if label_format not in _COLOURS:
        raise ShardError(
            str(folder), f"CARLA has no labels of format {label_format!r}", f"choose {', '.join(_COLOURS)}"
        )
    read = partial(_read, colours=_COLOURS[label_format])
    return frame_set(*plain_layout(folder, split), label_format, unlabelled=unlabelled, read=read)


def _read(pair: FramePair, *, colours: _Colours) -> SourceSample:
    sample = read_pair(pair)
    if sample.label is None:
        return sample
    label = decode_channels(sample.label, str(pair.label))
    if label.ndim == 2:
        return sample
    red, green, blue = (label[..., channel].astype(np.int32) for channel in range(3))
    plain = not blue.any() and not green.any()
    ids = red.astype(np.uint8) if plain else _ids_of(red, green, blue, pair, colours)
    return replace(sample, label=png_bytes(ids))


def _ids_of(red: np.ndarray, green: np.ndarray, blue: np.ndarray, pair: FramePair, known: _Colours) -> np.ndarray:
    """Ids of colours, uint8 H×W."""
    packed = red << 16 | green << 8 | blue
    colours, position = np.unique(packed, return_inverse=True)
    ids = np.empty(len(colours), np.uint8)
    for i, colour in enumerate(colours.tolist()):
        rgb = (colour >> 16, colour >> 8 & 255, colour & 255)
        if rgb not in known:
            other = "carla_0914_ids" if known is _COLOURS_0913 else "carla_ids"
            remedy = "lossy or resized colour labels cannot be read; use id labels"
            if rgb in _COLOURS[other]:
                remedy = f"give `label_format` {other}: another version of CARLA drew this"
            raise ShardError(str(pair.label), f"the colour {rgb} is none of CARLA's", remedy)
        ids[i] = known[rgb]
    return ids[position].reshape(packed.shape)


CARLA = Source(
    "carla",
    _open,
    url="https://carla.org",
    licence="CC BY 4.0 (assets)",
    options=("unlabelled", "label_format"),
)

"""Colours: of inlier classes (by name, as Cityscapes draws them), of labels, and of lines."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["ANOMALY_COLOUR", "LINE_COLOURS", "VOID_COLOUR", "class_colours"]

ANOMALY_COLOUR = (228, 26, 28)
VOID_COLOUR = (140, 140, 140)

LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, distinct for colour-blind readers."""

_BY_NAME: dict[str, tuple[int, int, int]] = {
    "road": (128, 64, 128), "drivable": (128, 64, 128), "sidewalk": (244, 35, 232), "pavement": (244, 35, 232),
    "non_drivable": (244, 35, 232), "building": (70, 70, 70), "far_object": (70, 70, 70), "wall": (102, 102, 156),
    "fence": (190, 153, 153), "pole": (153, 153, 153), "pole_sign": (220, 220, 0), "roadside_object": (220, 220, 0),
    "traffic_light": (250, 170, 30), "traffic_sign": (220, 220, 0), "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152), "sky": (70, 130, 180), "person": (220, 20, 60), "living_thing": (220, 20, 60),
    "rider": (255, 0, 0), "vehicle": (0, 0, 142), "car": (0, 0, 142), "truck": (0, 0, 70), "bus": (0, 60, 100),
    "train": (0, 80, 100), "motorcycle": (0, 0, 230), "bicycle": (119, 11, 32),
}  # fmt: skip


def class_colours(names: Sequence[str]) -> NDArray[np.uint8]:
    """One colour per class, C×3, uint8; a name nobody knows gets a hue of its own."""
    colours = [
        _BY_NAME.get(name.lower().replace(" ", "_"), _hue(index / max(len(names), 1)))
        for index, name in enumerate(names)
    ]
    return np.array(colours, np.uint8).reshape(-1, 3)


def _hue(position: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(position, 0.65, 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)

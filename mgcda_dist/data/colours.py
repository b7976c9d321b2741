"""Colours of labelled things, by name: a thing has the same colour in every data set, class space and picture.

Cityscapes' colours where it has one, those of Mapillary Vistas or IDD for what only they have.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

__all__ = ["ANOMALY", "UNKNOWN", "VOID", "Colour", "class_colours", "colour_of"]

Colour = tuple[int, int, int]
"""RGB, 0 … 255."""

ANOMALY: Colour = (255, 40, 0)
VOID: Colour = (0, 0, 0)
UNKNOWN: Colour = (255, 0, 255)
"""An id that the label format does not know."""

_BY_NAME: dict[str, Colour] = {
    "road": (128, 64, 128), "drivable": (128, 64, 128), "drivable fallback": (81, 0, 81), "parking": (250, 170, 160),
    "sidewalk": (244, 35, 232), "pavement": (244, 35, 232), "non drivable": (244, 35, 232),
    "non-drivable fallback": (152, 180, 120), "rail track": (230, 150, 140), "ground": (81, 0, 81),
    "curb": (196, 196, 196), "building": (70, 70, 70), "far object": (70, 110, 60), "wall": (102, 102, 156),
    "fence": (190, 153, 153), "guard rail": (180, 165, 180), "bridge": (150, 100, 100), "tunnel": (150, 120, 90),
    "structure fallback": (110, 110, 90), "pole": (153, 153, 153), "polegroup": (153, 153, 153),
    "pole sign": (220, 220, 0), "roadside object": (220, 220, 0), "billboard": (174, 140, 0),
    "traffic light": (250, 170, 30), "traffic sign": (220, 220, 0), "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152), "mountain": (64, 170, 64), "snow": (230, 240, 255), "water": (0, 170, 160),
    "sky": (70, 130, 180), "fallback background": (120, 150, 170), "person": (220, 20, 60),
    "living thing": (220, 20, 60), "animal": (165, 42, 42), "rider": (255, 0, 0), "car": (0, 0, 142),
    "vehicle": (0, 0, 142), "vehicle fallback": (60, 60, 200), "autorickshaw": (255, 204, 54), "truck": (0, 0, 70),
    "bus": (0, 60, 100), "caravan": (0, 0, 90), "trailer": (0, 0, 110), "train": (0, 80, 100),
    "motorcycle": (0, 0, 230), "bicycle": (119, 11, 32), "license plate": (0, 0, 142), "anomaly": ANOMALY,
    "void": VOID, "normal": (200, 200, 200),
}  # fmt: skip


def colour_of(name: str) -> Colour | None:
    """The colour of a thing or class, spaces and underscores alike; None: it has none."""
    return _BY_NAME.get(name.lower().replace("_", " "))


def class_colours(names: Sequence[str]) -> list[Colour]:
    """One colour per class, all different: a name without a colour, or whose colour is taken, gets a hue of its own."""
    colours: list[Colour] = []
    for index, name in enumerate(names):
        colour = colour_of(name)
        colours.append(_own_hue(index) if colour is None or colour in colours else colour)
    return colours


def _own_hue(index: int) -> Colour:
    # Steps of the golden ratio never repeat; the reds are left to anomalies.
    hue = 0.06 + 0.86 * (index * 0.618034 % 1)
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.65, 0.9 - 0.25 * (index % 3 == 2))
    return round(255 * red), round(255 * green), round(255 * blue)

"""Labels of pixels and materials of surfaces, of which scenes are composed."""

from __future__ import annotations

from enum import IntEnum, auto

from mgcda_dist.method.batch import ANOMALY, VOID

__all__ = ["GROUND", "Label", "Material"]


class Label(IntEnum):
    """Raw ids of label format `road8`, equal to the train ids of class space `road8`."""

    ROAD = 0
    PAVEMENT = 1
    BUILDING = 2
    VEGETATION = 3
    SKY = 4
    VEHICLE = 5
    PERSON = 6
    POLE_SIGN = 7
    ANOMALY = ANOMALY
    VOID = VOID


class Material(IntEnum):
    """The material of a surface; palettes and textures of a domain are keyed by it."""

    SKY = 0
    ASPHALT = auto()
    ASPHALT_PATCH = auto()
    MARKING = auto()
    SLABS = auto()
    KERB = auto()
    GRASS = auto()
    WALL = auto()
    TRIM = auto()
    GLASS = auto()
    SHOP = auto()
    AWNING = auto()
    DOOR = auto()
    ROOF = auto()
    TRUNK = auto()
    LEAF = auto()
    HEDGE = auto()
    FENCE = auto()
    BODY = auto()
    CAR_GLASS = auto()
    PLASTIC = auto()
    TYRE = auto()
    RIM = auto()
    TAIL_LIGHT = auto()
    HEAD_LIGHT = auto()
    PLATE = auto()
    SKIN = auto()
    HAIR = auto()
    CLOTH = auto()
    METAL = auto()
    LAMP = auto()
    SIGN_RED = auto()
    SIGN_BLUE = auto()
    SIGN_WHITE = auto()
    SIGN_GREEN = auto()
    SIGNAL_RED = auto()
    SIGNAL_GREEN = auto()
    SKYLINE = auto()
    FAR_TREES = auto()
    OBJECT = auto()


GROUND = frozenset(
    {Material.ASPHALT, Material.ASPHALT_PATCH, Material.MARKING, Material.SLABS, Material.KERB, Material.GRASS}
)
"""Materials that lie flat: they receive cast shadows and are textured from above."""

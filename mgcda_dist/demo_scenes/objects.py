"""Anomalous objects: three disjoint sets of families, for pasting, for validation and for the test.

The families of the test share neither shapes nor textures with those of training: plain colours, bands and chessboards
there; hides, feathers, stone, timber and woven cloth here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.demo_scenes import families_training, families_unseen, families_validation
from mgcda_dist.demo_scenes.sketch import Sketch

__all__ = ["FAMILIES", "FamilySet", "ObjectPicture", "draw_object", "pick_family"]

FamilySet = Literal["train", "val", "test"]
Rng = np.random.Generator
Draw = Callable[[Sketch, Rng], None]


@dataclass(frozen=True)
class ObjectPicture:
    """A cut-out object.

    Attributes:
        rgba: h×w×4 uint8; alpha is its mask, the last row its foot.
        height_m: its height in the world.
    """

    family: str
    rgba: NDArray[np.uint8]
    height_m: float

    @property
    def width_m(self) -> float:
        """Its width in the world."""
        return self.height_m * self.rgba.shape[1] / self.rgba.shape[0]


FAMILIES: dict[FamilySet, dict[str, tuple[Draw, tuple[float, float]]]] = {
    "train": {
        "crate": (families_training.crate, (0.5, 1.2)),
        "ball": (families_training.ball, (0.35, 1.0)),
        "bucket": (families_training.bucket, (0.4, 0.9)),
        "barrel": (families_training.barrel, (0.8, 1.2)),
        "umbrella": (families_training.umbrella, (0.8, 1.5)),
        "star": (families_training.star, (0.4, 1.3)),
        "blocks": (families_training.blocks, (0.4, 1.4)),
        "cone": (families_training.cone, (0.5, 0.9)),
        "blob": (families_training.blob, (0.3, 1.6)),
        "shard": (families_training.shard, (0.3, 1.6)),
    },
    "val": {
        "vase": (families_validation.vase, (0.5, 1.2)),
        "suitcase": (families_validation.suitcase, (0.5, 0.9)),
        "drum": (families_validation.drum, (0.5, 0.9)),
        "cactus": (families_validation.cactus, (0.7, 1.6)),
    },
    "test": {
        "beast": (families_unseen.beast, (0.7, 1.7)),
        "goose": (families_unseen.goose, (0.6, 1.0)),
        "boulder": (families_unseen.boulder, (0.5, 1.2)),
        "chair": (families_unseen.chair, (0.85, 1.1)),
        "sofa": (families_unseen.sofa, (0.8, 1.0)),
        "tyres": (families_unseen.tyres, (0.5, 0.9)),
        "log": (families_unseen.log, (0.4, 0.7)),
        "machine": (families_unseen.machine, (0.8, 1.1)),
    },
}
"""Per set: family -> (how to draw it, lowest and highest height in metres)."""


def pick_family(family_set: FamilySet, rng: Rng) -> str:
    """A family of the set, each equally likely."""
    return str(rng.choice(list(FAMILIES[family_set])))


def draw_object(family: str, rng: Rng) -> ObjectPicture:
    """Draws an instance of a family.

    Raises:
        KeyError: there is no such family.
    """
    every = {name: entry for members in FAMILIES.values() for name, entry in members.items()}
    draw, heights = every[family]
    board = Sketch()
    draw(board, rng)
    rgba = board.picture()
    if rng.random() < 0.5:
        rgba = np.ascontiguousarray(rgba[:, ::-1])
    return ObjectPicture(family, rgba, float(rng.uniform(*heights)))

"""Generated global batches of four images, pure functions of scene and step: what labels real batches may lack."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch.nn import functional as F

from mgcda_dist.method.batch import ANOMALY, INLIER, VOID, Batch
from mgcda_dist.method.randomness import torch_generator

__all__ = ["EMPTY", "IMAGES", "SCENES", "Scene", "cut", "scene_batch"]

Scene = Literal["all sides", "anomalies in one image", "labels in one image", "no anomaly", "no inlier", "all void"]
SCENES: tuple[Scene, ...] = get_args(Scene)
EMPTY = SCENES[1:]
"""Scenes in which a rank, or all of them, lack a side."""
IMAGES = 4
"""Of a global batch: one for each of four ranks."""
_CELL = 8


def scene_batch(scene: Scene, step: int, size: tuple[int, int], num_classes: int, domains: int = 1) -> Batch:
    """The global batch of a step.

    Args:
        size: height and width of its images, pixels, multiples of 8.
        num_classes: C.
        domains: M; the images are of each in turn.
    """
    height, width = size
    random = torch_generator("laws", step)
    image = torch.randint(0, 256, (IMAGES, 3, height, width), generator=random, dtype=torch.uint8)
    cells = IMAGES, 1, height // _CELL, width // _CELL
    kinds = torch.tensor([*range(num_classes), INLIER, VOID])
    coarse = kinds[torch.randint(len(kinds), cells, generator=random)]
    label = F.interpolate(coarse.float(), scale_factor=_CELL, mode="nearest").long().squeeze(1)
    # Counts differ between the images, so that a mean of means is none.
    label[0, : height // 2, : width // 2] = ANOMALY
    label[1, :, width // 3 :] = VOID
    label[3, height // 4 : height // 2, : width // 4] = ANOMALY
    match scene:
        case "all sides":
            pass
        case "anomalies in one image":
            label[1:][label[1:] == ANOMALY] = 0
        case "labels in one image":
            label[1:] = VOID
        case "no anomaly":
            label[label == ANOMALY] = 0
        case "no inlier":
            label[label < num_classes] = INLIER
        case "all void":
            label[:] = VOID
    slot = torch.arange(IMAGES)
    return Batch(image, label, slot % domains, slot, step)


def cut(batch: Batch, part: int, parts: int) -> Batch:
    """One of several equal runs of images of a batch."""
    length = len(batch.slot) // parts
    own = slice(part * length, (part + 1) * length)
    return Batch(batch.image[own], batch.label[own], batch.domain[own], batch.slot[own], batch.step)

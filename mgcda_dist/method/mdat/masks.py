"""Masks over the cells of a discriminator: those that are aligned, and those near to objects or far from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from mgcda_dist.method.batch import ANOMALY, VOID, Batch

__all__ = ["CellMasks", "alignable", "cell_masks"]


class CellMasks(NamedTuple):
    """Cells of one discriminator, each N×h×w bool.

    Attributes:
        aligned: reach the loss.
        near: show the scene in half of their pixels or more, and an object is in them or in one of 8 neighbours.
        far: show the scene in half of their pixels or more, and no object is so close.
    """

    aligned: Tensor
    near: Tensor
    far: Tensor


def cell_masks(
    batch: Batch, sizes: Sequence[tuple[int, int]], *, mask_anomalies: bool, reach_px: Sequence[int | None]
) -> list[CellMasks]:
    """Masks over the cells of every discriminator.

    Args:
        batch: its labels N×H×W.
        sizes: h, w of each.
        mask_anomalies: leave out cells that show what is not aligned in more than half of their pixels.
        reach_px: of each; leave out every cell that is so close to one with an anomaly, too, in whole cells, rounded
            up; None: none.
    """
    scene, objects = _as_channel(alignable(batch)), _as_channel(batch.label == ANOMALY)
    return [_masks(scene, objects, size, mask_anomalies, reach) for size, reach in zip(sizes, reach_px, strict=True)]


def _masks(
    scene_px: Tensor, objects_px: Tensor, size: tuple[int, int], mask_anomalies: bool, reach_px: int | None
) -> CellMasks:
    scene = F.adaptive_avg_pool2d(scene_px, size).squeeze(1) >= 0.5
    has_object = F.adaptive_max_pool2d(objects_px, size)
    near = scene & _within(has_object, 1, 1)
    aligned = scene if mask_anomalies else scene.new_ones(()).expand_as(scene)
    if mask_anomalies and reach_px is not None:
        # In whole cells, rounded up: a mask that is a little too wide hides no more than a few cells too many.
        rows, columns = (
            -(-reach_px * cells // pixels) for cells, pixels in zip(size, objects_px.shape[2:], strict=True)
        )
        aligned = aligned & ~_within(has_object, rows, columns)
    return CellMasks(aligned, near, scene & ~near)


def alignable(batch: Batch) -> Tensor:
    """N×H×W bool: pixels of the scene that MDAT aligns.

    Anomalies never; void neither, except in unlabelled images, where nothing else shows the image's own domain.
    """
    shows_scene = (batch.label == VOID) == batch.is_unlabelled.view(-1, 1, 1)
    return shows_scene & (batch.label != ANOMALY)


def _as_channel(mask: Tensor) -> Tensor:
    return mask.unsqueeze(1).float()


def _within(mask: Tensor, rows: int, columns: int) -> Tensor:
    """N×h×w bool: a cell of the N×1×h×w mask is at most so many rows and columns away."""
    window, around = (2 * rows + 1, 2 * columns + 1), (rows, columns)
    # max_pool2d pads by half of its window at most, which is what it gets.
    return F.max_pool2d(mask, window, stride=1, padding=around).squeeze(1) > 0.5

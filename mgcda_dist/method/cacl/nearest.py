"""Negatives by similarity: of the rows of another kind the k that are nearest to an anchor.

    H_i = the k rows r with the largest (⌊2^16·z_i·z_r⌉, -r)

Similarity (on a grid of 2^-16, coarser than rounding) and the index of the row make one whole number, so that no two
rows are equally near and rounding does not choose. The k-th largest number of an anchor is its threshold. With a
sharded memory it is the k-th largest of the k largest of each rank: the same rows as with a replicated one.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["NOTHING", "is_nearest", "largest", "nearness"]

NOTHING = torch.iinfo(torch.int64).min
"""Nearness of a row that is no candidate."""

_STEPS, _ROWS = 2**16, 2**32


def nearness(cosine: Tensor, may_be: Tensor, row: Tensor) -> Tensor:
    """⌊2^16·s⌉·2^32 - r: larger is nearer, the first of equally near rows is the nearest.

    Args:
        cosine: A×R', s in [-1, 1].
        may_be: A×R', bool: the row is of another kind than the anchor.
        row: R', int64, r: index of the row among all rows of all ranks, less than 2^32.

    Returns:
        A×R' int64; `NOTHING` where the row may not be.
    """
    # A cosine that is not a number would be a whole number of any size.
    steps = (cosine.detach() * _STEPS).round().nan_to_num(nan=0.0).to(torch.int64)
    return torch.where(may_be, steps * _ROWS - row, NOTHING)


def largest(nearness: Tensor, k: int) -> Tensor:
    """The k largest numbers of each anchor in descending order, filled up with `NOTHING`: A×R' → A×k."""
    top = nearness.topk(min(k, nearness.shape[1]), dim=1).values
    return torch.nn.functional.pad(top, (0, k - top.shape[1]), value=NOTHING)


def is_nearest(nearness: Tensor, top: Tensor) -> Tensor:
    """H_i: A×R', and A×k of all rows from `largest` → A×R' bool; all candidates where there are no more than k."""
    return (nearness >= top[:, -1:]) & (nearness > NOTHING)

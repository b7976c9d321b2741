"""Negatives by similarity: of the rows of another kind the k that are nearest to an anchor.

    H_i = { r : s_ir ≥ τ_i },   s_ir = ⌊2^16·z_i·z_r⌉ / 2^16,   τ_i = the k-th largest s_ir

Similarities are compared on a grid that is coarser than rounding, and all rows as near as the k-th belong to H_i, so
that neither rounding nor the order of rows chooses. τ_i is the k-th largest of the k largest of each rank: with a
sharded memory the same rows are chosen as with a replicated one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["is_nearest", "largest", "nearness"]

_STEPS = 2**16


@torch.no_grad()
def nearness(similarity: Tensor, may_be: Tensor, temperature: float) -> Tensor:
    """2^16·s_ir, a whole number: A×R' of z_i·z_r/T, A×R' bool → A×R', -∞ where the row may not be a negative."""
    return (similarity * (temperature * _STEPS)).round_().masked_fill_(~may_be, -torch.inf)


def largest(nearness: Tensor, k: int) -> Tensor:
    """The k largest numbers of each anchor, filled up with -∞: A×R' → A×k."""
    top = nearness.topk(min(k, nearness.shape[1]), dim=1, sorted=False).values
    return F.pad(top, (0, k - top.shape[1]), value=-torch.inf)


def is_nearest(nearness: Tensor, top: Tensor) -> Tensor:
    """H_i: A×R', and A×k of all rows from `largest` → A×R' bool; all that may be where there are no more than k."""
    threshold = top.amin(dim=1, keepdim=True)
    return (nearness >= threshold) & (nearness > -torch.inf)

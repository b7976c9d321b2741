"""Labels that the teacher gives to unlabelled images, and the cross-entropy to them (DACS, arXiv 2007.08702).

Ω_i: pixels of the unlabelled image i where nothing was pasted; p', a': the teacher's probabilities and scores.

    ŷ_p = argmax_k p'_pk   where max_k p'_pk ≥ τ and a'_p ≤ Q_q(a' over Ω_i), else void
    w_i = |{p ∈ Ω_i: max_k p'_pk ≥ τ}| / |Ω_i|
    L_teacher = 1/n Σ_i ( w_i Σ_{p∈Ω_i, ŷ_p not void} -log p_p(ŷ_p) + ω Σ_{p∈Ω_i, a'_p ≤ Q_q} o_p )
    n = Σ_i |Ω_i| over ranks and micro-batches

A high score of the teacher means "no label here", so that a real anomaly of an unlabelled image is not taught as road.
o_p is the inlier side of the outlier loss (ω > 0; ours): objects were pasted onto these images, too, and what is not
most anomalous there is taken for their normal side, whether or not its class is sure.
n follows from the labels alone (law 1); weights and pixels without a label enter the numerator.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mgcda_dist.method.batch import VOID, Batch, label_on_grid

__all__ = ["Taught", "num_teachable", "taught_labels", "taught_sum", "teachable"]


class Taught(NamedTuple):
    """Labels of the teacher on the grid of the logits.

    Attributes:
        label: N×h×w, int64: inlier class, or void where it gives none.
        weight: w_i, N; 0 for images with labels of their own.
        inlier: N×h×w, bool: a'_p ≤ Q_q; False where the teacher may give no label.
    """

    label: Tensor
    weight: Tensor
    inlier: Tensor


def teachable(batch: Batch, size: tuple[int, int]) -> Tensor:
    """Ω: which cells of a grid h×w the teacher may label, N×h×w bool, for labels N×H×W."""
    return batch.is_unlabelled.view(-1, 1, 1) & (label_on_grid(batch.label, size) == VOID)


def num_teachable(batch: Batch, size: tuple[int, int]) -> Tensor:
    """This rank's part of n, int64."""
    return teachable(batch, size).sum()


@torch.no_grad()
def taught_labels(logits: Tensor, score: Tensor, mask: Tensor, *, confidence: float, score_quantile: float) -> Taught:
    """ŷ and w, and the pixels that are taken for inliers.

    Args:
        logits: of the teacher, N×C×h×w, at least float32.
        score: its anomaly score, N×h×w.
        mask: Ω, N×h×w bool.
        confidence: τ.
        score_quantile: q; 1: no pixel is too anomalous.
    """
    top, predicted = logits.softmax(dim=1).max(dim=1)
    sure = mask & (top >= confidence)
    # The quantile is one of the scores themselves: between two of them, rounding would decide.
    scores = score.masked_fill(~mask, torch.nan).flatten(1)
    limit = torch.nanquantile(scores, score_quantile, dim=1, interpolation="lower").view(-1, 1, 1)
    inlier = mask & (score <= limit)
    label = torch.where(sure & inlier, predicted, VOID)
    weight = sure.sum(dim=(1, 2)).to(logits.dtype) / mask.sum(dim=(1, 2)).clamp(min=1)
    return Taught(label, weight, inlier)


def taught_sum(logits: Tensor, taught: Taught) -> Tensor:
    """Σ_i w_i Σ_p -log p_p(ŷ_p) for logits N×c×h×w of the network in training, at least float32, with gradient."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    target = torch.where(taught.label == VOID, -100, taught.label)
    per_pixel = F.cross_entropy(logits, target, reduction="none", ignore_index=-100)
    return (taught.weight.to(logits.dtype).view(-1, 1, 1) * per_pixel).sum()

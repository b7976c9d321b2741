"""Outlier exposure: pure functions of (logits, label) that pull the scores of inliers and anomalies apart.

Each returns sums over this rank's pixels, apart for inliers (label 0…C-1) and anomalies (label 254); the caller divides
them by the numbers of pixels of the whole step (law 1), which follow from the labels. A side without pixels is a zero
that still touches the logits (law 3). Void (255) and normal pixels of unknown class (253) take no part.

Logits are N×C×h×w, labels N×h×w of the same size: bring the logits to the labels with `upsample`, or the labels to the
logits with `label_at`. L is a pixel's vector of C inlier logits, E = -log Σ_k exp L_k its energy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mgcda_dist.choices import ANOMALY, OUTLIER_LOSSES, LogitKind, OutlierKind
from mgcda_dist.models.scores import energy, rba, rba_mask, widened

__all__ = [
    "LOSS_FUNCTIONS",
    "PixelLoss",
    "PixelSums",
    "abstention",
    "covered",
    "energy_hinge",
    "entropy",
    "label_at",
    "outlier_loss",
    "rba_hinge",
    "upsample",
]


class PixelSums(NamedTuple):
    """Scalars: sums of a per-pixel loss over inliers and over anomalies, with gradient, float32 at least."""

    inlier_sum: Tensor
    anomaly_sum: Tensor


def energy_hinge(logits: Tensor, label: Tensor, inlier_energy: float, outlier_energy: float) -> PixelSums:
    """relu(E - m_in)² on inliers, relu(m_out - E)² on anomalies (Liu et al., arXiv 2010.03759, equation 9).

    Args:
        inlier_energy: m_in, at most this energy on inliers.
        outlier_energy: m_out, at least this energy on anomalies.
    """
    return _hinge(energy(logits), label, logits.shape[1], inlier_energy, outlier_energy)


def rba_hinge(
    logits: Tensor,
    label: Tensor,
    inlier_rba: float,
    outlier_rba: float,
    score: Callable[[Tensor], Tensor] = rba,
) -> PixelSums:
    """relu(S - s_in)² on inliers, relu(s_out - S)² on anomalies with S = -Σ_k σ(L_k) (RbA, arXiv 2211.14293).

    Args:
        inlier_rba: s_in in (-C, 0]; RbA itself penalises anomalies only, which s_in = 0 gives.
        outlier_rba: s_out in (-C, 0).
        score: S: `rba` for logits of pixels, `rba_mask` for those of a mask network.
    """
    return _hinge(score(logits), label, logits.shape[1], inlier_rba, outlier_rba)


def entropy(logits: Tensor, label: Tensor) -> PixelSums:
    """Cross-entropy to the uniform distribution on anomalies: -1/C Σ_k log p_k (Meta-OoD, arXiv 2012.06575).

    Its share against the inlier cross-entropy (a = 0.9 there) is the caller's weight; the inlier side is empty.
    """
    wide = widened(logits)
    to_uniform = torch.logsumexp(wide, dim=1) - wide.mean(dim=1)
    return _sums(torch.zeros_like(to_uniform), label < 0, to_uniform, label == ANOMALY)


def abstention(logits: Tensor, label: Tensor) -> PixelSums:
    """Pixel-wise abstention learning of PEBAL (Tian et al., arXiv 2111.12264, equations 3 and 4).

    With q the softmax over C inlier logits and one abstention logit, and the penalty a = E² of the inlier logits:
    -log(q_y + q_abstain / a) on inliers, -log(q_abstain / a) on anomalies.

    Args:
        logits: N×(C+1)×h×w, abstention last. C+1 logits suit no other loss or score of this package.
    """
    num_classes = logits.shape[1] - 1
    wide = widened(logits)
    log_q = torch.log_softmax(wide, dim=1)
    # An energy near 0 would make abstention pay without bound.
    log_penalty = torch.logsumexp(wide[:, :-1], dim=1).square().clamp_min(1.0).log()
    abstain = log_q[:, -1] - log_penalty
    inlier = label < num_classes
    true_class = log_q.gather(1, torch.where(inlier, label, 0).unsqueeze(1)).squeeze(1)
    return _sums(-torch.logaddexp(true_class, abstain), inlier, -abstain, label == ANOMALY)


PixelLoss = Callable[[Tensor, Tensor], PixelSums]
"""A function of logits N×C×h×w and label N×h×w."""

LOSS_FUNCTIONS: dict[OutlierKind, Callable[..., PixelSums]] = {
    "energy_hinge": energy_hinge,
    "entropy": entropy,
    "abstention": abstention,
    "rba_hinge": rba_hinge,
}
_ON_MASKS: dict[OutlierKind, Callable[..., PixelSums]] = {"rba_hinge": partial(rba_hinge, score=rba_mask)}
"""Losses that are another function where the logits are logarithms of class scores of masks."""


def outlier_loss(
    kind: OutlierKind, limits: Mapping[str, float] | None = None, logits: LogitKind = "pixel"
) -> PixelLoss | None:
    """The loss named `kind` as a function of logits and labels; None for `none`.

    Args:
        kind: a key of `choices.OUTLIER_LOSSES`.
        limits: values by name; those that are left out have their default, those of other losses are ignored.
        logits: kind of the network's logits.

    Raises:
        ValueError: an unknown loss.
    """
    if kind not in OUTLIER_LOSSES:
        raise ValueError(f"unknown outlier loss {kind!r}: one of {', '.join(OUTLIER_LOSSES)}")
    if kind == "none":
        return None
    function = _ON_MASKS.get(kind, LOSS_FUNCTIONS[kind]) if logits == "mask" else LOSS_FUNCTIONS[kind]
    given = limits or {}
    return partial(function, **{name: given.get(name, value) for name, value in OUTLIER_LOSSES[kind].limits.items()})


def upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear upsampling of N×C×h×w to N×C×H×W that keeps a pixel where it is.

    Logits of stride s have h = ⌈H/s⌉ rows: where s does not divide H, their grid ends beyond the image and is cut.
    """
    grid = covered(logits.shape[2], size[0]), covered(logits.shape[3], size[1])
    if grid != (logits.shape[2], logits.shape[3]):
        logits = F.interpolate(logits, size=grid, mode="bilinear", align_corners=False)
    return logits[:, :, : size[0], : size[1]]


def label_at(label: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels N×H×W at the centres of an h×w grid of cells, nearest pixel: N×h×w."""
    rows, columns = (_centres(n, full, label.device) for n, full in zip(size, label.shape[1:], strict=True))
    return label[:, rows[:, None], columns]


def covered(cells: int, pixels: int) -> int:
    """Pixels that `cells` cells cover when an image of `pixels` was cut into them: at least `pixels`."""
    stride = -(-pixels // cells)
    return cells * stride if -(-pixels // stride) == cells else pixels


def _centres(cells: int, pixels: int, device: torch.device) -> Tensor:
    grid = covered(cells, pixels)
    return ((2 * torch.arange(cells, device=device) + 1) * grid // (2 * cells)).clamp(max=pixels - 1)


def _hinge(score: Tensor, label: Tensor, num_classes: int, inlier_limit: float, outlier_limit: float) -> PixelSums:
    over, under = F.relu(score - inlier_limit).square(), F.relu(outlier_limit - score).square()
    return _sums(over, label < num_classes, under, label == ANOMALY)


def _sums(inlier_loss: Tensor, inlier: Tensor, anomaly_loss: Tensor, anomaly: Tensor) -> PixelSums:
    # A product with the mask would turn an infinite loss of an unjudged pixel into NaN.
    return PixelSums(
        torch.where(inlier, inlier_loss, 0).sum(),
        torch.where(anomaly, anomaly_loss, 0).sum(),
    )

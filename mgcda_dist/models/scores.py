"""Anomaly scores of a pixel from its logits. All of them: higher = more anomalous, computed in fp32 at least.

L is the vector of C inlier logits of a pixel, p = softmax(L).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mgcda_dist.choices import SCORES, ScoreKind

__all__ = [
    "SCORE_FUNCTIONS",
    "ClassStatistics",
    "anomaly_score",
    "energy",
    "entropy",
    "max_logit",
    "msp",
    "rba",
    "rba_mask",
    "scorer",
    "standardized_max_logit",
]


@dataclass(frozen=True)
class ClassStatistics:
    """Mean and variance of the maximum logit over training pixels predicted as each of the C classes."""

    mean: tuple[float, ...]
    var: tuple[float, ...]


def msp(logits: Tensor) -> Tensor:
    """1 - max_k p_k, in [0, 1 - 1/C] (Hendrycks and Gimpel, arXiv 1610.02136)."""
    return 1 - torch.softmax(_wide(logits), dim=1).amax(dim=1)


def max_logit(logits: Tensor) -> Tensor:
    """-max_k L_k (Hendrycks et al., arXiv 1911.11132)."""
    return -_wide(logits).amax(dim=1)


def entropy(logits: Tensor) -> Tensor:
    """-Σ_k p_k log p_k / log C, in [0, 1] (Meta-OoD: Chan et al., arXiv 2012.06575)."""
    log_p = torch.log_softmax(_wide(logits), dim=1)
    return -(log_p.exp() * log_p).sum(dim=1) / math.log(logits.shape[1])


def energy(logits: Tensor) -> Tensor:
    """-log Σ_k exp L_k (Liu et al., arXiv 2010.03759)."""
    return -torch.logsumexp(_wide(logits), dim=1)


def rba(logits: Tensor) -> Tensor:
    """-Σ_k σ(L_k), in (-C, 0): "rejected by all" one-against-rest classifiers (Nayal et al., arXiv 2211.14293).

    σ is the logistic function: unlike the class scores of a mask network, a pixel's logits take both signs.
    """
    return -torch.sigmoid(_wide(logits)).sum(dim=1)


def rba_mask(logits: Tensor) -> Tensor:
    """-Σ_k tanh(S_k), in (-C, 0]: RbA as published, from a mask network's class scores S_k = e^{L_k} ≥ 0."""
    return -torch.tanh(_wide(logits).exp()).sum(dim=1)


def standardized_max_logit(logits: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """-(max_k L_k - μ_k) / σ_k with k the predicted class (Jung et al., arXiv 2107.11264).

    Args:
        logits: N×C×h×w.
        mean, var: C, statistics of the maximum logit over training pixels predicted as each class.
    """
    value, predicted = _wide(logits).max(dim=1)
    mean, std = mean.to(value), var.to(value).clamp_min(1e-12).sqrt()
    return -(value - mean[predicted]) / std[predicted]


SCORE_FUNCTIONS: dict[ScoreKind, Callable[..., Tensor]] = {
    "msp": msp,
    "max_logit": max_logit,
    "entropy": entropy,
    "energy": energy,
    "rba": rba,
    "rba_mask": rba_mask,
    "standardized_max_logit": standardized_max_logit,
}
"""Functions of the logits alone; those that `choices.SCORES` calls calibrated take `mean` and `var`, too."""


def scorer(kind: ScoreKind, statistics: ClassStatistics | None = None) -> Callable[[Tensor], Tensor]:
    """The score named `kind` as a function: logits N×C×h×w of any float dtype → N×h×w, float32 (float64 for float64).

    Args:
        kind: a key of `choices.SCORES`.
        statistics: of the trained network; ignored by a score that is not calibrated.

    Raises:
        ValueError: an unknown score, or a calibrated one without statistics.
    """
    if kind not in SCORE_FUNCTIONS:
        raise ValueError(f"unknown anomaly score {kind!r}: one of {', '.join(SCORES)}")
    function = SCORE_FUNCTIONS[kind]
    if not SCORES[kind].calibrated:
        return function
    if statistics is None:
        raise ValueError(f"{kind} needs class statistics of the maximum logit: mgcda calibrate")
    return partial(function, mean=torch.tensor(statistics.mean), var=torch.tensor(statistics.var))


def anomaly_score(logits: Tensor, kind: ScoreKind) -> Tensor:
    """The score named `kind`, of logits N×C×h×w; a calibrated one comes from `scorer`."""
    return scorer(kind)(logits)


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))

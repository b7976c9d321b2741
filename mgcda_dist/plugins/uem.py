"""UEM, the unknown estimation module (Nayal, Shoeb, Güney, 2024): a likelihood ratio of unknown against known classes.

    LLR = u_1 - u_0 - max_k L_k,   L = E_{I∪O}[ BCE(σ(LLR), o) ],   o = 1 on anomalies;   score = LLR

u are two channels of a head (linear likelihoods, "D-D") on features of a frozen segmenter: `extra["unknown"]`. L is not
trained by this loss, here as there: its level is what the ratio compares with.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch.nn.functional as F
from torch import Tensor

from mgcda_dist.method.batch import Prediction
from mgcda_dist.method.terms import LossContext, Term
from mgcda_dist.models.scores import Outputs
from mgcda_dist.plugins.pixels import anomaly_mask, at_label, inlier_mask, sum_over

__all__ = ["UemLoss", "UemScore"]


def log_likelihood_ratio(logits: Tensor, u: Tensor) -> Tensor:
    """LLR of N×K×h×w logits and N×2×h×w: N×h×w."""
    return u[:, 1] - u[:, 0] - logits.amax(dim=1)


class UemLoss:
    """See the module. Args: `weight` of the term."""

    reads: Collection[str] = ("unknown",)

    def __init__(self, weight: float = 1.0) -> None:
        self.terms: Mapping[str, Term] = {"ratio": Term("both", weight)}

    def __call__(self, prediction: Prediction, label: Tensor, context: LossContext) -> dict[str, Tensor]:
        """The sum of its term; see `OutlierLoss`."""
        del context
        inlier, anomaly = inlier_mask(label, prediction.logits.shape[1]), anomaly_mask(label)
        ratio = log_likelihood_ratio(prediction.logits.detach(), at_label(prediction.extra["unknown"], label))
        loss = F.binary_cross_entropy_with_logits(ratio, anomaly.to(ratio.dtype), reduction="none")
        return {"ratio": sum_over(loss, inlier, anomaly)}


class UemScore(Outputs):
    """The log-likelihood ratio; logits and u are averaged over views and windows, as in the released code."""

    reads: Collection[str] = ("unknown",)

    def of(self, maps: Tensor) -> Tensor:
        """See `Score`."""
        return log_likelihood_ratio(*self.split(maps, 2))

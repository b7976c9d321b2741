"""ULRE, unknown likelihood ratio estimation with evidence (released code of 2025, Apache-2; by its formulas).

    α = 1 + e^z,   L = E_{I∪O}[ log(α_0 + α_1) - log α_y + λ KL(Dir(α̃) ‖ Dir(1)) ],   y = 1 on anomalies
    score = α_1 / (α_0 + α_1)

z are two channels of a head on features of a frozen network: `extra["unknown"]`. α̃ is α with 1 in the place of the true
entry; λ rises with the progress of training. With a = softplus(z) = log α, w the wrong side, the divergence of two
entries is a_w - 1 + e^{-a_w}: nothing overflows, and no Γ function is needed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mgcda_dist.method.batch import Prediction
from mgcda_dist.method.terms import LossContext, Term
from mgcda_dist.models.scores import Outputs
from mgcda_dist.plugins.pixels import anomaly_mask, at_label, inlier_mask, sum_over

__all__ = ["UlreLoss", "UlreScore"]


def _full(progress: float) -> float:
    return min(1.0, progress)


class UlreLoss:
    """See the module. Args: `weight` of both terms."""

    reads: Collection[str] = ("unknown",)

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight
        self.terms: Mapping[str, Term] = {"evidence": Term("both", weight), "divergence": Term("both", self.rising)}

    def rising(self, progress: float) -> float:
        """λ."""
        return self.weight * _full(progress)

    def __call__(self, prediction: Prediction, label: Tensor, context: LossContext) -> dict[str, Tensor]:
        """Sums of both terms; see `OutlierLoss`."""
        del context
        inlier, anomaly = inlier_mask(label, prediction.logits.shape[1]), anomaly_mask(label)
        log_alpha = F.softplus(at_label(prediction.extra["unknown"], label))
        known, unknown = log_alpha[:, 0], log_alpha[:, 1]
        own, wrong = torch.where(anomaly, unknown, known), torch.where(anomaly, known, unknown)
        return {
            "evidence": sum_over(torch.logaddexp(known, unknown) - own, inlier, anomaly),
            "divergence": sum_over(wrong - 1 + torch.exp(-wrong), inlier, anomaly),
        }


class UlreScore(Outputs):
    """α_1 / (α_0 + α_1) in (0, 1); z is averaged over views. Released results blur the score: evaluation.blur."""

    reads: Collection[str] = ("unknown",)

    def of(self, maps: Tensor) -> Tensor:
        """See `Score`."""
        log_alpha = F.softplus(self.split(maps, 2)[1])
        return torch.sigmoid(log_alpha[:, 1] - log_alpha[:, 0])

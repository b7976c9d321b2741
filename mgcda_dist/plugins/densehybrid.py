"""DenseHybrid (Grcić, Bevandić, Šegvić, ECCV 2022, arXiv 2207.02606): a posterior of the anomaly beside the energy.

    L = E_I[-log p_y] + β E_O[lse(L)] + 10 β E_{I∪O}[-log softmax(d)_{o}],   o = 1 on anomalies, β = 0.03
    score = -lse(L) + log softmax(d)_1

d are two channels of a head on the features in front of the classifier: `extra["unknown"]`. Void takes no part here; in
the released code it counts as inlier in the third term. The level lse(L) of anomalies has no floor.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from mgcda_dist.method.batch import Prediction
from mgcda_dist.method.terms import LossContext, Term
from mgcda_dist.models.scores import Outputs
from mgcda_dist.plugins.pixels import anomaly_mask, at_label, inlier_mask, sum_over

__all__ = ["DenseHybridLoss", "DenseHybridScore"]


class DenseHybridLoss:
    """See the module. Args: `beta`, β."""

    reads: Collection[str] = ("unknown",)

    def __init__(self, beta: float = 0.03) -> None:
        self.terms: Mapping[str, Term] = {"level": Term("anomaly", beta), "posterior": Term("both", 10 * beta)}

    def __call__(self, prediction: Prediction, label: Tensor, context: LossContext) -> dict[str, Tensor]:
        """Sums of both terms beside the cross-entropy; see `OutlierLoss`."""
        del context
        inlier, anomaly = inlier_mask(label, prediction.logits.shape[1]), anomaly_mask(label)
        log_q = torch.log_softmax(at_label(prediction.extra["unknown"], label), dim=1)
        return {
            "level": sum_over(torch.logsumexp(prediction.logits, dim=1), anomaly),
            "posterior": sum_over(-torch.where(anomaly, log_q[:, 1], log_q[:, 0]), inlier, anomaly),
        }


class DenseHybridScore(Outputs):
    """-lse(L) + log softmax(d)_1; logits and d are averaged over views."""

    reads: Collection[str] = ("unknown",)

    def of(self, maps: Tensor) -> Tensor:
        """See `Score`."""
        logits, d = self.split(maps, 2)
        return -torch.logsumexp(logits, dim=1) + torch.log_softmax(d, dim=1)[:, 1]

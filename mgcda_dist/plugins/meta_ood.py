"""Meta-OoD, entropy maximisation (Chan, Rottmann, Gottschalk, ICCV 2021, arXiv 2012.06575, equations 4 to 6).

    L = 1/|I∪O| · [ (1 - a) Σ_I -log p_y + a Σ_O 1/K Σ_k -log p_k ],   a = 0.9

Both sums have one denominator, so the weight of an anomalous pixel against an inlier does not depend on how many there
are: it is a / (1 - a). The built-in loss `entropy` has a mean per side instead. Score: the entropy, `entropy`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mgcda_dist.method.batch import Prediction
from mgcda_dist.method.terms import LossContext, Term
from mgcda_dist.plugins.pixels import anomaly_mask, class_nll, inlier_mask, sum_over

__all__ = ["MetaOodLoss"]


class MetaOodLoss:
    """See the module. Args: `anomaly_share`, a in (0, 1)."""

    def __init__(self, anomaly_share: float = 0.9) -> None:
        self.terms: Mapping[str, Term] = {
            "classification": Term("both", 1 - anomaly_share),
            "entropy": Term("both", anomaly_share),
        }

    def __call__(self, prediction: Prediction, label: Tensor, context: LossContext) -> dict[str, Tensor]:
        """Sums of both terms; see `OutlierLoss`."""
        del context
        log_p = torch.log_softmax(prediction.logits, dim=1)
        return {
            "classification": sum_over(class_nll(log_p, label), inlier_mask(label, log_p.shape[1])),
            "entropy": sum_over(-log_p.mean(dim=1), anomaly_mask(label)),
        }

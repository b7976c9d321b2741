"""PEBAL as released (Tian et al., ECCV 2022, arXiv 2111.12264): abstention with a penalty of the pixel's energy.

    r = blur(lse(L)²),   p = softmax over K classes and abstention,   e = -lse(L)
    G = E_I[-log(p_y + p_a / r)], apart for images without and with anomalies
      + 0.1 E_O[1/K Σ_k -log(p_k + p_a / r)]
      + 0.1 (½ E_I[relu(e + 12)²] + ½ E_O[relu(-6 - e)²] + 5e-4 · 1/n Σ_i ‖e_{O_i}‖ + 3e-6 · 1/n Σ_i ½ Σ |∇e|²)

Ours: the norm and the smoothness are sums over an image and means over images, which are independent of the number of
ranks (theirs are of the whole batch); ½ stays where a batch has no anomaly; r is at least 1e-4. The built-in loss
`abstention` is another one: without hinges, blur and the terms of an image. Score: energy, with evaluation.blur.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mgcda_dist.method.batch import INLIER, Prediction
from mgcda_dist.method.terms import LossContext, Term
from mgcda_dist.models.scores import blurred
from mgcda_dist.plugins.pixels import anomaly_mask, class_nll, inlier_mask, sum_over

__all__ = ["PebalLoss"]

_LEAST_PENALTY, _LEAST_PROBABILITY = 1e-4, 1e-7


class PebalLoss:
    """See the module.

    Args:
        inlier_energy, outlier_energy: hinges of e; -12 and -6 there.
    """

    columns: Collection[str] = ("abstention",)
    logits = "pixel"
    classifying: Collection[str] = ("mixed",)

    def __init__(self, inlier_energy: float = -12.0, outlier_energy: float = -6.0) -> None:
        self.inlier_energy, self.outlier_energy = inlier_energy, outlier_energy
        self.terms: Mapping[str, Term] = {
            "classification": Term("clean_inlier"),
            "mixed": Term("mixed_inlier"),
            "abstained": Term("anomaly", 0.1),
            "hinge_inlier": Term("inlier", 0.05),
            "hinge_anomaly": Term("anomaly", 0.05),
            "sparsity": Term("images", 0.1 * 5e-4),
            "smoothness": Term("images", 0.1 * 3e-6),
        }

    def counts(self, label: Tensor) -> dict[str, Tensor]:
        """Inlier pixels of images without and with anomalies; every label below the special ones is a class."""
        mixed = _is_mixed(label)
        inlier = label < _SPECIAL
        return {"clean_inlier": (inlier & ~mixed).sum(), "mixed_inlier": (inlier & mixed).sum()}

    def __call__(self, prediction: Prediction, label: Tensor, context: LossContext) -> dict[str, Tensor]:
        """Sums of all terms; see `OutlierLoss`."""
        del context
        logits, abstain = prediction.logits, prediction.extra["abstention"]
        inlier, anomaly, mixed = inlier_mask(label, logits.shape[1]), anomaly_mask(label), _is_mixed(label)
        energy = -torch.logsumexp(logits, dim=1)
        log_p = torch.log_softmax(torch.cat([logits, abstain], dim=1), dim=1)
        log_reward = log_p[:, -1] - blurred(energy.square()).clamp_min(_LEAST_PENALTY).log()
        gambled = torch.logaddexp(log_p[:, :-1], log_reward.unsqueeze(1))
        of_class = class_nll(gambled, label)
        floor = torch.full_like(gambled, _LEAST_PROBABILITY).log()
        over = torch.where(anomaly, energy, 0).square().flatten(1).sum(dim=1)
        return {
            "classification": sum_over(of_class, inlier & ~mixed),
            "mixed": sum_over(of_class, inlier & mixed),
            "abstained": sum_over(-torch.maximum(gambled, floor).mean(dim=1), anomaly),
            "hinge_inlier": sum_over(F.relu(energy - self.inlier_energy).square(), inlier),
            "hinge_anomaly": sum_over(F.relu(self.outlier_energy - energy).square(), anomaly),
            # The root of 0 has no gradient.
            "sparsity": torch.where(over > 0, over, 1).sqrt().mul(over > 0).sum(),
            "smoothness": 0.5 * (energy.diff(dim=1).square().sum() + energy.diff(dim=2).square().sum()),
        }


_SPECIAL = INLIER
"""The first label that is no class."""


def _is_mixed(label: Tensor) -> Tensor:
    """N×1×1 bool: images that show an anomaly."""
    return anomaly_mask(label).flatten(1).any(dim=1).view(-1, 1, 1)

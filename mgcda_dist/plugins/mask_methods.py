"""Methods on mask networks: EAM, UNO, RbA and Mask2Anomaly. S_k(p) = Σ_q P_q(k) σ(m_q(p)) over the inlier classes.

    method         loss beside the set loss                        score
    EAM            none: anomalies lie in no target mask           1 - Σ_q σ(m_q) max_k P_q(k)
    UNO            none: anomalies are the mask of one class more  -Σ_q σ(m_q) (max_k P_q(k) - P_q(negative))
    RbA            ½ E_O[relu(5 - R)²], R = -Σ_k tanh(S_k)         R
    Mask2Anomaly   ½ (E_I[s²] + E_O[relu(m - s)²])                 s = 1 - max_k S_k

Terms beside the set loss are sums over layers, too. EAM: Grcić, Šarić, Šegvić, CVPR workshops 2023; UNO: Delić, Grcić,
Šegvić, BMVC 2024; RbA: Nayal et al., ICCV 2023, arXiv 2211.14293; Mask2Anomaly: Rai et al., ICCV 2023.

The released code of Mask2Anomaly has s = -max_k S_k ≤ 0, whose hinge on anomalies and square on inliers both push it to
0, the anomalous end: the sign test finds that. Here s is in 0…1, and m = 0.75.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mgcda_dist.method.batch import Prediction
from mgcda_dist.method.terms import LossContext, Term
from mgcda_dist.models.scores import PredictionScore
from mgcda_dist.plugins.masks import LAST, class_scores, layers, queries
from mgcda_dist.plugins.pixels import anomaly_mask, at_label, inlier_mask, sum_over
from mgcda_dist.plugins.set_loss import SetLoss

__all__ = ["EamScore", "Mask2AnomalyLoss", "Mask2AnomalyScore", "RbaLoss", "RbaScore", "UnoLoss", "UnoScore"]


class EamScore(PredictionScore):
    """1 - Σ_q σ(m_q) max_k P_q(k); the loss is `SetLoss`."""

    def __init__(self) -> None:
        super().__init__(_eam, LAST)


class UnoLoss(SetLoss):
    """The set loss with anomalies as the mask of one class more. Args: as of `SetLoss`."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments, anomalies_are_a_class=True)


class UnoScore(PredictionScore):
    """-Σ_q σ(m_q) (max_k P_q(k) - P_q(negative)), of a softmax over C + 2 columns."""

    def __init__(self) -> None:
        super().__init__(_uno, LAST)


class RbaLoss(SetLoss):
    """The set loss, and the squared hinge of RbA on anomalies; its hinge on inliers, relu(R)², is always 0 as R ≤ 0.

    Args:
        level: 5 there, above every value of R, so that the hinge never rests.
        arguments: of `SetLoss`.
    """

    def __init__(self, level: float = 5.0, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.level = level
        self.terms: Mapping[str, Term] = {**self.terms, "rejected": Term("anomaly", 0.5)}

    def __call__(self, prediction: Prediction, label: Tensor, context: LossContext) -> dict[str, Tensor]:
        """See `OutlierLoss`."""
        sums, anomaly = super().__call__(prediction, label, context), anomaly_mask(label)
        parts = [sum_over(F.relu(self.level - r).square(), anomaly) for r in _rejections(prediction, label)]
        return sums | {"rejected": torch.stack(parts).sum()}


class RbaScore(PredictionScore):
    """R = -Σ_k tanh(S_k) in (-C, 0]."""

    def __init__(self) -> None:
        super().__init__(_rba, LAST)


class Mask2AnomalyLoss(SetLoss):
    """The set loss, and the contrast of s on both sides, with the sign that is meant.

    Args:
        margin: m.
        arguments: of `SetLoss`.
    """

    def __init__(self, margin: float = 0.75, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.margin = margin
        more = {"contrast_inlier": Term("inlier", 0.5), "contrast_anomaly": Term("anomaly", 0.5)}
        self.terms: Mapping[str, Term] = {**self.terms, **more}

    def __call__(self, prediction: Prediction, label: Tensor, context: LossContext) -> dict[str, Tensor]:
        """See `OutlierLoss`."""
        sums, num_classes = super().__call__(prediction, label, context), prediction.logits.shape[1]
        inlier, anomaly = inlier_mask(label, num_classes), anomaly_mask(label)
        scores = [1 - at_label(class_scores(of, num_classes), label).amax(dim=1) for _, of in layers(prediction)]
        normal = [sum_over(s.square(), inlier) for s in scores]
        unknown = [sum_over(F.relu(self.margin - s).square(), anomaly) for s in scores]
        more = {"contrast_inlier": torch.stack(normal).sum(), "contrast_anomaly": torch.stack(unknown).sum()}
        return sums | more


class Mask2AnomalyScore(PredictionScore):
    """1 - max_k S_k, without the refinement by kept masks."""

    def __init__(self) -> None:
        super().__init__(_mask2anomaly, LAST)


def _rejections(prediction: Prediction, label: Tensor) -> list[Tensor]:
    """R of every layer at the label's size."""
    num_classes = prediction.logits.shape[1]
    return [-at_label(class_scores(of, num_classes), label).tanh().sum(dim=1) for _, of in layers(prediction)]


def _eam(prediction: Prediction) -> Tensor:
    of = queries(prediction.extra)
    sure = of.posterior(prediction.logits.shape[1]).amax(dim=2)
    return 1 - torch.einsum("nq,nqhw->nhw", sure, of.masks.sigmoid())


def _uno(prediction: Prediction) -> Tensor:
    of, num_classes = queries(prediction.extra), prediction.logits.shape[1]
    posterior = of.posterior(num_classes + 1)
    lead = posterior[:, :, :num_classes].amax(dim=2) - posterior[:, :, num_classes]
    return -torch.einsum("nq,nqhw->nhw", lead, of.masks.sigmoid())


def _rba(prediction: Prediction) -> Tensor:
    return -class_scores(queries(prediction.extra), prediction.logits.shape[1]).tanh().sum(dim=1)


def _mask2anomaly(prediction: Prediction) -> Tensor:
    return 1 - class_scores(queries(prediction.extra), prediction.logits.shape[1]).amax(dim=1)

"""L_seg: cross-entropy over inlier pixels plus one outlier term, as sums and counts that add up over ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from mgcda_dist.method.batch import MaskedSums
from mgcda_dist.models.outlier_losses import (
    PixelSums,
    abstention,
    energy_hinge,
    entropy,
    label_at,
    rba_hinge,
    upsample,
)
from mgcda_dist.models.scores import rba, rba_mask

__all__ = ["OutlierKind", "SegmentationLoss", "segmentation_loss"]

OutlierKind = Literal["energy_hinge", "entropy", "abstention", "rba_hinge", "none"]


class SegmentationLoss:
    """L_seg = Σ_g weights[g] · (sum of group g over ranks) / (count of group g over ranks).

    Groups: cross-entropy over inliers; with an outlier term, its inlier side and its anomaly side. An outlier term that
    says itself how inliers are classified takes the place of cross-entropy: its inlier side is the first group.

    Args:
        outlier: (logits, label) -> sums, or None for cross-entropy alone.
        outlier_weight: weight of both sides of the outlier term.
        stride_px: the loss is taken at every `stride_px`-th pixel: 1 is every pixel, 4 the size of the logits.
        classifies: the outlier term takes the place of cross-entropy.
        class_weights: factor of every class's pixels in the cross-entropy; None: 1. The mean is still one over pixels,
            so that counts stay whole numbers, which add up over ranks without rounding.
    """

    def __init__(
        self,
        outlier: Callable[[Tensor, Tensor], PixelSums] | None,
        outlier_weight: float,
        stride_px: int = 1,
        *,
        classifies: bool = False,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        self.outlier, self.stride_px, self.classifies = outlier, stride_px, classifies
        sides = 0 if outlier is None else 1 if classifies else 2
        self.weights: tuple[float, ...] = (1.0, *(outlier_weight,) * sides)
        self.class_weights = class_weights

    def __call__(self, logits: Tensor, label: Tensor) -> MaskedSums:
        """Sums for logits N×C×h×w and labels N×H×W of this rank."""
        height, width = (-(-size // self.stride_px) for size in label.shape[1:])
        logits = upsample(logits.to(torch.promote_types(logits.dtype, torch.float32)), (height, width))
        label = label if self.stride_px == 1 else label_at(label, (height, width))
        if self.outlier is not None and self.classifies:
            both = self.outlier(logits, label)
            return MaskedSums(
                torch.stack([both.inlier_sum, both.anomaly_sum]), torch.stack([both.inlier_count, both.anomaly_count])
            )
        inlier = label < logits.shape[1]
        # With nothing but ignored pixels the sum is 0 and the gradient a zero of the logits' shape.
        target = torch.where(inlier, label, -100)
        weight = None if self.class_weights is None else logits.new_tensor(self.class_weights)
        sums = [F.cross_entropy(logits, target, weight, reduction="sum", ignore_index=-100)]
        counts = [inlier.sum()]
        if self.outlier is not None:
            outlier = self.outlier(logits, label)
            sums += [outlier.inlier_sum, outlier.anomaly_sum]
            counts += [outlier.inlier_count, outlier.anomaly_count]
        return MaskedSums(torch.stack(sums), torch.stack(counts))


def segmentation_loss(
    outlier: OutlierKind,
    *,
    outlier_weight: float = 0.1,
    inlier_energy: float = -8.0,
    outlier_energy: float = -3.0,
    inlier_rba: float = -0.9,
    outlier_rba: float = -0.1,
    of_masks: bool = False,
    stride_px: int = 2,
    class_weights: Sequence[float] | None = None,
) -> SegmentationLoss:
    """The loss named by its outlier term.

    Args:
        outlier: `energy_hinge`, `entropy`, `abstention` (logits N×(C+1)×h×w), `rba_hinge` or `none`.
        outlier_weight: weight of both sides of the outlier term.
        inlier_energy, outlier_energy: m_in and m_out of `energy_hinge`.
        inlier_rba, outlier_rba: s_in and s_out of `rba_hinge`.
        of_masks: the logits are log class scores of a mask network.
        stride_px: of the loss; at 2 it costs a quarter of what every pixel costs (11 against 40 ms for 8×256² on one
            CPU core, next to 0.5 s for the network), and the logits, of stride 4, are still finely supervised.
        class_weights: of the cross-entropy, C; not for `abstention`, which takes its place.
    """

    def hinge(logits: Tensor, label: Tensor) -> PixelSums:
        return energy_hinge(logits, label, inlier_energy, outlier_energy)

    def rejected(logits: Tensor, label: Tensor) -> PixelSums:
        return rba_hinge(logits, label, inlier_rba, outlier_rba, rba_mask if of_masks else rba)

    match outlier:
        case "energy_hinge":
            return SegmentationLoss(hinge, outlier_weight, stride_px, class_weights=class_weights)
        case "entropy":
            return SegmentationLoss(entropy, outlier_weight, stride_px, class_weights=class_weights)
        case "abstention":
            return SegmentationLoss(abstention, outlier_weight, stride_px, classifies=True)
        case "rba_hinge":
            return SegmentationLoss(rejected, outlier_weight, stride_px, class_weights=class_weights)
        case "none":
            return SegmentationLoss(None, 0.0, stride_px, class_weights=class_weights)
        case _:
            raise ValueError(f"unknown outlier term {outlier!r}: one of {', '.join(get_args(OutlierKind))}")

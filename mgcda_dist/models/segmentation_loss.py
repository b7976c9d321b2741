"""L_seg: cross-entropy over inlier pixels plus one outlier term, as sums and counts that add up over ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mgcda_dist.choices import OUTLIER_LOSSES, LogitKind, LossDefaults, OutlierKind
from mgcda_dist.method.batch import MaskedSums
from mgcda_dist.models.outlier_losses import OutlierLoss, label_at, outlier_loss, upsample

__all__ = ["SegmentationLoss", "segmentation_loss"]


class SegmentationLoss:
    """L_seg = Σ_g weights[g] · (sum of group g over ranks) / (count of group g over ranks).

    Groups: cross-entropy over inliers; with an outlier term, its inlier side and its anomaly side. An outlier term that
    classifies inliers takes the place of cross-entropy: its inlier side is the first group.

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
        outlier: OutlierLoss | None,
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
    outlier_weight: float = LossDefaults.outlier_weight,
    limits: Mapping[str, float] | None = None,
    logits: LogitKind = "pixel",
    stride_px: int = 2,
    class_weights: Sequence[float] | None = None,
) -> SegmentationLoss:
    """The loss named by its outlier term.

    Args:
        outlier: a key of `choices.OUTLIER_LOSSES`.
        outlier_weight: weight of both sides of the outlier term.
        limits: of the outlier loss, by name; None: its defaults.
        logits: kind of the network's logits.
        stride_px: of the loss; at 2 it costs a quarter of what every pixel costs (11 against 40 ms for 8×256² on one
            CPU core, next to 0.5 s for the network), and the logits, of stride 4, are still finely supervised.
        class_weights: of the cross-entropy, C; ignored by a loss that takes its place.
    """
    term = outlier_loss(outlier, limits, logits)
    classifies = OUTLIER_LOSSES[outlier].abstains
    weights = None if classifies else class_weights
    return SegmentationLoss(term, outlier_weight, stride_px, classifies=classifies, class_weights=weights)

"""L_seg: cross-entropy over inlier pixels plus one outlier term, as sums and counts that add up over ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mgcda_dist.choices import ANOMALY, OUTLIER_LOSSES, VOID, LogitKind, LossDefaults, OutlierKind
from mgcda_dist.models.outlier_losses import OutlierLoss, label_at, outlier_loss, upsample

__all__ = ["SegmentationLoss", "segmentation_loss"]


class SegmentationLoss:
    """L_seg = Σ_name weights[name] · (sum of that name over ranks) / (count of that name over ranks).

    Names: `classification` is the cross-entropy over inliers; `outlier_inlier` and `outlier_anomaly` are the two sides
    of the outlier loss. One that classifies inliers itself takes the place of the cross-entropy: its inlier side is
    `classification`.

    Args:
        outlier: (logits, label) -> sums, or None for cross-entropy alone.
        outlier_weight: weight of both sides of the outlier loss.
        num_classes: C.
        stride_px: the loss is taken at every `stride_px`-th pixel: 1 is every pixel, 4 the size of the logits.
        classifies: the outlier loss takes the place of cross-entropy.
        class_weights: factor of every class's pixels in the cross-entropy; None: 1. The mean is still one over pixels,
            so that counts stay whole numbers, which add up over ranks without rounding.
    """

    def __init__(
        self,
        outlier: OutlierLoss | None,
        outlier_weight: float,
        num_classes: int,
        stride_px: int = 1,
        *,
        classifies: bool = False,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        self.outlier, self.num_classes, self.stride_px, self.classifies = outlier, num_classes, stride_px, classifies
        sides = () if outlier is None else ("outlier_anomaly",) if classifies else ("outlier_inlier", "outlier_anomaly")
        self.weights: Mapping[str, float] = {"classification": 1.0} | dict.fromkeys(sides, outlier_weight)
        self.class_weights = class_weights

    def counts(self, label: Tensor) -> dict[str, Tensor]:
        """Pixels per name, int64, for labels N×H×W of this rank."""
        label = self._label_at_loss(label)
        inlier, anomaly = (label < self.num_classes).sum(), (label == ANOMALY).sum()
        numbers = {"classification": inlier, "outlier_inlier": inlier, "outlier_anomaly": anomaly}
        return {name: numbers[name] for name in self.weights}

    def __call__(self, logits: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Sums per name for logits N×C×h×w and labels N×H×W of this rank."""
        label = self._label_at_loss(label)
        size = label.shape[1], label.shape[2]
        logits = upsample(logits.to(torch.promote_types(logits.dtype, torch.float32)), size)
        if self.outlier is not None and self.classifies:
            both = self.outlier(logits, label)
            return {"classification": both.inlier_sum, "outlier_anomaly": both.anomaly_sum}
        # With nothing but ignored pixels the sum is 0 and the gradient a zero of the logits' shape.
        target = torch.where(label < self.num_classes, label, -100)
        weight = None if self.class_weights is None else logits.new_tensor(self.class_weights)
        sums = {"classification": F.cross_entropy(logits, target, weight, reduction="sum", ignore_index=-100)}
        if self.outlier is not None:
            outlier = self.outlier(logits, label)
            sums |= {"outlier_inlier": outlier.inlier_sum, "outlier_anomaly": outlier.anomaly_sum}
        return sums

    def inlier_sum(self, logits: Tensor, inlier: Tensor) -> Tensor:
        """Sum of the outlier loss over pixels that are inliers of unknown class.

        Args:
            logits: N×C×h×w, at any stride.
            inlier: N×h×w, bool.

        Returns:
            Scalar, float32 at least; a constant 0 for a loss without `OutlierEntry.any_inlier`.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.outlier is None or self.classifies:
            return logits.new_zeros(())
        return self.outlier(logits, torch.where(inlier, 0, VOID)).inlier_sum

    def _label_at_loss(self, label: Tensor) -> Tensor:
        height, width = (-(-size // self.stride_px) for size in label.shape[1:])
        return label if self.stride_px == 1 else label_at(label, (height, width))


def segmentation_loss(
    outlier: OutlierKind,
    num_classes: int,
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
        num_classes, outlier_weight: as of `SegmentationLoss`.
        limits: of the outlier loss, by name; None: its defaults.
        logits: kind of the network's logits.
        stride_px: of the loss; at 2 it costs a quarter of what every pixel costs (11 against 40 ms for 8×256² on one
            CPU core, next to 0.5 s for the network), and the logits, of stride 4, are still finely supervised.
        class_weights: of the cross-entropy, C; ignored by a loss that takes its place.
    """
    term = outlier_loss(outlier, limits, logits)
    classifies = OUTLIER_LOSSES[outlier].abstains
    weights = None if classifies else class_weights
    return SegmentationLoss(term, outlier_weight, num_classes, stride_px, classifies=classifies, class_weights=weights)

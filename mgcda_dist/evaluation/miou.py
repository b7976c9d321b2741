"""Closed-set mIoU from a confusion matrix that sums over ranks: stands next to AP always."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.errors import MgcdaError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ClassCounts", "Confusion", "miou_of"]

ClassCounts = NDArray[np.int64]
"""3×C: per class the pixels that are right, those labelled so, and those predicted so."""


class Confusion:
    """Counts of (true class, predicted class) over all pixels whose label is an inlier class.

    Args:
        num_classes: C. Labels >= C (inlier of unknown class, anomaly, void) are not counted.

    Attributes:
        matrix: C×C, int64, [true, predicted]. Matrices of ranks merge by addition.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.matrix: NDArray[np.int64] = np.zeros((num_classes, num_classes), np.int64)

    def update(
        self, prediction: NDArray[np.integer] | Tensor, label: NDArray[np.integer] | Tensor, where: str = "frame"
    ) -> None:
        """Count one frame or batch.

        Args:
            prediction: predicted classes, 0 … C-1, any integer type.
            label: true labels of the same shape.
            where: name of the frame, for errors.

        Raises:
            MgcdaError: shapes differ, or a counted pixel's prediction is not a class.
        """
        predicted, true = (np.asarray(x if isinstance(x, np.ndarray) else x.cpu().numpy()) for x in (prediction, label))
        if predicted.shape != true.shape:
            problem = f"predictions have shape {predicted.shape}, labels {true.shape}"
            raise MgcdaError(where, problem, "resize the prediction to the label")
        counted = (true >= 0) & (true < self.num_classes)
        predicted, true = predicted[counted].astype(np.int32), true[counted].astype(np.int32)
        if predicted.size and not 0 <= int(predicted.min()) <= int(predicted.max()) < self.num_classes:
            problem = f"predicted class {int(predicted.max())} with {self.num_classes} classes"
            raise MgcdaError(where, problem, "pass class indices 0 … C-1")
        cells = np.bincount(true * self.num_classes + predicted, minlength=self.num_classes**2)
        self.matrix += cells.reshape(self.matrix.shape)

    def merge(self, other: Confusion) -> None:
        """Add what another confusion matrix has counted."""
        self.matrix += other.matrix

    def counts(self) -> ClassCounts:
        """The counts that IoU is computed from."""
        return np.stack([np.diagonal(self.matrix), self.matrix.sum(1), self.matrix.sum(0)])

    def iou(self) -> NDArray[np.float64]:
        """IoU per class: C, float64; NaN for a class that neither occurs nor is predicted."""
        hit, labelled, predicted = self.counts().astype(np.float64)
        with np.errstate(invalid="ignore"):
            return hit / (labelled + predicted - hit)

    def miou(self) -> float:
        """Mean IoU over the classes that occur in the labels; NaN when none does."""
        return float(miou_of(np.ones((1, 1)), self.counts()[None])[0])


def miou_of(weights: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """mIoU of K sets that hold each of I images so many times.

    Args:
        weights: K×I.
        counts: I×3×C, see `ClassCounts`.

    Returns:
        K, float64: mean IoU over the classes that occur in the labels; NaN where none does.
    """
    num_images, _, num_classes = counts.shape
    summed = (weights @ counts.reshape(num_images, 3 * num_classes)).reshape(len(weights), 3, num_classes)
    hit, labelled, predicted = summed[:, 0], summed[:, 1], summed[:, 2]
    present = labelled > 0
    # A class that occurs has a union.
    iou = np.divide(hit, labelled + predicted - hit, out=np.zeros_like(hit), where=present)
    with np.errstate(invalid="ignore"):
        return iou.sum(-1) / present.sum(-1)

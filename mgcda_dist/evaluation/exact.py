"""Exact pixel metrics of small sets, under every convention: the reference of `mgcda_dist.evaluation.conventions`.

Memory: 4 bytes per valid pixel (8 for float64 scores). `mgcda_dist.evaluation.pixel` does it in constant memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.evaluation.metrics import (
    CurvePoints,
    PixelMetrics,
    RankedCounts,
    curve_points,
    known_convention,
    mean_per_image,
    pixel_metrics,
)
from mgcda_dist.evaluation.pixel import split_scores
from mgcda_dist.evaluation.ranks import distinct
from mgcda_dist.evaluation.smiyc import smiyc_frame, smiyc_metrics

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ExactPixelMetrics", "exact_counts"]

Floats = NDArray[np.floating]


class ExactPixelMetrics:
    """Keeps every valid pixel's score; for small sets and as the reference of the streaming histogram."""

    def __init__(self) -> None:
        self._frames: list[tuple[Floats, Floats]] = []

    def update(
        self, score: NDArray[np.generic] | Tensor, label: NDArray[np.generic] | Tensor, where: str = "frame"
    ) -> None:
        """Count one frame; arguments and errors as `PixelHistogram.update`."""
        self._frames.append(split_scores(score, label, where))

    def result(self, convention: str = "pooled") -> PixelMetrics:
        """The metrics under one convention; NaN where one does not exist.

        Raises:
            MgcdaError: unknown convention.
        """
        match known_convention(convention):
            case "per_image":
                return mean_per_image(self.per_image(), self.result())
            case "smiyc":
                return smiyc_metrics([smiyc_frame(*frame, "frame") for frame in self._frames])
            case name:
                frames = [frame for frame in self._frames if name != "skip_empty" or frame[1].size]
                return pixel_metrics(_pool(frames), len(frames), convention=name, nearest_tpr=name == "pooled_nearest")

    def per_image(self) -> list[PixelMetrics]:
        """Each frame's own metrics, in order of arrival."""
        return [pixel_metrics(exact_counts(*frame), 1, convention="per_image") for frame in self._frames]

    def curves(self, max_points: int = 600) -> CurvePoints:
        """Pooled PR and ROC curve for figures."""
        return curve_points(_pool(self._frames), max_points)


def exact_counts(inlier: Floats, anomaly: Floats) -> RankedCounts:
    """A row per distinct anomaly score, and one for the inliers between two of them: all that the metrics depend on.

    Args:
        inlier: scores of the inlier pixels, ascending.
        anomaly: scores of the anomaly pixels, ascending.
    """
    value = distinct(anomaly)
    num = np.diff(np.searchsorted(anomaly, value), append=anomaly.size)
    below = np.concatenate([np.searchsorted(inlier, value, side="left"), [inlier.size]])
    upto = np.concatenate([[0], np.searchsorted(inlier, value, side="right")])
    # Rows in turn: inliers under the lowest anomaly, that anomaly, inliers above it, and so on upwards.
    rows = 2 * value.size + 1
    threshold, anomalies, inliers = np.zeros(rows), np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    inliers[0::2], inliers[1::2] = below - upto, upto[1:] - below[:-1]
    anomalies[1::2], threshold[1::2] = num, value
    between = np.flatnonzero(inliers[0::2])
    threshold[2 * between] = inlier[upto[between]]
    kept = (inliers + anomalies > 0)[::-1]
    return RankedCounts(
        threshold[::-1][kept], anomalies[::-1][kept], inliers[::-1][kept], np.ones(np.count_nonzero(kept), np.bool_)
    )


def _pool(frames: list[tuple[Floats, Floats]]) -> RankedCounts:
    nothing = np.zeros(0, np.float32)
    inlier, anomaly = (np.sort(np.concatenate([nothing, *(frame[side] for frame in frames)])) for side in range(2))
    return exact_counts(inlier, anomaly)

"""Exact pixel metrics of small sets, under every convention in use: they move published numbers more than methods do.

- `pooled`: all valid pixels of all frames as one set (Fishyscapes). The default everywhere.
- `pooled_nearest`: pooled, but FPR95 is read at the ROC point nearest to a TPR of 0.95 (PEBAL, RPL, ATTA).
- `per_image`: mean of each frame's metrics, over the frames that have both classes (pytorch-ood).
- `smiyc`: scores in float16, each frame in 768 bins between its own quantiles, bins pooled by their lower edge
  (SegmentMeIfYouCan). For scores in 0 … 1: the edges 0 and 1 are always among the bins'.
- `skip_empty`: pooled over the frames that have an anomaly pixel (Mask2Anomaly).

Memory: 4 bytes per valid pixel (8 for float64 scores). `mgcda_dist.evaluation.pixel` does it in constant memory.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.errors import MgcdaError
from mgcda_dist.evaluation.metrics import CurvePoints, PixelMetrics, RankedCounts, curve_points, pixel_metrics
from mgcda_dist.evaluation.pixel import split_scores

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CONVENTIONS", "Convention", "ExactPixelMetrics", "exact_counts"]

Floats = NDArray[np.floating]

Convention = Literal["pooled", "pooled_nearest", "per_image", "smiyc", "skip_empty"]
CONVENTIONS: tuple[Convention, ...] = get_args(Convention)

_SMIYC_BINS = 768


class ExactPixelMetrics:
    """Keeps every valid pixel's score; for small sets and as the reference of the streaming histogram."""

    def __init__(self) -> None:
        self._frames: list[tuple[Floats, Floats]] = []

    def update(
        self, score: NDArray[np.generic] | Tensor, label: NDArray[np.generic] | Tensor, where: str = "frame"
    ) -> None:
        """Count one frame; arguments and errors as `PixelHistogram.update`."""
        self._frames.append(split_scores(score, label, where))

    def result(self, convention: Convention = "pooled") -> PixelMetrics:
        """The metrics under one convention; NaN where one does not exist.

        Raises:
            MgcdaError: unknown convention.
        """
        match convention:
            case "pooled" | "pooled_nearest" | "skip_empty":
                frames = self._chosen(convention)
                nearest = convention == "pooled_nearest"
                return pixel_metrics(_pool(frames), len(frames), convention=convention, nearest_tpr=nearest)
            case "per_image":
                return self._mean_per_image()
            case "smiyc":
                return pixel_metrics(_smiyc_counts(self._frames), len(self._frames), convention=convention)
            case _:
                raise MgcdaError("convention", f"{convention!r} is unknown", f"use one of {', '.join(CONVENTIONS)}")

    def per_image(self) -> list[PixelMetrics]:
        """Each frame's own metrics, in order of arrival."""
        return [pixel_metrics(exact_counts(*frame), 1, convention="per_image") for frame in self._frames]

    def curves(self, max_points: int = 600) -> CurvePoints:
        """Pooled PR and ROC curve for figures."""
        return curve_points(_pool(self._frames), max_points)

    def _chosen(self, convention: Convention) -> list[tuple[Floats, Floats]]:
        return [frame for frame in self._frames if convention != "skip_empty" or frame[1].size]

    def _mean_per_image(self) -> PixelMetrics:
        complete = [each for each in self.per_image() if each.num_anomaly and each.num_inlier]
        total = pixel_metrics(_pool(self._frames), len(complete), convention="per_image")
        names = [field.name for field in fields(PixelMetrics) if field.type == "float"]
        means = {name: float(np.mean([getattr(each, name) for each in complete])) for name in names} if complete else {}
        return replace(total, **(means or dict.fromkeys(names, float("nan"))))


def exact_counts(inlier: Floats, anomaly: Floats) -> RankedCounts:
    """One row per distinct score.

    Args:
        inlier: scores of the inlier pixels, any order.
        anomaly: scores of the anomaly pixels, any order.
    """
    scores = np.concatenate([inlier, anomaly])
    threshold, row = np.unique(scores, return_inverse=True)
    is_anomaly = np.arange(scores.size) >= inlier.size
    count = np.bincount(row * 2 + is_anomaly, minlength=2 * threshold.size).astype(np.int64)[::-1]
    tied = np.ones(threshold.size, np.bool_)
    return RankedCounts(threshold[::-1].astype(np.float64), count[0::2], count[1::2], tied)


def _pool(frames: list[tuple[Floats, Floats]]) -> RankedCounts:
    nothing = np.zeros(0, np.float32)
    inlier = np.concatenate([nothing, *(frame[0] for frame in frames)])
    return exact_counts(inlier, np.concatenate([nothing, *(frame[1] for frame in frames)]))


def _smiyc_counts(frames: list[tuple[Floats, Floats]]) -> RankedCounts:
    tables = [_smiyc_frame(inlier.astype(np.float16), anomaly.astype(np.float16)) for inlier, anomaly in frames]
    edge, anomaly, inlier = (np.concatenate([table[i] for table in tables] or [np.zeros(0)]) for i in range(3))
    order = np.argsort(edge)[::-1]
    edge, anomaly, inlier = edge[order], anomaly[order].astype(np.int64), inlier[order].astype(np.int64)
    if not edge.size:
        return RankedCounts(edge, anomaly, inlier, np.zeros(0, np.bool_))
    # Bins with one lower edge enter together, except that the official code keeps the very first bin as a point.
    first = np.flatnonzero(np.concatenate([[True], edge[1:] != edge[:-1]]))
    first = np.unique(np.concatenate([first, [min(1, edge.size - 1)]]))
    tied = np.ones(first.size, np.bool_)
    return RankedCounts(
        edge[first], np.add.reduceat(anomaly, first), np.add.reduceat(inlier, first), tied
    )  # fmt: skip


def _smiyc_frame(inlier: Floats, anomaly: Floats) -> tuple[NDArray[np.float64], ...]:
    quantiles = [np.array([0.0, 1.0])]
    for part in (anomaly, inlier):
        if part.size:
            quantiles.append(np.quantile(part, np.linspace(0, 1, min(_SMIYC_BINS // 2, part.size))))
    edges = np.unique(np.concatenate(quantiles))
    counts = (np.histogram(part, bins=edges)[0][::-1].astype(np.float64) for part in (anomaly, inlier))
    return (edges[-2::-1].astype(np.float64), *counts)  # highest first, as the order among equal edges matters

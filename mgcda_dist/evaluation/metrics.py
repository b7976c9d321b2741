"""AP, AUROC, FPR at 95 % TPR and best F1 from counts ranked by score: the formulas, once, for every source of counts.

A *row* holds the anomaly and inlier pixels of one score, or of one narrow interval of scores. P and N are the totals,
p and n a row's own counts, P_b and N_b what ranks above the row. The last axis is always the row, so the same formulas
serve one curve (R) and a stack of bootstrap replicates (K×R).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.choices import CONVENTIONS, Convention
from mgcda_dist.errors import MgcdaError

__all__ = [
    "CurvePoints",
    "PixelMetrics",
    "RankedCounts",
    "area_under_roc",
    "average_precision",
    "best_f1",
    "curve_points",
    "fpr_at_tpr",
    "fpr_nearest_tpr",
    "known_convention",
    "mean_per_image",
    "pixel_metrics",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TPR_LEVEL = 0.95


@dataclass(frozen=True)
class RankedCounts:
    """Pixel counts per score, highest score first.

    Attributes:
        threshold: R, float64: score of the row; "score >= threshold" takes this row and all above it.
        anomaly: R, int64: anomaly pixels of the row (p).
        inlier: R, int64: inlier pixels of the row (n).
        tied: R, bool: the row's pixels share one score, so they enter the curve together, as a step. Otherwise they are
            spread over a narrow interval, and the curve runs straight through it.
    """

    threshold: Floats
    anomaly: Ints
    inlier: Ints
    tied: NDArray[np.bool_]


@dataclass(frozen=True)
class PixelMetrics:
    """Pixel metrics of a set of frames, as fractions (0 … 1), with the convention that produced them.

    Attributes:
        ap: average precision as a step sum, Σ (R_k - R_{k-1}) P_k (scikit-learn's `average_precision_score`).
        auroc: area under the ROC curve, trapezoid.
        fpr95: false positive rate at the first threshold with a true positive rate >= 0.95.
        best_f1: highest F1 of the anomaly class over all thresholds.
        best_f1_threshold: the score where it is reached (score >= threshold is an anomaly).
        num_anomaly: anomaly pixels.
        num_inlier: inlier pixels.
        convention: how frames were pooled, one of `choices.CONVENTIONS`.

    Metrics that do not exist (no anomaly pixel, or no inlier pixel) are NaN.
    """

    ap: float
    auroc: float
    fpr95: float
    best_f1: float
    best_f1_threshold: float
    num_anomaly: int
    num_inlier: int
    num_frames: int
    convention: str = "pooled"


@dataclass(frozen=True)
class CurvePoints:
    """A thinned PR and ROC curve for figures: each K, float64, in order of falling threshold; fractions."""

    threshold: Floats
    recall: Floats
    precision: Floats
    fpr: Floats

    @classmethod
    def none(cls) -> CurvePoints:
        """Curves without a point."""
        return cls(*(np.zeros(0) for _ in range(4)))

    def f1(self) -> Floats:
        """F1 at every point."""
        return 2 * self.precision * self.recall / np.maximum(self.precision + self.recall, 1e-12)

    def at(self, thresholds: Floats) -> CurvePoints:
        """The curve where "score >= threshold" is an anomaly: the last point whose threshold is not below."""
        # A threshold that lies between two points takes what ranks above it; before the first point, that one.
        rows = np.clip(np.searchsorted(-self.threshold, -thresholds, side="right") - 1, 0, len(self.threshold) - 1)
        return CurvePoints(thresholds, self.recall[rows], self.precision[rows], self.fpr[rows])


def pixel_metrics(
    counts: RankedCounts, num_frames: int, *, convention: str = "pooled", nearest_tpr: bool = False
) -> PixelMetrics:
    """All pixel metrics of one curve.

    Args:
        num_frames: frames behind them, for the record.
        convention: name of the pooling convention, for the record.
        nearest_tpr: read FPR95 at the ROC point nearest to 0.95 (`pooled_nearest`).
    """
    num_anomaly, num_inlier = int(counts.anomaly.sum()), int(counts.inlier.sum())
    ap = auroc = fpr95 = highest_f1 = best_threshold = float("nan")
    if num_anomaly:
        ap = float(average_precision(counts.anomaly, counts.inlier, counts.tied))
        f1 = _f1(counts.anomaly, counts.inlier)
        highest_f1, best_threshold = float(f1.max()), float(counts.threshold[np.argmax(f1)])
    if num_anomaly and num_inlier:
        auroc = float(area_under_roc(counts.anomaly, counts.inlier))
        if nearest_tpr:
            fpr95 = fpr_nearest_tpr(counts.anomaly, counts.inlier)
        else:
            fpr95 = float(fpr_at_tpr(counts.anomaly, counts.inlier, counts.tied))
    return PixelMetrics(ap, auroc, fpr95, highest_f1, best_threshold, num_anomaly, num_inlier, num_frames, convention)


def mean_per_image(images: list[PixelMetrics], total: PixelMetrics) -> PixelMetrics:
    """The `per_image` convention: means over the images that have both classes; pixel counts are those of `total`."""
    complete = [each for each in images if each.num_anomaly and each.num_inlier]
    names = [field.name for field in fields(PixelMetrics) if field.type == "float"]
    means = {name: float(np.mean([getattr(each, name) for each in complete])) if complete else np.nan for name in names}
    return replace(total, num_frames=len(complete), convention="per_image", **means)


def known_convention(name: str) -> Convention:
    """The name as a convention.

    Raises:
        MgcdaError: there is none of that name.
    """
    for convention in CONVENTIONS:
        if name == convention:
            return convention
    raise MgcdaError("convention", f"{name!r} is unknown", f"use one of {', '.join(CONVENTIONS)}")


def average_precision(anomaly: NDArray[np.number], inlier: NDArray[np.number], tied: NDArray[np.bool_]) -> Floats:
    """AP as a step sum over rows (…×R → …).

    A tied row adds p (P_b + p) / (P_b + p + N_b + n). In any other row the p anomalies are taken as evenly interleaved
    with the n inliers; with k = 1 + n/p and c = P_b + N_b - n/(2p), they add Σ_{i=1…p} (P_b + i) / (c + k i), evaluated
    as the midpoint integral p/k + (P_b - c/k)/k · ln((c + k(p + ½)) / (c + k/2)).
    """
    p, n = anomaly.astype(np.float64), inlier.astype(np.float64)
    above, upto = np.cumsum(p, axis=-1) - p, np.cumsum(p + n, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        step = p * (above + p) / upto
        k = 1.0 + n / p
        start = upto - p - n + 0.5  # c + k/2
        spread = p / k + (above - start / k + 0.5) / k * np.log1p(k * p / start)
    gain = np.where(p > 0, np.where(tied, step, spread), 0.0)
    return np.asarray(gain.sum(axis=-1) / np.maximum(p.sum(axis=-1), 1.0))


def area_under_roc(anomaly: NDArray[np.number], inlier: NDArray[np.number]) -> Floats:
    """Area under the ROC curve by the trapezoid rule (…×R → …); rows may be empty. NaN without either class."""
    p, n = anomaly.astype(np.float64), inlier.astype(np.float64)
    inliers_below = n.sum(axis=-1, keepdims=True) - np.cumsum(n, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        area = (p * (inliers_below + 0.5 * n)).sum(axis=-1) / (p.sum(axis=-1) * n.sum(axis=-1))
    return np.asarray(area)


def fpr_at_tpr(anomaly: NDArray[np.number], inlier: NDArray[np.number], tied: NDArray[np.bool_]) -> Floats:
    """FPR at the first threshold with TPR >= 0.95 (…×R → …); inside a row that is not tied the curve runs straight.

    Not finite without either class.
    """
    p, n = anomaly.astype(np.float64), inlier.astype(np.float64)
    tp, fp = np.cumsum(p, axis=-1), np.cumsum(n, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        row = np.argmax(tp / tp[..., -1:] >= TPR_LEVEL, axis=-1)[..., None]
        p_row, n_row, tp_row, fp_row = (np.take_along_axis(x, row, axis=-1)[..., 0] for x in (p, n, tp, fp))
        # The row's last anomalies are not needed, and the last needed one lies half a step inside its share of inliers.
        surplus = np.floor(tp_row - TPR_LEVEL * tp[..., -1] + 1e-9)
        tied_row = np.take_along_axis(np.broadcast_to(tied, p.shape), row, axis=-1)[..., 0]
        share = np.where(tied_row, 0.0, (surplus + 0.5) / p_row)
        return np.asarray((fp_row - share * n_row) / fp[..., -1])


def fpr_nearest_tpr(anomaly: NDArray[np.number], inlier: NDArray[np.number]) -> float:
    """FPR at the ROC point whose TPR is nearest to 0.95 (R → float).

    At equal distance the higher TPR counts, and at equal TPR the lower threshold: the order in which the code of
    Hendrycks and Gimpel (arXiv 1610.02136), that PEBAL, RPL and ATTA use, walks the curve.
    """
    tp, fp = np.cumsum(anomaly, dtype=np.float64), np.cumsum(inlier, dtype=np.float64)
    tpr = tp / tp[-1]
    # That walk begins where the recall first reaches 1: inliers below the last anomaly are never counted.
    last = int(np.searchsorted(tp, tp[-1:])[0])
    nearest = last - int(np.argmin(np.abs(tpr[last::-1] - TPR_LEVEL)))
    return float(fp[nearest]) / float(fp[-1])


def best_f1(anomaly: NDArray[np.number], inlier: NDArray[np.number]) -> Floats:
    """Highest F1 over the thresholds between rows (…×R → …)."""
    return np.asarray(_f1(anomaly, inlier).max(axis=-1))


def _f1(anomaly: NDArray[np.number], inlier: NDArray[np.number]) -> Floats:
    tp, fp = np.cumsum(anomaly, axis=-1, dtype=np.float64), np.cumsum(inlier, axis=-1, dtype=np.float64)
    return np.asarray(2.0 * tp / np.maximum(tp + fp + tp[..., -1:], 1.0))


def curve_points(counts: RankedCounts, max_points: int) -> CurvePoints:
    """The PR and ROC curve through at most `max_points` points, chosen evenly in recall, FPR and log FPR."""
    if not counts.threshold.size:
        empty = np.zeros(0)
        return CurvePoints(empty, empty, empty, empty)
    tp, fp = np.cumsum(counts.anomaly), np.cumsum(counts.inlier)
    recall, fpr = tp / max(int(tp[-1]), 1), fp / max(int(fp[-1]), 1)
    per_axis = max(max_points // 3 - 1, 2)
    wanted = np.linspace(0.0, 1.0, per_axis)
    smallest = max(float(fpr[fpr > 0].min(initial=1.0)), 1e-9)
    rows = np.concatenate(
        [
            np.searchsorted(recall, wanted),
            np.searchsorted(fpr, wanted),
            np.searchsorted(fpr, np.geomspace(smallest, 1.0, per_axis)),
            [0, recall.size - 1],
        ]
    )
    rows = np.unique(np.minimum(rows, recall.size - 1))
    precision = tp[rows] / np.maximum(tp[rows] + fp[rows], 1)
    return CurvePoints(counts.threshold[rows], recall[rows], precision, fpr[rows])

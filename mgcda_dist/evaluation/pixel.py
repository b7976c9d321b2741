"""Pooled AP, AUROC, FPR95 and best F1 in constant memory: exact on small sets, within 1e-4 on any.

Each frame is reduced to ranked rows (`mgcda_dist.evaluation.ranks`), and rows add up. The bound, whatever the scores:

- frames with at most 8192 inlier and 65535 anomaly pixels are kept exactly, as long as all rows fit in `max_rows`;
- else an inlier pixel may change places with at most 2⁻¹³ of the inlier pixels that rank above it in its frame, and an
  anomaly pixel with at most 2⁻¹⁵ of the frame's anomaly pixels; equal scores stay equal;
- so the pooled curve's rates are off by at most FPR · 2⁻¹³ and 2⁻¹⁵. That moves AP by at most ¼ (2⁻¹³ + 2⁻¹⁵), AUROC by
  at most ½ (2⁻¹³ + 2⁻¹⁵), and FPR95 by at most FPR95 · 2⁻¹³ + slope · 2⁻¹⁵, before chunks and frames cancel, as they
  do: the tests see 1e-5 and less;
- rows beyond `max_rows` are joined. That costs less than the above again, unless the frames share no scale at all.

The state is a function of the set of frames: world size, order and grouping do not change one bit of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.choices import ANOMALY, VOID
from mgcda_dist.errors import MgcdaError
from mgcda_dist.evaluation import codes as tree
from mgcda_dist.evaluation.metrics import CurvePoints, PixelMetrics, RankedCounts, curve_points, pixel_metrics
from mgcda_dist.evaluation.ranks import RankTable, anomaly_cuts, chunks, distinct, inlier_cuts

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "PixelHistogram",
    "as_array",
    "exact_counts",
    "finite_scores",
    "merge_rows",
    "refuse_non_finite",
    "split_scores",
]

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]


class PixelHistogram:
    """Streaming pixel metrics of anomaly scores, pooled over all valid pixels of all frames.

    Args:
        max_rows: rows kept per class (16 bytes each, 24 for scores that need all of their double precision, and several
            times that while adding).
        per_octave: inlier chunks per doubling of the rank, see the module's bound.
        parts: anomaly chunks per frame.
    """

    def __init__(self, *, max_rows: int = 1 << 19, per_octave: int = 1 << 13, parts: int = 1 << 15) -> None:
        self.num_frames = 0
        self._per_octave, self._parts = per_octave, parts
        self._inlier, self._anomaly = RankTable(max_rows), RankTable(max_rows)

    def update(
        self, score: NDArray[np.generic] | Tensor, label: NDArray[np.generic] | Tensor, where: str = "frame"
    ) -> None:
        """Count one frame. One call per frame: the reduction to rows is done frame by frame.

        Args:
            score: any shape, floating point, higher = more anomalous.
            label: same shape: 0 … 253 inlier, 254 anomaly, 255 void (not counted).
            where: name of the frame, for errors.

        Raises:
            MgcdaError: shapes differ, or a valid pixel's score is NaN or infinite.
        """
        self.add(*split_scores(score, label, where))

    def add(self, inlier: Floats, anomaly: Floats) -> None:
        """Count one frame from what `split_scores` made of it."""
        self.num_frames += 1
        if inlier.size:
            self._inlier.add(*chunks(inlier, inlier_cuts(inlier.size, self._per_octave)))
        if anomaly.size:
            self._anomaly.add(*chunks(anomaly, anomaly_cuts(anomaly.size, self._parts)))

    def merge(self, other: PixelHistogram) -> None:
        """Add what another histogram (of the same settings) has counted."""
        self._inlier.add(*other._inlier.rows(), other._inlier.shift)
        self._anomaly.add(*other._anomaly.rows(), other._anomaly.shift)
        self.num_frames += other.num_frames

    def counts(self) -> RankedCounts:
        """The ranked pixel counts, highest score first."""
        return merge_rows(self._inlier.rows(), self._anomaly.rows())

    def counts_against(self, anomaly: RankTable) -> RankedCounts:
        """The ranked counts of other anomaly pixels against this histogram's inliers."""
        return merge_rows(self._inlier.rows(), anomaly.rows())

    def result(self, convention: Literal["pooled", "pooled_nearest", "skip_empty"] = "pooled") -> PixelMetrics:
        """Metrics of everything counted so far.

        Args:
            convention: of the frames that were given, for the record; `pooled_nearest` takes FPR95 at the ROC point
                nearest to 0.95.
        """
        nearest_tpr = convention == "pooled_nearest"
        return pixel_metrics(self.counts(), self.num_frames, convention=convention, nearest_tpr=nearest_tpr)

    def curves(self, max_points: int) -> CurvePoints:
        """PR and ROC curve for figures."""
        return curve_points(self.counts(), max_points)


def split_scores(
    score: NDArray[np.generic] | Tensor, label: NDArray[np.generic] | Tensor, where: str
) -> tuple[Floats, Floats]:
    """Scores of the inlier and of the anomaly pixels of one frame, each ascending, as new arrays (float32 or float64).

    Raises:
        MgcdaError: shapes differ, scores are not floating point, or a valid pixel's score is NaN or infinite.
    """
    values, labels = as_array(score), as_array(label)
    if values.shape != labels.shape:
        raise MgcdaError(
            where, f"scores have shape {values.shape}, labels {labels.shape}", "resize the scores to the labels"
        )
    if not np.issubdtype(values.dtype, np.floating):
        raise MgcdaError(where, f"scores have dtype {values.dtype}", "convert them to float32")
    wide = values.dtype.itemsize > 4
    values = values.astype(np.float64, copy=False) if wide else values.astype(np.float32, copy=False)
    anomaly, inlier = np.sort(values[labels == ANOMALY]), np.sort(values[(labels != ANOMALY) & (labels != VOID)])
    for part in (inlier, anomaly):
        # Sorted: infinities are at the ends, NaN is last.
        if part.size and not (np.isfinite(part[0]) and np.isfinite(part[-1])):
            refuse_non_finite(values, labels, where)
    return inlier, anomaly


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


def refuse_non_finite(scores: NDArray[np.generic], labels: NDArray[np.generic], where: str) -> None:
    """Raise MgcdaError, with the place of the first, when a score of a valid pixel is NaN or infinite."""
    bad = np.argwhere(~np.isfinite(scores) & (labels != VOID))
    if len(bad):
        place = ", ".join(f"{axis} {index}" for axis, index in zip(("row", "column"), bad[0].tolist(), strict=False))
        raise MgcdaError(
            where,
            f"{len(bad)} valid pixels have a score that is NaN or infinite, first {scores[tuple(bad[0])]} at {place}",
            "check the network's output, or clip the scores",
        )


def finite_scores(
    scores: NDArray[np.floating[Any]], labels: NDArray[np.uint8], where: str
) -> NDArray[np.floating[Any]]:
    """The scores; void pixels that have none (NaN, ±∞) take the lowest score of the frame, for components and pictures.

    Args:
        scores, labels: H×W each.
        where: name of the frame or file, for errors.

    Raises:
        MgcdaError: a valid pixel's score is NaN or infinite.
    """
    finite = np.isfinite(scores)
    if finite.all():
        return scores
    refuse_non_finite(scores, labels, where)
    lowest = scores[finite].min() if finite.any() else scores.dtype.type(0)
    return np.where(finite, scores, lowest)


def merge_rows(inlier: tuple[Ints, Ints], anomaly: tuple[Ints, Ints]) -> RankedCounts:
    """One ranked table of both classes from their rows (codes, counts)."""
    codes = tree.joined([inlier[0], anomaly[0]])
    order = tree.order(codes)[::-1]
    codes = codes[order]
    is_anomaly = (np.arange(order.size) >= len(inlier[0]))[order]
    counts = np.concatenate([inlier[1], anomaly[1]])[order]
    score, tied = tree.code_score(codes), tree.code_is_tied(codes)
    # Rows of one node stand at one place in the order, whatever their scale.
    first = np.flatnonzero(tree.first_of_node(codes))
    if not first.size:
        return RankedCounts(score, counts, counts, tied)
    return RankedCounts(
        threshold=score[first],
        anomaly=np.add.reduceat(np.where(is_anomaly, counts, 0), first),
        inlier=np.add.reduceat(np.where(is_anomaly, 0, counts), first),
        tied=np.logical_or.reduceat(tied, first),
    )


def as_array(values: NDArray[np.generic] | Tensor) -> NDArray[np.generic]:
    """The array itself, or a tensor's values on the CPU (bfloat16 and float16 as float32)."""
    if isinstance(values, np.ndarray):
        return values
    values = values.detach().cpu()
    return (values.float() if values.is_floating_point() and values.itemsize < 4 else values).numpy()

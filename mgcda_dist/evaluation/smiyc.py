"""The pixel metrics of SegmentMeIfYouCan as its code computes them: 768 quantile bins per frame, scores in float16.

Facts from road-anomaly-benchmark (`metrics/pixel_classification.py`, `metrics/pixel_classification_curves.py`,
`evaluation.py`), of which two are worth knowing:

- bins of all frames are pooled by their lower edge, so that a pixel stands at the edge below it: AP is up to a point
  higher than the exact one where anomalies are tiny;
- the reported threshold of the best F1 is read from a list that is not aligned with the curve: equal edges are joined
  in the curve but not in the list. It is often far too high, and the component metrics use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.errors import MgcdaError
from mgcda_dist.evaluation.metrics import PixelMetrics, RankedCounts, pixel_metrics

__all__ = ["SmiycFrame", "smiyc_frame", "smiyc_metrics"]

Floats = NDArray[np.floating]
SmiycFrame = tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]
"""Lower edges, highest first, and the anomaly and inlier pixels of each bin: at most 769 of each."""

_NUM_BINS = 768


def smiyc_frame(inlier: Floats, anomaly: Floats, where: str) -> SmiycFrame:
    """The bins of one frame.

    Args:
        inlier: scores of the inlier pixels, any order.
        anomaly: scores of the anomaly pixels, any order.
        where: name of the frame, for errors.

    Raises:
        MgcdaError: a score is beyond the range of float16.
    """
    with np.errstate(over="ignore"):
        # Back to float32, same values: NumPy 2.4 was seen to sort float16 with zeros of both signs wrongly.
        halves = [part.astype(np.float16).astype(np.float32) for part in (anomaly, inlier)]
    # The edges 0 and 1 always take part, whatever the range of the scores.
    edges = [np.array([0.0, 1.0])]
    for part in halves:
        if part.size:
            if not np.isfinite([part.min(), part.max()]).all():
                problem = "a score is beyond ±65504, the range of float16, in which SegmentMeIfYouCan stores scores"
                raise MgcdaError(where, problem, "scale the scores, or leave out the convention 'smiyc'")
            edges.append(np.quantile(part, np.linspace(0, 1, min(_NUM_BINS // 2, part.size))))
    unique = np.unique(np.concatenate(edges))
    counts = [np.histogram(part, bins=unique)[0][::-1].astype(np.int64) for part in halves]
    return unique[-2::-1].astype(np.float64), counts[0], counts[1]


def smiyc_metrics(frames: Sequence[SmiycFrame]) -> PixelMetrics:
    """The metrics of frames, in the order of the benchmark; it breaks ties of the highest bin only.

    `best_f1_threshold` is the one that the code reports, see above; "score > threshold" is an anomaly there.
    """
    edge = np.concatenate([np.zeros(0), *(frame[0] for frame in frames)])
    anomaly = np.concatenate([np.zeros(0, np.int64), *(frame[1] for frame in frames)])
    inlier = np.concatenate([np.zeros(0, np.int64), *(frame[2] for frame in frames)])
    order = np.argsort(edge)[::-1]
    edge, anomaly, inlier = edge[order], anomaly[order], inlier[order]
    if not edge.size:
        return pixel_metrics(RankedCounts(edge, anomaly, inlier, np.zeros(0, np.bool_)), 0, convention="smiyc")
    # Bins with one lower edge enter together, except that the very first bin stays a point of its own.
    first = np.flatnonzero(np.concatenate([[True], edge[1:] != edge[:-1]]))
    first = np.unique(np.concatenate([first, [min(1, edge.size - 1)]]))
    tied = np.ones(first.size, np.bool_)
    counts = RankedCounts(edge[first], np.add.reduceat(anomaly, first), np.add.reduceat(inlier, first), tied)
    result = pixel_metrics(counts, len(frames), convention="smiyc")
    return replace(result, best_f1_threshold=_reported_threshold(edge, anomaly, inlier))


def _reported_threshold(edge: NDArray[np.float64], anomaly: NDArray[np.int64], inlier: NDArray[np.int64]) -> float:
    """The entry of the full list of edges at the number that the best point has in the joined curve."""
    if not anomaly.any():
        return float("nan")
    last_of_run = np.flatnonzero(edge[:-1] != edge[1:])
    # The first bin opens the curve, a second time where its edge is not repeated; the lowest closes it.
    rows = np.concatenate([[0], last_of_run, [edge.size - 1]])
    tp, fp = np.cumsum(anomaly)[rows], np.cumsum(inlier)[rows]
    if tp[0] or fp[0]:
        tp, fp = np.concatenate([[0], tp]), np.concatenate([[0], fp])
    best = int(np.argmax(2 * tp / (tp + fp + anomaly.sum())))
    return float(edge[min(best, edge.size - 1)])

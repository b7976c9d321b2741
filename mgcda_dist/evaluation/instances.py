"""Instance AP and AP50 of anomalies as OoDIS defines them (arXiv 2406.11835): Cityscapes' instance metric, one class.

OoDIS runs the instance evaluation of cityscapesScripts on anomaly instances as the only class, ignoring instances under
10 px (anomaly-benchmark-suite, `scoring_program/evaluate.py`). For each overlap θ = 0.50, 0.55 … 0.95, over all frames:

- a prediction matches a ground-truth instance where their IoU is > θ; of several that match one, the most confident is
  the true positive, the others are false; an instance without a match is missed;
- a prediction without a match is false, unless more than θ of its pixels are void or on instances too small to count;
- precision and recall at each distinct confidence, from (recall 0, precision 1) on; AP(θ) is the area under the
  *trapezoids* between them (COCO takes the maximum to the right at 101 recalls instead).

AP is the mean over θ, AP50 is AP(0.50). Predictions need not be disjoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.errors import MgcdaError
from mgcda_dist.evaluation.bootstrap import put_once
from mgcda_dist.evaluation.components import component_map

__all__ = ["OVERLAPS", "InstanceEvaluation", "InstanceMetrics", "PredictedInstances", "connected_instances"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

OVERLAPS: Floats = np.arange(0.5, 1.0, 0.05)
MIN_INSTANCE_PX = 10
"""Smaller ground-truth instances are neither found nor missed."""


@dataclass(frozen=True)
class PredictedInstances:
    """Instances predicted in one frame.

    Attributes:
        pixels: P arrays of flat pixel numbers (row · width + column), each without repetition; they may overlap.
        confidence: P, float64.
        shape: height and width of the frame.
    """

    pixels: Sequence[NDArray[np.int64]]
    confidence: Floats
    shape: tuple[int, ...]


@dataclass(frozen=True)
class InstanceMetrics:
    """Instance metrics of a set of frames, as fractions; NaN without an instance to find.

    Attributes:
        ap: mean of AP(θ) over `OVERLAPS`.
        ap50: AP(0.50).
    """

    ap: float
    ap50: float
    num_truth: int
    num_predicted: int
    num_frames: int

    def as_json(self) -> dict[str, float | int]:
        """Fields by name; what does not exist is left out, since JSON has no NaN."""
        return {name: value for name, value in asdict(self).items() if np.isfinite(value)}

    @classmethod
    def of_json(cls, content: Mapping[str, float]) -> InstanceMetrics:
        """Read what `as_json` gives."""
        counts = (int(content.get(name, 0)) for name in ("num_truth", "num_predicted", "num_frames"))
        return cls(float(content.get("ap", np.nan)), float(content.get("ap50", np.nan)), *counts)


@dataclass(frozen=True)
class _Frame:
    num_truth: int
    num_predicted: int
    found: list[Floats]  # per overlap: confidences of true positives
    false: list[Floats]  # per overlap: confidences of false positives


class InstanceEvaluation:
    """Matches predicted with true instances frame by frame.

    Keeps a few numbers per predicted instance. Objects of ranks pickle and merge; results do not depend on order or
    world size.

    Args:
        min_instance_px: smaller ground-truth instances are neither found nor missed.
    """

    def __init__(self, min_instance_px: int = MIN_INSTANCE_PX) -> None:
        self.min_instance_px = min_instance_px
        self._frames: dict[str, _Frame] = {}

    def update(
        self, key: str, predicted: PredictedInstances, truth: NDArray[np.integer], void: Bools | None = None
    ) -> None:
        """Count one frame.

        Args:
            key: name of the frame, its own in the set; errors carry it.
            predicted: the predicted instances; empty ones are not counted.
            truth: H×W instance ids, 0 where there is none.
            void: H×W, pixels that are not judged; None: all are.

        Raises:
            MgcdaError: shapes differ, a confidence is NaN or infinite, or the key came before.
        """
        void = np.zeros(truth.shape, np.bool_) if void is None else void
        if not predicted.shape == truth.shape == void.shape:
            problem = f"predictions have shape {predicted.shape}, instances {truth.shape}, void {void.shape}"
            raise MgcdaError(key, problem, "give all at the size of the label")
        if predicted.confidence.size != len(predicted.pixels) or not np.isfinite(predicted.confidence).all():
            problem = f"{len(predicted.pixels)} instances, confidences {predicted.confidence.tolist()[:5]}"
            raise MgcdaError(key, problem, "give every instance one finite confidence")
        put_once(self._frames, key, self._matched(predicted, truth, void))

    def merge(self, other: InstanceEvaluation) -> None:
        """Add the frames of another rank.

        Raises:
            MgcdaError: a frame was counted on both.
        """
        for key, frame in other._frames.items():
            put_once(self._frames, key, frame)

    def result(self) -> InstanceMetrics:
        """Metrics of everything counted so far."""
        frames = [self._frames[key] for key in sorted(self._frames)]
        num_truth = sum(frame.num_truth for frame in frames)
        ap = [
            _average_precision(
                np.concatenate([np.zeros(0), *(frame.found[i] for frame in frames)]),
                np.concatenate([np.zeros(0), *(frame.false[i] for frame in frames)]),
                num_truth,
            )
            for i in range(OVERLAPS.size)
        ]
        num_predicted = sum(frame.num_predicted for frame in frames)
        return InstanceMetrics(float(np.mean(ap)), ap[0], num_truth, num_predicted, len(frames))

    def _matched(self, predicted: PredictedInstances, truth: NDArray[np.integer], void: Bools) -> _Frame:
        inside = np.flatnonzero(truth)
        ids = np.unique(truth.ravel()[inside])
        column = np.zeros(truth.size, np.int64)  # 0: no instance
        column[inside] = 1 + np.searchsorted(ids, truth.ravel()[inside])
        size = np.bincount(column, minlength=1 + ids.size)
        counts = size >= self.min_instance_px
        counts[0] = False
        ignored = void.ravel() | ~counts[column] & (column > 0)
        kept = [i for i, pixels in enumerate(predicted.pixels) if pixels.size]
        confidence = predicted.confidence[kept]
        iou, share = np.zeros((len(kept), 1 + ids.size)), np.zeros(len(kept))
        for row, i in enumerate(kept):
            pixels = predicted.pixels[i]
            common = np.bincount(column[pixels], minlength=1 + ids.size)
            iou[row] = common / (size + pixels.size - common)
            share[row] = np.count_nonzero(ignored[pixels]) / pixels.size
        frame = _Frame(int(counts.sum()), len(kept), [], [])
        for overlap in OVERLAPS:
            above = iou > overlap
            found, false = list[Floats](), list[Floats]()
            for instance in np.flatnonzero(counts):
                matching = np.sort(confidence[above[:, instance]])
                found.append(matching[-1:])
                false.append(matching[:-1])
            # A match with an instance too small to count makes a prediction neither true nor false.
            alone = ~above[:, 1:].any(axis=1) & (share <= overlap)
            frame.found.append(np.concatenate([np.zeros(0), *found]))
            frame.false.append(np.concatenate([confidence[alone], *false]))
        return frame


def connected_instances(
    score: NDArray[np.floating], threshold: float, min_px: int = MIN_INSTANCE_PX
) -> PredictedInstances:
    """Instances of a score map: 8-connected components of score >= threshold; the confidence is the mean score.

    Args:
        score: H×W, higher = more anomalous.
        threshold: e.g. that of the best pixel F1.
        min_px: smaller components are left out.
    """
    ids, num = component_map(score >= np.float64(threshold))
    inside = np.flatnonzero(ids)
    order = inside[np.argsort(ids.ravel()[inside], kind="stable")]
    size = np.bincount(ids.ravel(), minlength=num + 1)[1:]
    pixels = np.split(order, np.cumsum(size)[:-1]) if num else []
    pixels = [each for each in pixels if each.size >= min_px]
    values = score.ravel()
    confidence = np.array([values[each].mean(dtype=np.float64) for each in pixels], np.float64)
    return PredictedInstances(pixels, confidence, score.shape)


def _average_precision(found: Floats, false: Floats, num_truth: int) -> float:
    """Area under the trapezoids of precision over recall, from the confidences of true and false positives."""
    if not num_truth:
        return float("nan")
    if not found.size + false.size:
        return 0.0
    confidence = np.concatenate([found, false])
    threshold = np.unique(confidence)[::-1]
    tp = found.size - np.searchsorted(np.sort(found), threshold)
    fp = false.size - np.searchsorted(np.sort(false), threshold)
    precision = np.concatenate([[1.0], tp / (tp + fp)])
    recall = np.concatenate([[0.0], tp / num_truth])
    return float(np.trapezoid(precision, recall))

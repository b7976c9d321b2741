"""Component metrics of SegmentMeIfYouCan (arXiv 2104.14812, section 5): adjusted sIoU, PPV, and F1 over thresholds τ.

K is the set of ground-truth components, K̂ that of predicted ones, all 8-connected, per frame; |·| counts pixels.

    sIoU(k) = |k ∩ K̂| / (|k| + pixels outside all of K of the predicted components that touch k),   k ∈ K
    PPV(k̂)  = |k̂ ∩ K| / |k̂|,                                                                        k̂ ∈ K̂
    TP(τ) = #{sIoU(k) ≥ τ},  FN(τ) = #{sIoU(k) < τ},  FP(τ) = #{PPV(k̂) < τ},  F1 = 2 TP / (2 TP + FN + FP)

The union in sIoU is "adjusted": what other ground-truth components cover is no error of k. Means are over the
components of all frames, F1 is from counts of all frames, and the mean F1 is over τ = 0.25, 0.30 … 0.75.

What the benchmark's code (road-anomaly-benchmark, `metrics/instance_segmentation.py`) does and its paper does not say:
void pixels are taken out of the prediction *before* components are formed, so void cuts them; small predicted
components are removed by their size then; small ground-truth components become void after that, and predicted ones lose
those pixels, or vanish, without being formed again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.choices import ANOMALY, INTERVAL_LEVEL, REPLICATES, VOID, ComponentTrack
from mgcda_dist.errors import MgcdaError
from mgcda_dist.evaluation.bootstrap import Interval, image_weights, percentiles, put_once
from mgcda_dist.evaluation.metrics import PixelMetrics
from mgcda_dist.evaluation.pixel import as_array, refuse_non_finite

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "TAUS",
    "TRACKS",
    "ComponentEvaluation",
    "ComponentMetrics",
    "ComponentSizes",
    "Overlap",
    "component_map",
    "overlaps",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TAUS: Floats = np.linspace(0.25, 0.75, 11)


@dataclass(frozen=True)
class ComponentSizes:
    """Smaller components do not count: predicted ones are removed, those of the ground truth become void (pixels)."""

    predicted_px: int
    truth_px: int


TRACKS: dict[ComponentTrack, ComponentSizes] = {"anomaly": ComponentSizes(500, 100), "obstacle": ComponentSizes(50, 10)}
"""The benchmark's two: RoadAnomaly21 and Fishyscapes Lost&Found; RoadObstacle21 and Lost and Found."""


@dataclass(frozen=True)
class ComponentMetrics:
    """Component metrics of a set of frames, as fractions; NaN where there is no component to average over.

    Attributes:
        siou: mean sIoU over ground-truth components.
        ppv: mean PPV over predicted components.
        f1: F1 per τ, in the order of `TAUS`.
        threshold: the one the components were formed with.
    """

    siou: float
    ppv: float
    mean_f1: float
    f1: tuple[float, ...]
    num_truth: int
    num_predicted: int
    num_frames: int
    threshold: float

    def as_json(self) -> dict[str, Any]:
        """Fields by name, F1 by τ ("0.25" …); what does not exist is left out, since JSON has no NaN."""
        f1 = {f"{tau:.2f}": value for tau, value in zip(TAUS, self.f1, strict=True) if np.isfinite(value)}
        return {name: value for name, value in asdict(self).items() if name != "f1" and np.isfinite(value)} | {"f1": f1}

    @classmethod
    def of_json(cls, content: dict[str, Any]) -> ComponentMetrics:
        """Read what `as_json` gives."""
        f1: dict[str, float] = content.get("f1", {})
        numbers = {name: float(content.get(name, np.nan)) for name in ("siou", "ppv", "mean_f1", "threshold")}
        counts = {name: int(content.get(name, 0)) for name in ("num_truth", "num_predicted", "num_frames")}
        return cls(f1=tuple(f1.get(f"{tau:.2f}", np.nan) for tau in TAUS), **numbers, **counts)


class ComponentEvaluation:
    """Counts components frame by frame, with a threshold that is known: given, or from a first pass over the set.

    Keeps 26 numbers per frame. Objects of ranks pickle and merge; results do not depend on order or world size.

    Args:
        threshold: score >= threshold is predicted as anomaly.
        sizes: one of `TRACKS`, or other sizes.
        smiyc: as the benchmark's code: scores are rounded to float16, and must be > threshold.

    Raises:
        MgcdaError: the threshold is not a number.
    """

    def __init__(self, threshold: float, sizes: ComponentSizes, *, smiyc: bool = False) -> None:
        if not np.isfinite(threshold):
            problem = f"components need a threshold, not {threshold}"
            raise MgcdaError("threshold", problem, "give one, or evaluate a set that has anomalies")
        self.threshold, self.sizes, self.smiyc = threshold, sizes, smiyc
        self._rows: dict[str, Floats] = {}

    @classmethod
    def at_best_f1(cls, pixel: PixelMetrics, sizes: ComponentSizes) -> ComponentEvaluation:
        """With the threshold of the best pixel F1 *on the same data*, as the benchmark does it.

        Under the convention `smiyc` that is the threshold its code reports, so that its numbers come out.
        """
        return cls(pixel.best_f1_threshold, sizes, smiyc=pixel.convention == "smiyc")

    def update(self, key: str, score: NDArray[np.generic] | Tensor, label: NDArray[np.generic] | Tensor) -> None:
        """Count one frame.

        Args:
            key: name of the frame, its own in the set; errors carry it.
            score: H×W, floating point, higher = more anomalous.
            label: H×W: 254 anomaly, 255 void, anything else inlier.

        Raises:
            MgcdaError: shapes differ or are not H×W, a valid pixel's score is NaN or infinite, or the key came before.
        """
        values, labels = as_array(score), as_array(label)
        if values.shape != labels.shape or labels.ndim != 2:
            problem = f"scores have shape {values.shape}, labels {labels.shape}"
            raise MgcdaError(key, problem, "give both as H×W of one size")
        refuse_non_finite(values, labels, key)
        # float64: the threshold must not be rounded to the type of the scores.
        values = (values.astype(np.float16) if self.smiyc else values).astype(np.float64)
        predicted = values > self.threshold if self.smiyc else values >= self.threshold
        put_once(self._rows, key, _frame_row(predicted, labels, self.sizes))

    def merge(self, other: ComponentEvaluation) -> None:
        """Add the frames of another rank.

        Raises:
            MgcdaError: a frame was counted on both.
        """
        for key, row in other._rows.items():
            put_once(self._rows, key, row)

    def result(self) -> ComponentMetrics:
        """Metrics of everything counted so far."""
        total = self._table().sum(axis=0)
        siou, ppv, mean_f1, f1 = _metrics(total)
        return ComponentMetrics(
            float(siou), float(ppv), float(mean_f1), tuple(float(value) for value in f1),
            int(total[0]), int(total[2]), len(self._rows), self.threshold,
        )  # fmt: skip

    def bootstrap(
        self, *, replicates: int = REPLICATES, level: float = INTERVAL_LEVEL, seed: int = 0
    ) -> dict[str, Interval]:
        """Percentile intervals over images of `siou`, `ppv` and `mean_f1`, from the draws of `bootstrap.bootstrap`."""
        table = self._table()
        drawn = _metrics(image_weights(len(table), replicates, seed) @ table)[:3]
        value = _metrics(table.sum(axis=0))[:3]
        return {
            name: Interval(float(value[i]), *percentiles(drawn[i], level))
            for i, name in enumerate(("siou", "ppv", "mean_f1"))
        }

    def _table(self) -> Floats:
        return np.stack([self._rows[key] for key in sorted(self._rows)] or [np.zeros(_COLUMNS)])


def component_map(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """8-connected components of an H×W mask: ids 1 … n as an H×W map, and n."""
    ids = np.zeros(mask.shape, np.int32)
    from scipy import ndimage  # pyright: ignore[reportMissingTypeStubs]  # not needed to predict

    ndimage.label(mask, np.ones((3, 3), np.int8), output=ids)  # pyright: ignore[reportUnknownMemberType]
    return ids, int(ids.max(initial=0))


@dataclass(frozen=True)
class Overlap:
    """The overlap of two maps of ids: for each pair (first, second) that occurs, outside (0, 0), its number of pixels.

    Attributes:
        first, second, pixels: each K, int64; id 0 is "none".
    """

    first: Ints
    second: Ints
    pixels: Ints


def overlaps(first: NDArray[np.integer], second: NDArray[np.integer]) -> Overlap:
    """The pairs of two H×W maps of ids >= 0."""
    either = np.flatnonzero((first != 0) | (second != 0))
    one, two = first.ravel()[either].astype(np.int64), second.ravel()[either].astype(np.int64)
    width = int(two.max(initial=0)) + 1
    pairs = np.sort(one * width + two)
    begins = np.flatnonzero(np.concatenate([np.ones(min(1, pairs.size), np.bool_), pairs[1:] != pairs[:-1]]))
    pair = pairs[begins]
    return Overlap(pair // width, pair % width, np.diff(begins, append=pairs.size))


_COLUMNS = 4 + 2 * len(TAUS)  # ground-truth components, Σ sIoU, predicted components, Σ PPV, TP per τ, FP per τ


def _frame_row(predicted: NDArray[np.bool_], label: NDArray[np.generic], sizes: ComponentSizes) -> Floats:
    truth, _ = component_map(label == ANOMALY)
    guess, _ = component_map(predicted & (label != VOID))
    guess[np.bincount(guess.ravel())[guess] < sizes.predicted_px] = 0
    small = (truth > 0) & (np.bincount(truth.ravel())[truth] < sizes.truth_px)
    truth[small], guess[small] = 0, 0
    pairs = overlaps(truth, guess)
    size_truth, size_guess = _total(pairs.first, pairs.pixels), _total(pairs.second, pairs.pixels)
    both = (pairs.first > 0) & (pairs.second > 0)
    first, second, pixels = pairs.first[both], pairs.second[both], pairs.pixels[both]
    hit_truth = _total(first, pixels, size_truth.size)
    hit_guess = _total(second, pixels, size_guess.size)
    outside = _total(first, (size_guess - hit_guess)[second], size_truth.size)
    # Ids that were removed, and 0, have no pixels here.
    siou = (hit_truth / np.maximum(size_truth + outside, 1))[1:][size_truth[1:] > 0]
    ppv = (hit_guess / np.maximum(size_guess, 1))[1:][size_guess[1:] > 0]
    true = (siou[:, None] >= TAUS).sum(axis=0)
    false = (ppv[:, None] < TAUS).sum(axis=0)
    return np.concatenate([[siou.size, siou.sum(), ppv.size, ppv.sum()], true, false]).astype(np.float64)


def _total(ids: Ints, pixels: Ints, size: int = 1) -> Ints:
    return np.rint(np.bincount(ids, weights=pixels, minlength=size)).astype(np.int64)


def _metrics(rows: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Mean sIoU, mean PPV, mean F1 and F1 per τ from sums over frames: …×26 → …, …, …, …×11."""
    num_truth, num_guess = rows[..., 0], rows[..., 2]
    true, false = rows[..., 4 : 4 + len(TAUS)], rows[..., 4 + len(TAUS) :]
    with np.errstate(divide="ignore", invalid="ignore"):
        # TP + FN is the number of ground-truth components.
        f1 = 2 * true / (true + num_truth[..., None] + false)
        return rows[..., 1] / num_truth, rows[..., 3] / num_guess, f1.mean(axis=-1), f1

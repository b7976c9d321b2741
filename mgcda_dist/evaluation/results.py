"""What an evaluation found: per set the numbers, curves, tables and frames; and `results.json` from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgcda_dist import __version__
from mgcda_dist.evaluation.bootstrap import ImageTables, Interval
from mgcda_dist.evaluation.components import ComponentMetrics
from mgcda_dist.evaluation.instances import InstanceMetrics
from mgcda_dist.evaluation.metrics import CurvePoints, PixelMetrics

__all__ = ["FrameResult", "KeptFrame", "PanelRow", "SetResult", "Subject", "results_json"]

INTERVAL_LEVEL = 0.95


@dataclass(frozen=True)
class Subject:
    """What was evaluated.

    Attributes:
        name: shown in tables: a run's name, a checkpoint's, a folder's.
        kind: `model`, or `maps` for score maps of another method.
        digest: SHA-256 (hex) of the weights; empty for maps.
        class_space: of the model; empty for maps.
        class_names: inlier classes in train-id order; empty for maps.
    """

    name: str
    kind: str
    digest: str = ""
    class_space: str = ""
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class PanelRow:
    """One frame for the panel of pictures: image H×W×3, label and predicted class H×W, uint8; score H×W."""

    key: str
    image: NDArray[np.uint8]
    predicted: NDArray[np.uint8]
    score: NDArray[np.floating[Any]]
    label: NDArray[np.uint8]


@dataclass(frozen=True)
class FrameResult:
    """One frame's own numbers; NaN where one does not exist."""

    index: int
    key: str
    ap: float
    fpr95: float
    num_anomaly: int
    num_inlier: int
    miou: float

    @property
    def quality(self) -> float:
        """What frames are ranked by: AP, or mIoU in sets without anomalies; NaN where there is neither."""
        return self.ap if math.isfinite(self.fpr95) else self.miou


@dataclass(frozen=True)
class KeptFrame:
    """One of the worst or best frames, small: image h×w×3 and label h×w, uint8; score h×w."""

    frame: FrameResult
    image: NDArray[np.uint8]
    score: NDArray[np.floating[Any]]
    label: NDArray[np.uint8]


@dataclass(frozen=True)
class SetResult:
    """What one set gave.

    Attributes:
        name: of the set.
        pixel: AP, AUROC, FPR95, best F1 under the first convention; NaN where the set has no anomaly.
        conventions: the same under each convention that was asked for.
        intervals: 95 % percentile intervals over images, where the first convention pools all frames.
        miou: closed-set mean IoU; NaN where the set has no class labels, or the scores come without classes.
        iou: C, per class.
        frames: of the set, in its order.
        curves: PR and ROC.
        tables: ranked tables per frame, for the paired bootstrap between evaluations.
        panel: some frames to look at.
        kept: the worst and best frames, worst first.
        components: SMIYC's component metrics, if they were asked for and the set has a threshold.
        instances: OoDIS' instance metrics, likewise.
        categories: pooled metrics of each category's anomaly pixels against all inliers, where labels tell categories.
        groups: pooled metrics of each folder of frames on its own, where the set has several.
        facts: which data it was: dataset, split, manifest digest, what was pasted.
    """

    name: str
    pixel: PixelMetrics
    conventions: dict[str, PixelMetrics]
    intervals: dict[str, Interval]
    miou: float
    iou: NDArray[np.float64]
    frames: list[FrameResult]
    curves: CurvePoints
    tables: ImageTables
    panel: list[PanelRow] = field(default_factory=list[PanelRow])
    kept: list[KeptFrame] = field(default_factory=list[KeptFrame])
    components: ComponentMetrics | None = None
    instances: InstanceMetrics | None = None
    categories: dict[str, PixelMetrics] = field(default_factory=dict[str, PixelMetrics])
    groups: dict[str, PixelMetrics] = field(default_factory=dict[str, PixelMetrics])
    facts: dict[str, Any] = field(default_factory=dict[str, Any])

    def metrics(self) -> dict[str, float]:
        """The numbers that exist, as fractions."""
        numbers = {"miou": self.miou}
        if self.components is not None:
            numbers |= {"siou": self.components.siou, "ppv": self.components.ppv, "mean_f1": self.components.mean_f1}
        if self.instances is not None:
            numbers |= {"instance_ap": self.instances.ap, "instance_ap50": self.instances.ap50}
        return _existing(self.pixel) | {name: value for name, value in numbers.items() if math.isfinite(value)}


def results_json(results: Sequence[SetResult], subject: Subject, settings: dict[str, Any]) -> dict[str, Any]:
    """The results as they are stored: numbers with their convention, score, switches, and the data they belong to.

    Args:
        results: one per set.
        subject: what was evaluated.
        settings: score, convention and every test-time option, as plain values.
    """
    return {
        **settings,
        "subject": {
            "name": subject.name,
            "kind": subject.kind,
            "digest": subject.digest,
            "class_space": subject.class_space,
        },
        "tool_version": __version__,
        "interval_level": INTERVAL_LEVEL,
        "sets": {result.name: _set_json(result, subject) for result in results},
    }


def _set_json(result: SetResult, subject: Subject) -> dict[str, Any]:
    pixel = result.pixel
    row: dict[str, Any] = {
        **result.metrics(),
        "frames": len(result.frames),
        "intervals": {
            name: [each.low, each.high] for name, each in result.intervals.items() if math.isfinite(each.low)
        },
        "conventions": {name: _existing(each) for name, each in result.conventions.items()},
        "pixels": {"anomaly": pixel.num_anomaly, "inlier": pixel.num_inlier},
        "iou": {
            name: round(float(value), 6)
            for name, value in zip(subject.class_names, result.iou, strict=True)
            if math.isfinite(value)
        },
        **result.facts,
    }
    if result.components is not None:
        row["components"] = _finite(result.components.as_dict())
    if result.instances is not None:
        row["instances"] = _finite(result.instances.as_dict())
    for name, parts in (("categories", result.categories), ("groups", result.groups)):
        if parts:
            row[name] = {part: _existing(each) | _counts(each) for part, each in parts.items()}
    if "best_f1" in row:
        row["thresholds"] = {"best_f1": pixel.best_f1_threshold}
    return row


def _existing(pixel: PixelMetrics) -> dict[str, float]:
    if not math.isfinite(pixel.auroc):
        return {}  # without anomalies, or without inliers, there is nothing to rank
    numbers = {"ap": pixel.ap, "auroc": pixel.auroc, "fpr95": pixel.fpr95, "best_f1": pixel.best_f1}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _counts(pixel: PixelMetrics) -> dict[str, int]:
    return {"frames": pixel.num_frames, "anomaly_pixels": pixel.num_anomaly, "inlier_pixels": pixel.num_inlier}


def _finite(numbers: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: what does not exist is left out."""
    return {name: value for name, value in numbers.items() if not isinstance(value, float) or math.isfinite(value)}

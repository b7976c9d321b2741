"""The results of a set in memory: numbers, curves, tables and pictures. `results.py` is the record on disk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.evaluation.bootstrap import ImageTables, Interval
from mgcda_dist.evaluation.components import ComponentMetrics
from mgcda_dist.evaluation.instances import InstanceMetrics
from mgcda_dist.evaluation.metrics import CurvePoints, PixelMetrics
from mgcda_dist.evaluation.results import PartNumbers, PixelCounts, SetData, SetNumbers

__all__ = ["FrameResult", "PanelRow", "PicturedFrame", "SetResult"]


@dataclass(frozen=True)
class PanelRow:
    """A frame for the panel of pictures: image H×W×3, label and predicted class H×W, uint8; score H×W."""

    key: str
    image: NDArray[np.uint8]
    predicted: NDArray[np.uint8]
    score: NDArray[np.floating[Any]]
    label: NDArray[np.uint8]


@dataclass(frozen=True)
class FrameResult:
    """The numbers of one frame alone; NaN where one does not exist."""

    index: int
    key: str
    ap: float
    fpr95: float
    num_anomaly: int
    num_inlier: int
    miou: float


@dataclass(frozen=True)
class PicturedFrame:
    """A frame among the worst or best, at most 640 pixels wide: image h×w×3 and label h×w, uint8; score h×w."""

    frame: FrameResult
    image: NDArray[np.uint8]
    score: NDArray[np.floating[Any]]
    label: NDArray[np.uint8]


@dataclass(frozen=True)
class SetResult:
    """The results of one set; `intervals`, `curves`, `categories` and `groups` are empty if only metrics were wanted.

    Attributes:
        pixel: AP, AUROC, FPR95, best F1 under the first convention; NaN where the set has no anomaly.
        conventions: the same under each convention of the evaluation.
        miou: closed-set mean IoU; NaN where the set has no class labels, or the scores come without classes.
        iou: C, per class.
        frames: of the set, in its order.
        tables: ranked tables per frame, for the paired bootstrap between evaluations.
        intervals: 95 % percentile intervals over images, where the first convention pools all frames.
        curves: PR and ROC.
        panel: some frames to look at.
        pictured: the worst and best frames, worst first.
        components: SMIYC's component metrics, if the evaluation has them and the set a threshold.
        instances: OoDIS' instance metrics, likewise.
        categories: pooled metrics of each category's anomaly pixels against all inliers, where labels tell categories.
        groups: pooled metrics of each folder of frames on its own, where the set has several.
    """

    name: str
    pixel: PixelMetrics
    conventions: dict[str, PixelMetrics]
    miou: float
    iou: NDArray[np.float64]
    frames: list[FrameResult]
    tables: ImageTables
    intervals: dict[str, Interval] = field(default_factory=dict[str, Interval])
    curves: CurvePoints = field(default_factory=CurvePoints.none)
    panel: list[PanelRow] = field(default_factory=list[PanelRow])
    pictured: list[PicturedFrame] = field(default_factory=list[PicturedFrame])
    components: ComponentMetrics | None = None
    instances: InstanceMetrics | None = None
    categories: dict[str, PixelMetrics] = field(default_factory=dict[str, PixelMetrics])
    groups: dict[str, PixelMetrics] = field(default_factory=dict[str, PixelMetrics])
    data: SetData = field(default_factory=SetData)

    def metrics(self) -> dict[str, float]:
        """The metrics that exist, by the keys of `choices.METRICS`, as fractions."""
        numbers = {"miou": self.miou}
        if self.components is not None:
            numbers |= {"siou": self.components.siou, "ppv": self.components.ppv, "mean_f1": self.components.mean_f1}
        if self.instances is not None:
            numbers |= {"instance_ap": self.instances.ap, "instance_ap50": self.instances.ap50}
        return _existing(self.pixel) | {name: value for name, value in numbers.items() if math.isfinite(value)}

    def numbers(self, class_names: Sequence[str]) -> SetNumbers:
        """The numbers for `results.json`.

        Args:
            class_names: C, in train-id order.
        """
        metrics, pixel = self.metrics(), self.pixel
        return SetNumbers(
            metrics=metrics,
            frames=len(self.frames),
            intervals={name: (each.low, each.high) for name, each in self.intervals.items() if math.isfinite(each.low)},
            conventions={name: _existing(each) for name, each in self.conventions.items()},
            pixels=PixelCounts(pixel.num_anomaly, pixel.num_inlier),
            iou={
                name: round(float(value), 6)
                for name, value in zip(class_names, self.iou, strict=True)
                if math.isfinite(value)
            },
            data=self.data,
            components=self.components,
            instances=self.instances,
            categories={name: _part(each) for name, each in self.categories.items()},
            groups={name: _part(each) for name, each in self.groups.items()},
            best_f1_threshold=pixel.best_f1_threshold if "best_f1" in metrics else None,
        )


def _existing(pixel: PixelMetrics) -> dict[str, float]:
    if not math.isfinite(pixel.auroc):
        return {}  # without anomalies, or without inliers, there is nothing to rank
    numbers = {"ap": pixel.ap, "auroc": pixel.auroc, "fpr95": pixel.fpr95, "best_f1": pixel.best_f1}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _part(pixel: PixelMetrics) -> PartNumbers:
    return PartNumbers(_existing(pixel), pixel.num_frames, pixel.num_anomaly, pixel.num_inlier)

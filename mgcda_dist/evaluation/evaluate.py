"""Evaluation on a set of frames, spread over ranks: each rank takes every W-th frame, counts add up on rank 0.

Frames stream: the next ones are decoded in a thread while one is scored. A few thousand numbers of each frame stay in
memory and, of the worst and best, a small picture. Components need a threshold; where it is the one of the
best F1 on the same frames, they are scored a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.choices import ANOMALY, INTERVAL_LEVEL, VOID
from mgcda_dist.data.frames import EvaluationFrames, Frame
from mgcda_dist.data.prefetch import prefetch
from mgcda_dist.evaluation.bootstrap import RESAMPLED_METRICS, Interval, bootstrap
from mgcda_dist.evaluation.components import TRACKS, ComponentEvaluation, component_map
from mgcda_dist.evaluation.conventions import PixelEvaluation
from mgcda_dist.evaluation.frame_choice import FrameChoice, pictured_frame, shrunk
from mgcda_dist.evaluation.instances import InstanceEvaluation, connected_instances
from mgcda_dist.evaluation.metrics import PixelMetrics
from mgcda_dist.evaluation.miou import Confusion
from mgcda_dist.evaluation.pixel import PixelHistogram
from mgcda_dist.evaluation.results import EvaluationSettings, SetData
from mgcda_dist.evaluation.set_result import FrameResult, PanelRow, SetResult
from mgcda_dist.method.collectives import Collectives

__all__ = ["EvaluationProgress", "Score", "Scored", "Sink", "evaluate_set"]

_PANEL_HEIGHT_PX = 360
_PREFETCH_FRAMES = 2
"""Frames that are decoded while one is scored."""
_MAX_GROUPS = 64
_PER_OCTAVE, _PARTS = 1 << 11, 1 << 13
"""A frame's own numbers are off by about 1e-4 at most, and take a quarter of the time."""

EvaluationProgress = Callable[[str, int, int], None]
"""Called with the name of a set, the frames done, and the frames in all."""

Score = NDArray[np.floating[Any]]
"""H×W, higher = more anomalous."""

Scored = tuple[Score, NDArray[np.uint8] | None]
"""Scores and predicted classes of a frame, each H×W as its label; None where scores come without classes."""

Scorer = Callable[[Frame], Scored]


class Sink(Protocol):
    """Takes score maps as they are made, e.g. to write them as a submission."""

    def __call__(self, frame: Frame, score: Score, predicted: NDArray[np.uint8] | None) -> None:
        """Take one frame's maps."""
        ...


def evaluate_set(
    score: Scorer,
    frames: EvaluationFrames,
    *,
    name: str,
    num_classes: int,
    world: Collectives,
    data: SetData,
    settings: EvaluationSettings,
    panel_frames: int = 0,
    kept_frames: int = 0,
    metrics_only: bool = False,
    sink: Sink | None = None,
    progress: EvaluationProgress | None = None,
) -> SetResult | None:
    """Evaluate on every frame; rank 0 gets the merged result, the others None.

    Args:
        num_classes: C; 0 where scores come without classes.
        data: which data it is, kept with the result.
        panel_frames: how many frames to keep for the panel, spread over the set.
        kept_frames: how many of the worst frames to keep pictures of, and how many of the best.
        metrics_only: without intervals, curves, categories and groups, for which the other ranks would wait.
        sink: takes every frame's score map.
        progress: called with the set's name, frames done and frames in all, as far as this rank sees.

    Raises:
        MgcdaError: a frame whose scores do not fit its label, or are NaN or infinite.
    """
    counts = _RankCounts(settings, num_classes, frames, kept_frames)
    shown = set(np.linspace(0, len(frames) - 1, min(panel_frames, len(frames))).round().astype(int).tolist())
    mine = range(world.rank, len(frames), world.size)
    for index, frame in _prefetched(frames, mine):
        scores, predicted = score(frame)
        counts.count(index, frame, scores, predicted, name)
        if index in shown and predicted is not None:
            counts.panel.append((index, _panel_row(frame, predicted, scores)))
        if sink is not None:
            sink(frame, scores, predicted)
        if progress is not None:
            progress(name, min(index + world.size, len(frames)), len(frames))
    whole = world.merge_to_first(counts, _RankCounts.merge, "evaluation")
    shapes = None
    if settings.components in TRACKS or settings.instances:
        # The threshold is that of the best F1 over all ranks.
        pixel = world.from_first(None if whole is None else whole.pixel(), "evaluation")
        shapes = _ShapeCounts.of(settings, pixel)
        for index, frame in _prefetched(frames, mine) if shapes is not None else ():
            assert shapes is not None
            shapes.count(frame, score(frame)[0])
            if progress is not None:
                progress(f"{name}, components", min(index + world.size, len(frames)), len(frames))
        if shapes is not None:
            shapes = world.merge_to_first(shapes, _ShapeCounts.merge, "evaluation")
    return None if whole is None else whole.result(name, data, shapes, metrics_only=metrics_only)


class _RankCounts:
    """Counts of one rank over its frames of a set."""

    def __init__(
        self, settings: EvaluationSettings, num_classes: int, frames: EvaluationFrames, kept_frames: int
    ) -> None:
        self.pixels = PixelEvaluation(settings.conventions)
        self.groups, self.categories = _grouped(frames.keys), frames.categories
        self.confusion, self.choice = Confusion(num_classes), FrameChoice(kept_frames)
        self.frames: list[FrameResult] = []
        self.panel: list[tuple[int, PanelRow]] = []

    def count(self, index: int, frame: Frame, scores: Score, predicted: NDArray[np.uint8] | None, name: str) -> None:
        where = f"{name}/{frame.key}"
        self.pixels.update(
            frame.key,
            scores,
            frame.label,
            category=frame.category,
            names=self.categories,
            group=self.groups.get(frame.key, ""),
        )
        alone, own = PixelHistogram(per_octave=_PER_OCTAVE, parts=_PARTS), Confusion(self.confusion.num_classes)
        alone.update(scores, frame.label, where)
        if predicted is not None:
            own.update(predicted, frame.label, where)
            self.confusion.merge(own)
            self.pixels.tables.add_classes(frame.key, own.counts())
        pixel = alone.result()
        result = FrameResult(
            index=index,
            key=frame.key,
            ap=pixel.ap if np.isfinite(pixel.auroc) else float("nan"),
            fpr95=pixel.fpr95,
            num_anomaly=pixel.num_anomaly,
            num_inlier=pixel.num_inlier,
            miou=own.miou(),
        )
        self.frames.append(result)
        self.choice.offer(result, lambda: pictured_frame(result, frame, scores))

    def merge(self, other: _RankCounts) -> None:
        self.pixels.merge(other.pixels)
        self.confusion.merge(other.confusion)
        self.choice.merge(other.choice)
        self.frames += other.frames
        self.panel += other.panel

    def pixel(self) -> PixelMetrics:
        """Under the first convention."""
        return self.pixels.results()[self.pixels.conventions[0]]

    def _intervals(self, pixel: PixelMetrics) -> dict[str, Interval]:
        """Of mIoU, and of the metrics under the first convention where the tables, which pool all frames, know them."""
        known = {"pooled": {*RESAMPLED_METRICS}, "pooled_nearest": {*RESAMPLED_METRICS} - {"fpr95"}}.get(
            pixel.convention, set[str]()
        )
        intervals = bootstrap(self.pixels.tables, level=INTERVAL_LEVEL)
        return {n: each for n, each in intervals.items() if n in known | {"miou"} and np.isfinite(each.value)}

    def result(self, name: str, data: SetData, shapes: _ShapeCounts | None, *, metrics_only: bool) -> SetResult:
        conventions = self.pixels.results()
        pixel = conventions[self.pixels.conventions[0]]
        found = SetResult(
            name=name,
            pixel=pixel,
            conventions=conventions,
            miou=self.confusion.miou(),
            iou=self.confusion.iou(),
            frames=sorted(self.frames, key=lambda frame: frame.index),
            tables=self.pixels.tables,
            panel=[row for _, row in sorted(self.panel, key=lambda pair: pair[0])],
            pictured=self.choice.chosen(),
            components=None if shapes is None or shapes.components is None else shapes.components.result(),
            instances=None if shapes is None or shapes.instances is None else shapes.instances.result(),
            data=data,
        )
        if metrics_only:
            return found
        return replace(
            found,
            intervals=self._intervals(pixel) | (shapes.intervals() if shapes is not None else {}),
            curves=self.pixels.pooled.curves(500),
            categories=self.pixels.by_category(),
            groups=self.pixels.by_group(),
        )


@dataclass
class _ShapeCounts:
    """Counts of one rank over the components and instances of its frames."""

    threshold: float
    components: ComponentEvaluation | None
    instances: InstanceEvaluation | None

    @classmethod
    def of(cls, settings: EvaluationSettings, pixel: PixelMetrics) -> _ShapeCounts | None:
        """Empty counts; None where the set gives no threshold."""
        threshold = pixel.best_f1_threshold if settings.threshold is None else settings.threshold
        if not np.isfinite(threshold):
            return None
        components, sizes = None, TRACKS.get(settings.components)
        if sizes is not None:
            given = settings.threshold is not None
            components = (ComponentEvaluation(threshold, sizes) if given
                          else ComponentEvaluation.at_best_f1(pixel, sizes))  # fmt: skip
        return cls(threshold, components, InstanceEvaluation() if settings.instances else None)

    def count(self, frame: Frame, scores: Score) -> None:
        if self.components is not None:
            self.components.update(frame.key, scores, frame.label)
        if self.instances is not None:
            # Labels tell anomalies apart only where they do not touch.
            truth, _ = component_map(frame.label == ANOMALY)
            predicted = connected_instances(scores, self.threshold)
            self.instances.update(frame.key, predicted, truth, frame.label == VOID)

    def merge(self, other: _ShapeCounts) -> None:
        if self.components is not None and other.components is not None:
            self.components.merge(other.components)
        if self.instances is not None and other.instances is not None:
            self.instances.merge(other.instances)

    def intervals(self) -> dict[str, Interval]:
        return {} if self.components is None else self.components.bootstrap(level=INTERVAL_LEVEL)


def _grouped(keys: Sequence[str]) -> dict[str, str]:
    """Key → its folder (a city, a drive, a kind of weather), where a set has several and not too many."""
    groups = {key: key.rpartition("/")[0] for key in keys}
    return groups if 1 < len(set(groups.values())) <= _MAX_GROUPS else {}


def _prefetched(frames: EvaluationFrames, indices: range) -> Iterator[tuple[int, Frame]]:
    """The frames in order; the next ones are decoded meanwhile."""
    return prefetch(((index, frames[index]) for index in indices), _PREFETCH_FRAMES)


def _panel_row(frame: Frame, predicted: NDArray[np.uint8], scores: Score) -> PanelRow:
    """The row at a size for looking at, all parts of one size."""
    height = min(_PANEL_HEIGHT_PX, frame.label.shape[0])
    size = (height, round(frame.label.shape[1] * height / frame.label.shape[0]))
    return PanelRow(
        frame.key,
        shrunk(frame.image, size, "bilinear"),
        shrunk(predicted, size, "nearest-exact"),
        shrunk(scores, size, "bilinear"),
        shrunk(frame.label, size, "nearest-exact"),
    )

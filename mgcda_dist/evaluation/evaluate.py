"""Evaluating on sets of frames, spread over ranks: each rank takes every W-th frame, counts add up.

Frames stream: the next ones are decoded in a thread while one is scored, and nothing of a frame stays but a few
thousand numbers and, for the worst and best, a small picture.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray

from mgcda_dist.collectives import Collectives
from mgcda_dist.data.frames import EvaluationFrames, Frame
from mgcda_dist.evaluation.bootstrap import bootstrap
from mgcda_dist.evaluation.conventions import PixelEvaluation
from mgcda_dist.evaluation.kept import KeptFrames, kept_frame, shrunk
from mgcda_dist.evaluation.miou import Confusion
from mgcda_dist.evaluation.pixel import PixelHistogram
from mgcda_dist.evaluation.results import INTERVAL_LEVEL, FrameResult, PanelRow, SetResult

__all__ = ["EvaluationProgress", "Scored", "Scorer", "evaluate_set"]

_PANEL_HEIGHT_PX = 360
_AHEAD = 2
"""Frames that are decoded ahead."""

EvaluationProgress = Callable[[str, int, int], None]
"""Receives the name of a set, the frames done, and the frames in all."""

Scored = tuple[NDArray[np.float32], NDArray[np.uint8] | None]
"""Anomaly scores and predicted classes, each H×W as the label; None where scores come without classes."""

Scorer = Callable[[Frame], Scored]
"""Scores a frame."""


def evaluate_set(
    score: Scorer,
    frames: EvaluationFrames,
    *,
    name: str,
    num_classes: int,
    world: Collectives,
    conventions: Sequence[str] = ("pooled",),
    panel_frames: int = 0,
    kept_frames: int = 0,
    facts: dict[str, Any] | None = None,
    progress: EvaluationProgress | None = None,
) -> SetResult:
    """Evaluate on every frame; all ranks get the merged result.

    Args:
        score: gives a frame's scores.
        frames: the set.
        name: its name.
        num_classes: C; 0 where scores come without classes.
        world: the ranks that share the frames.
        conventions: how frames are pooled; the first is the one that the result shows.
        panel_frames: how many frames to keep for the panel, spread over the set.
        kept_frames: how many of the worst frames to keep pictures of, and how many of the best.
        facts: kept with the result.
        progress: told the set's name, frames done and frames in all, as far as this rank sees.

    Raises:
        MgcdaError: a frame whose scores do not fit its label, or are NaN or infinite.
    """
    part = _Part(conventions, num_classes, kept_frames)
    shown = set(np.linspace(0, len(frames) - 1, min(panel_frames, len(frames))).round().astype(int).tolist())
    for index, frame in _ahead(frames, range(world.rank, len(frames), world.size)):
        scores, predicted = score(frame)
        part.count(index, frame, scores, predicted, name)
        if index in shown and predicted is not None:
            part.panel.append((index, _panel_row(frame, predicted, scores)))
        if progress is not None:
            progress(name, min(index + world.size, len(frames)), len(frames))
    for other in _others(part, world):
        part.merge(other)
    return part.result(name, facts or {})


class _Part:
    """What one rank has seen of a set."""

    def __init__(self, conventions: Sequence[str], num_classes: int, kept_frames: int) -> None:
        self.pixels = PixelEvaluation(conventions)
        self.confusion, self.kept = Confusion(num_classes), KeptFrames(kept_frames)
        self.frames: list[FrameResult] = []
        self.panel: list[tuple[int, PanelRow]] = []

    def count(
        self, index: int, frame: Frame, scores: NDArray[np.float32], predicted: NDArray[np.uint8] | None, name: str
    ) -> None:
        where = f"{name}/{frame.key}"
        self.pixels.update(frame.key, scores, frame.label)
        alone, own = PixelHistogram(), Confusion(self.confusion.num_classes)
        alone.update(scores, frame.label, where)
        if predicted is not None:
            own.update(predicted, frame.label, where)
            self.confusion.merge(own)
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
        self.kept.offer(result, lambda: kept_frame(result, frame, scores))

    def merge(self, other: _Part) -> None:
        self.pixels.merge(other.pixels)
        self.confusion.merge(other.confusion)
        self.kept.merge(other.kept)
        self.frames += other.frames
        self.panel += other.panel

    def result(self, name: str, facts: dict[str, Any]) -> SetResult:
        conventions = self.pixels.results()
        pixel = next(iter(conventions.values()))
        has_both = pixel.num_anomaly > 0 and pixel.num_inlier > 0
        return SetResult(
            name=name,
            pixel=pixel,
            conventions=conventions,
            intervals=bootstrap(self.pixels.tables, level=INTERVAL_LEVEL) if has_both else {},
            miou=self.confusion.miou(),
            iou=self.confusion.iou(),
            frames=sorted(self.frames, key=lambda frame: frame.index),
            curves=self.pixels.curves(500),
            tables=self.pixels.tables,
            panel=[row for _, row in sorted(self.panel, key=lambda pair: pair[0])],
            kept=self.kept.chosen(),
            facts=facts,
        )


def _ahead(frames: EvaluationFrames, indices: range) -> Iterator[tuple[int, Frame]]:
    """The frames in order, the next ones being decoded meanwhile: OpenCV lets other threads run."""
    with ThreadPoolExecutor(1, thread_name_prefix="frames") as pool:
        waiting: deque[tuple[int, Future[Frame]]] = deque()
        try:
            for index in indices:
                waiting.append((index, pool.submit(frames.__getitem__, index)))
                if len(waiting) > _AHEAD:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def _others(mine: Any, world: Collectives) -> list[Any]:
    """What the other ranks hold; pictures and tables of any size, once per set."""
    if world.size == 1:
        return []
    everyone: list[Any] = [None] * world.size
    dist.all_gather_object(everyone, mine, group=world.group)
    return [theirs for rank, theirs in enumerate(everyone) if rank != world.rank]


def _panel_row(frame: Frame, predicted: NDArray[np.uint8], scores: NDArray[np.float32]) -> PanelRow:
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

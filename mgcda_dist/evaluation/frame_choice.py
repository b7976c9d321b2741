"""Choice of the worst and best frames of a set in one pass over it: small pictures of a few frames only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from mgcda_dist.data.frames import Frame
from mgcda_dist.evaluation.set_result import FrameResult, PicturedFrame

__all__ = ["FrameChoice", "pictured_frame", "shrunk"]

MAX_WIDTH_PX = 640


class FrameChoice:
    """The `count` worst and as many best frames by AP, and by mIoU in case the set has no anomaly.

    Choices of ranks merge; the choice does not depend on order or world size, because equal frames rank by index.

    Args:
        count: how many of each; 0: none.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._ranked: dict[tuple[str, int], list[tuple[float, int, PicturedFrame]]] = {}

    def offer(self, frame: FrameResult, picture: Callable[[], PicturedFrame]) -> None:
        """Take a frame if it is among the worst or best so far; only then its pictures are made."""
        made: PicturedFrame | None = None
        for name, value in (("ap", frame.ap), ("miou", frame.miou), ("", 0.0)):
            if not math.isfinite(value) or not self.count:
                continue
            for sign in (1, -1):  # 1: worst first
                ranked = self._ranked.setdefault((name, sign), [])
                if len(ranked) < self.count or (sign * value, frame.index) < ranked[-1][:2]:
                    made = made or picture()
                    self._insert(ranked, [(sign * value, frame.index, made)])

    def merge(self, other: FrameChoice) -> None:
        """Add the frames that another rank has chosen."""
        for ranking, entries in other._ranked.items():
            self._insert(self._ranked.setdefault(ranking, []), entries)

    def chosen(self) -> list[PicturedFrame]:
        """Worst first, each frame once. Without AP and mIoU: the first frames of the set."""
        for name in ("ap", "miou", ""):
            if (name, 1) in self._ranked:
                worst, best = self._ranked[name, 1], self._ranked[name, -1][::-1] if name else []
                return list({index: frame for _, index, frame in [*worst, *best]}.values())
        return []

    def _insert(
        self, ranked: list[tuple[float, int, PicturedFrame]], entries: Iterable[tuple[float, int, PicturedFrame]]
    ) -> None:
        ranked.extend(entries)
        ranked.sort(key=lambda entry: entry[:2])
        del ranked[self.count :]


def pictured_frame(result: FrameResult, frame: Frame, score: NDArray[np.floating[Any]]) -> PicturedFrame:
    """The pictures of a frame, at most 640 pixels wide, all of one size."""
    height, width = frame.label.shape
    size = (height, width) if width <= MAX_WIDTH_PX else (max(1, round(height * MAX_WIDTH_PX / width)), MAX_WIDTH_PX)
    return PicturedFrame(
        result,
        shrunk(frame.image, size, "bilinear"),
        # To the nearest pixel: a mean would be a score that no pixel has.
        shrunk(score, size, "nearest-exact"),
        shrunk(frame.label, size, "nearest-exact"),
    )


def shrunk(array: NDArray[Any], size: tuple[int, int], mode: str) -> NDArray[Any]:
    """A map H×W or a picture H×W×3 at another size, in its own dtype."""
    tensor = torch.as_tensor(array)
    tensor = tensor.permute(2, 0, 1).unsqueeze(0) if array.ndim == 3 else tensor[None, None]
    if mode == "bilinear":
        tensor = tensor.float()
    tensor = F.interpolate(tensor, size=size, mode=mode, antialias=mode == "bilinear")
    tensor = tensor[0].permute(1, 2, 0) if array.ndim == 3 else tensor[0, 0]
    return (tensor.round() if mode == "bilinear" and array.dtype == np.uint8 else tensor).numpy().astype(array.dtype)

"""Anomalies of a score map: 8-connected components over a threshold, with box, area and scores."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Anomaly", "find_anomalies"]


@dataclass(frozen=True)
class Anomaly:
    """One component.

    Attributes:
        box: left, top, width, height in pixels of the image, as in COCO.
        area_px: pixels of the component, holes not counted.
        score: mean of its scores.
        max_score: highest of them.
    """

    box: tuple[int, int, int, int]
    area_px: int
    score: float
    max_score: float

    def as_json(self) -> dict[str, Any]:
        """All fields by name; scores with six digits, which exceeds the precision of float16 maps."""
        numbers = {"score": float(f"{self.score:.6g}"), "max_score": float(f"{self.max_score:.6g}")}
        return {**asdict(self), "box": list(self.box), **numbers}


def find_anomalies(
    score: NDArray[np.float32], threshold: float, min_area_px: int = 1
) -> tuple[list[Anomaly], NDArray[np.bool_]]:
    """The components of score >= threshold, highest mean score first, and their pixels as an H×W mask.

    Args:
        score: H×W, higher is more anomalous.
        threshold: of an anomaly's pixels.
        min_area_px: smaller components are left out.
    """
    # float64: the threshold must not be rounded to the type of the scores.
    marked = score.astype(np.float64) >= threshold
    count, labelled, stats, _ = cv2.connectedComponentsWithStats(marked.astype(np.uint8), connectivity=8)
    ids = np.asarray(labelled, np.int32)
    large = stats[:, cv2.CC_STAT_AREA] >= min_area_px
    large[0] = False  # the background
    found: list[Anomaly] = []
    for number in range(1, count):
        if large[number]:
            left, top, width, height, area = (int(value) for value in stats[number])
            box = np.s_[top : top + height, left : left + width]
            inside = score[box][ids[box] == number]
            mean, highest = float(inside.mean(dtype=np.float64)), float(inside.max())
            found.append(Anomaly((left, top, width, height), area, mean, highest))
    found.sort(key=lambda each: (-each.score, each.box))
    return found, large[ids]

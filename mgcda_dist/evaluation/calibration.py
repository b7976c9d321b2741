"""Class statistics of the maximum logit, which `standardized_max_logit` needs (Jung et al., arXiv 2107.11264)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mgcda_dist.data.frames import Frame
from mgcda_dist.evaluation.test_time import score_map
from mgcda_dist.models.scores import ClassStatistics, LogitScore, max_logit

__all__ = ["class_statistics"]


def class_statistics(
    network: nn.Module,
    frames: Iterable[Frame],
    num_classes: int,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> tuple[ClassStatistics, list[int]]:
    """Mean and variance of the maximum logit over inlier pixels, by the class that is predicted for them.

    Args:
        network: image → `Prediction`, in evaluation mode, on `device`.
        frames: labelled frames, best of the training data; pixels without an inlier class are left out.
        num_classes: C.
        progress: called with the number of frames done.

    Returns:
        The statistics, and the pixels predicted as each class. A class with fewer than two has those of all pixels.

    Raises:
        ValueError: fewer than two inlier pixels in all.
    """
    count, mean, moment = (np.zeros(num_classes) for _ in range(3))
    for done, frame in enumerate(frames, start=1):
        size = frame.label.shape[0], frame.label.shape[1]
        score, predicted = score_map(network, frame.image, size, score=LogitScore(max_logit), device=device)
        inlier = frame.label < num_classes
        count, mean, moment = _merged((count, mean, moment), _moments(-score[inlier], predicted[inlier], num_classes))
        if progress is not None:
            progress(done)
    total = count.sum()
    if total < 2:
        raise ValueError(f"{int(total)} inlier pixels in all frames")
    common = float((count * mean).sum() / total)
    spread = float((moment + count * (mean - common) ** 2).sum() / total)
    enough = count >= 2
    return ClassStatistics(
        tuple(np.where(enough, mean, common).tolist()),
        tuple(np.where(enough, moment / np.maximum(count, 1), spread).tolist()),
    ), [int(n) for n in count]


_Moments = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
"""Per class: number of values, their mean, and the sum of squared distances from it."""


def _moments(values: NDArray[np.float32], classes: NDArray[np.uint8], num_classes: int) -> _Moments:
    wide = values.astype(np.float64)
    count = np.bincount(classes, minlength=num_classes).astype(np.float64)
    mean: NDArray[np.float64] = np.bincount(classes, wide, num_classes) / np.maximum(count, 1)
    moment = np.bincount(classes, (wide - mean[classes]) ** 2, num_classes)
    return count, mean, moment.astype(np.float64)  # of no pixels at all it is whole numbers


def _merged(a: _Moments, b: _Moments) -> _Moments:
    """Moments of the union (Chan, Golub and LeVeque, 1979): sums of squares alone would cancel."""
    count = a[0] + b[0]
    share = b[0] / np.maximum(count, 1)
    step = b[1] - a[1]
    return count, a[1] + step * share, a[2] + b[2] + step**2 * a[0] * share

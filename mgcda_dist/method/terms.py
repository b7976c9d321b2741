"""Terms of an outlier loss: what each is a sum over and weighs, and what the loss is told beside the prediction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from mgcda_dist.method.forwards import ForwardContext

__all__ = ["LossContext", "Over", "Term", "Weight", "weight_at"]

Over = Literal[
    "inlier",  # pixels of a class
    "anomaly",  # anomalous pixels
    "both",  # judged pixels: those of a class and anomalous ones
    "not_void",  # those, and inliers of unknown class
    "images",
]
"""Denominators that the package counts for every loss."""
Weight = float | Callable[[float], float]
"""A number, or a function of the progress of training, 0…1."""


@dataclass(frozen=True)
class Term:
    """One named sum of a loss: weight · (sum over ranks) / (count over ranks) is its part of the total.

    Attributes:
        over: what the sum is taken over, and what it is divided by: one of `Over`, or a name of the loss's own
            `counts`. Terms may share one.
        weight: a number, or a function of the progress in 0…1.
    """

    over: Over | str
    weight: Weight = 1.0


@dataclass(frozen=True)
class LossContext(ForwardContext):
    """Facts that a loss may depend on beside prediction and label.

    Attributes:
        step, progress, slot, seed: as of a forward pass.
        stride_px: the label has every so many-th pixel of the image, and the logits are at its size.
    """

    drawn_by: ClassVar[str] = "loss"

    stride_px: int = 1


def weight_at(weight: Weight, progress: float) -> float:
    """The weight at a progress of training."""
    return weight(progress) if callable(weight) else weight

"""Terms of an outlier loss: what each is a sum over and weighs, and what the loss is told beside the prediction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mgcda_dist.method.randomness import stream_key, uniform

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
class LossContext:
    """Facts that a loss may depend on beside prediction and label.

    Attributes:
        step: of training.
        progress: share of training that is done, 0…1.
        slot: N, int64: positions of the images in the global batch, the same at every number of ranks.
        seed: of the run.
        stride_px: the label has every so many-th pixel of the image, and the logits are at its size.
    """

    step: int
    progress: float
    slot: Tensor
    seed: int = 0
    stride_px: int = 1

    def uniform(self, purpose: str, *size: int) -> Tensor:
        """N×size random numbers in [0, 1), float64: a function of seed, step, image and purpose, and of no rank."""
        axes = [self.slot, *(torch.arange(length, device=self.slot.device) for length in size)]
        counters = [axis.view(-1, *[1] * (len(size) - n)) for n, axis in enumerate(axes)]
        return uniform(stream_key(self.seed, self.step, "loss", purpose), *counters)


def weight_at(weight: Weight, progress: float) -> float:
    """The weight at a progress of training."""
    return weight(progress) if callable(weight) else weight

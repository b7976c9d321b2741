"""Probes of a loss by itself: a mean instead of a sum, the place in a batch, global generators, memory of calls.

They run on predictions of the subject's own network, in float64 and in one process, and say what a broken law looks
like: what W ranks find is a difference, and a difference has many causes.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mgcda_dist.laws.findings import Difference, relative, worst
from mgcda_dist.laws.scenes import IMAGES, scene_batch
from mgcda_dist.laws.steps import PROGRESS
from mgcda_dist.method.batch import Batch, Prediction
from mgcda_dist.method.mgcda import MGCDA
from mgcda_dist.method.terms import LossContext

__all__ = ["Outputs", "drawn_from", "mean_instead_of_sum", "outputs", "place_in_batch", "sums", "values"]

_SAME = 1e-9
STEP = 3
"""Step at which a loss is asked."""


@dataclass(frozen=True)
class Outputs:
    """Outputs of the network for one global batch, and the batch."""

    prediction: Prediction
    batch: Batch


def outputs(model: MGCDA, size: tuple[int, int], num_classes: int) -> Outputs:
    """Detached outputs of the network for a batch that shows all sides."""
    batch = scene_batch("all sides", STEP, size, num_classes)
    with torch.no_grad():
        prediction: Prediction = model.segmenter(batch.image)
        if model.heads is not None:
            prediction = model.heads(prediction)
    return Outputs(prediction, batch)


def sums(model: MGCDA, seen: Outputs, images: list[int], step: int = STEP) -> dict[str, Tensor]:
    """The sums of some images, in that order, with their slots.

    The cross-entropy of the package is among them where the loss does not take its place.
    """
    index, given = torch.tensor(images), seen.prediction
    part = Prediction(
        given.logits[index],
        {name: x[index] for name, x in given.stages.items()},
        given.embedding[index],
        {name: x[index] for name, x in given.extra.items()},
    )
    context = LossContext(step, PROGRESS, seen.batch.slot[index], model.seed)
    return model.segmentation_loss(part, seen.batch.label[index], context)


def values(model: MGCDA, seen: Outputs, images: list[int]) -> dict[str, float]:
    """`sums` as numbers."""
    return {name: float(x) for name, x in sums(model, seen, images).items()}


def mean_instead_of_sum(model: MGCDA, seen: Outputs) -> tuple[Difference, str]:
    """The difference between all images together and one by one, and what it looks like; 0: a sum."""
    everyone = list(range(IMAGES))
    together = values(model, seen, everyone)
    apart = [values(model, seen, [i]) for i in everyone]
    found = worst(
        Difference(relative(whole, sum(each[name] for each in apart)), f"{name}, {IMAGES} images together and apart")
        for name, whole in together.items()
    )
    if found.number <= _SAME:
        return found, ""
    name = found.where.partition(",")[0]
    alone = [each[name] for each in apart]
    numbers = f"{name} is {together[name]:.4g} for {IMAGES} images together, and {sum(alone):.4g} in sum one by one"
    return found, f"{numbers}: {_kind_of_mean(seen.batch.label, together[name], alone, model, name)}"


def _kind_of_mean(label: Tensor, together: float, alone: list[float], model: MGCDA, name: str) -> str:
    """The mean that fits the numbers, in words."""
    if relative(together, sum(alone) / len(alone)) < 1e-6:
        return "that looks like a mean over images; return the sum"
    counted = _counts(model, label)
    for what, numbers in counted.items():
        if sum(numbers) > 0:
            whole = sum(n * x for n, x in zip(numbers, alone, strict=True)) / sum(numbers)
            if relative(together, whole) < 1e-6:
                return f"that looks like a mean over {what}; return the sum"
    bounds = min(alone), max(alone)
    if bounds[0] <= together <= bounds[1] and len(set(alone)) > 1:
        return "it lies between those of the images, which looks like a mean; return the sum"
    return "it is no sum over images: they see each other, or something is divided by a number of this batch"


def _counts(model: MGCDA, label: Tensor) -> dict[str, list[float]]:
    """Numbers per image that a mean may have been divided by."""
    height, width = -(-label.shape[1] // 2), -(-label.shape[2] // 2)
    found: dict[str, list[float]] = {"all pixels": [float(height * width)] * len(label)}
    for i in range(len(label)):
        for term, number in model.segmentation_loss.counts(label[i : i + 1]).items():
            found.setdefault(f"what {term} is over", []).append(float(number))
    ordinary = {
        "anomalous pixels": label == 254,
        "pixels of a class": label < 253,
        "judged pixels": (label < 253) | (label == 254),
        "pixels that are not void": label != 255,
    }
    return {name: [float(x) for x in mask.flatten(1).sum(1)] for name, mask in ordinary.items()} | found


def place_in_batch(model: MGCDA, seen: Outputs) -> tuple[Difference, str]:
    """The difference that another order of the same images makes, their slots going with them."""
    forth = list(range(IMAGES))
    first, second = values(model, seen, forth), values(model, seen, forth[::-1])
    found = worst(
        Difference(relative(second[n], x), f"{n}, the same images in another order") for n, x in first.items()
    )
    if found.number <= _SAME:
        return found, ""
    name = found.where.partition(",")[0]
    return found, (
        f"{name} is {first[name]:.4g}, and {second[name]:.4g} in another order: it depends on the place of an image in "
        "its batch, which another number of ranks changes; use context.slot"
    )


def drawn_from(call: Callable[[], Any]) -> list[str]:
    """The global generators that a call draws from: torch, NumPy, Python."""
    states: dict[str, Callable[[], Any]] = {
        "torch": lambda: torch.get_rng_state().numpy().tobytes(),
        "NumPy": lambda: pickle.dumps(np.random.get_state()),  # noqa: NPY002  # read, not drawn from
        "Python": random.getstate,
    }
    before = {name: state() for name, state in states.items()}
    call()
    return [name for name, state in states.items() if state() != before[name]]

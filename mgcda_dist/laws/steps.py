"""Steps of the method without an optimizer: the loss, its terms and the averaged gradient of one global batch."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mgcda_dist.laws.findings import Difference, relative, worst
from mgcda_dist.laws.scenes import Scene, cut, scene_batch
from mgcda_dist.method.mgcda import MGCDA

__all__ = ["PROGRESS", "Played", "difference", "play"]

PROGRESS = 0.5


@dataclass
class Played:
    """One step, as a rank sees it.

    Attributes:
        terms: values over all ranks, by name as they are logged.
        gradients: by parameter, averaged over ranks and micro-batches.
        untouched: parameters that got no gradient on this rank, in one of its micro-batches at least.
    """

    terms: dict[str, float]
    gradients: dict[str, Tensor]
    untouched: list[str] = field(default_factory=list[str])


def play(
    model: MGCDA,
    scene: Scene,
    size: tuple[int, int],
    num_classes: int,
    accumulation: int,
    domains: int = 1,
) -> Played:
    """Play one step of a scene on this rank's part of its global batch; a collective.

    Args:
        size: of the images, pixels.
        accumulation: micro-batches of this rank.
        domains: that the images are of, in turn.
    """
    world = model.collectives
    whole, parts = scene_batch(scene, 0, size, num_classes, domains), accumulation * world.size
    batches = [cut(whole, world.rank * accumulation + micro, parts) for micro in range(accumulation)]
    counts = model.count(batches)
    named = {name: x for name, x in model.named_parameters() if x.requires_grad}
    total = {name: torch.zeros_like(x) for name, x in named.items()}
    untouched: dict[str, None] = {}
    outcomes = []
    for batch in batches:
        outcome = model(batch, PROGRESS, counts)
        gradients: list[Tensor | None] = [None] * len(named)
        if outcome.loss.requires_grad:
            gradients = list(torch.autograd.grad(outcome.loss / accumulation, list(named.values()), allow_unused=True))
        for name, gradient in zip(named, gradients, strict=True):
            if gradient is None:
                untouched[name] = None
            else:
                total[name] += gradient
        outcomes.append(outcome)
    terms = model.total(outcomes).scalars()
    whole = torch.cat([x.flatten() for x in total.values()])
    flat = world.start_sum(whole, "laws", owned=True).wait() / world.size
    # Copies: a view is pickled with the whole vector, once for each parameter.
    split = [x.clone() for x in torch.split(flat, [x.numel() for x in total.values()])]
    return Played(terms, dict(zip(total, split, strict=True)), list(untouched))


def difference(found: Played, expected: Played, where: str) -> Difference:
    """The largest relative difference of a term, or of the gradient of a parameter against the whole gradient."""
    terms = [Difference(relative(found.terms[name], x), f"{name}, {where}") for name, x in expected.terms.items()]
    size = max(float(torch.cat(list(expected.gradients.values())).norm()), 1e-300)
    gradients = [
        Difference(_part(found.gradients[name], x, size), f"gradient of {name}, {where}")
        for name, x in expected.gradients.items()
    ]
    return worst([*terms, *gradients])


def _part(found: Tensor, expected: Tensor, size: float) -> float:
    """Distance over the norm of the whole gradient: the rounding of a gradient that is 0 is no difference."""
    if not bool(found.isfinite().all() and expected.isfinite().all()):
        return relative(found, expected)
    distance = float((found - expected).norm())
    return 0.0 if distance == 0 else distance / size

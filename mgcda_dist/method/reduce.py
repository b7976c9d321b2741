"""Named sums over ranks, and the mean of law 1: the same for any number of ranks and of micro-batches.

    mean = (sum over ranks and micro-batches) / (count over ranks and micro-batches), never a mean of means

A global batch may be cut into W ranks × A micro-batches. The counts of a step follow from its labels, so `StepCounts`
knows them before the first forward pass; each part then gives A·W · (its sum) / (count of the step), and an engine that
averages gradients over ranks and micro-batches obtains the gradient of the global mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from mgcda_dist.method.collectives import Collectives, to_host

__all__ = ["LossTerm", "NamedSum", "NamedTensors", "StepCounts", "known", "local_mean", "read_scalars"]

NamedTensors = Mapping[str, Tensor]
"""Local parts of sums over ranks, by name; the same names and shapes on every rank."""
_NOTHING: NamedTensors = MappingProxyType({})


class LossTerm(NamedTuple):
    """One term of the loss, as one rank and micro-batch has it.

    Attributes:
        local_loss: scalar with gradient; its mean over ranks and micro-batches is the term.
        sums: local parts of named sums over ranks and micro-batches: values to log, and inputs of the running state.
    """

    local_loss: Tensor
    sums: dict[str, Tensor]


class NamedSum:
    """A sum over ranks of named tensors, in flight as one all-reduce in float64.

    Args:
        local: this rank's tensors; gradients do not cross.
        collectives: the ranks.
        label: of the collective.
    """

    def __init__(self, local: NamedTensors, collectives: Collectives, label: str) -> None:
        self._shapes = {name: tensor.shape for name, tensor in local.items()}
        # float64: location counts of large clusters exceed 2^24, where float32 stops counting.
        packed = [tensor.detach().to(torch.float64).flatten() for tensor in local.values()]
        self._pending = collectives.start_sum(torch.cat(packed), label, owned=True)
        self._scalars: dict[str, float] | None = None

    def wait(self) -> dict[str, Tensor]:
        """The sums over ranks, under the same names and in the same shapes, float64."""
        parts = torch.split(self._pending.wait(), [shape.numel() for shape in self._shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}

    def scalars(self, beside: NamedTensors = _NOTHING) -> dict[str, float]:
        """The sums that are single numbers, in one transfer to the host, which later calls repeat; equal on every rank.

        Args:
            beside: other scalars that are equal on every rank and travel with them; of the first call alone.
        """
        if self._scalars is None:
            self._scalars = read_scalars(
                {name: total for name, total in {**self.wait(), **beside}.items() if total.ndim == 0}
            )
        return self._scalars


class StepCounts:
    """Counts of one optimizer step over all ranks and micro-batches: the denominators of its means.

    Args:
        local: counts over this rank's part of all micro-batches of the step.
        num_micro_batches: A.
        collectives: the ranks.

    Attributes:
        num_parts: A·W, the number of parts that a mean is averaged over.
    """

    def __init__(self, local: NamedTensors, num_micro_batches: int, collectives: Collectives) -> None:
        self.collectives, self.num_parts = collectives, num_micro_batches * collectives.size
        self._local = dict(local)
        self._pending: NamedSum | None = None
        self._total: dict[str, Tensor] | None = None

    def start(self) -> StepCounts:
        """Start the sum over ranks; without it the counts are sent with the first `sum_beside`."""
        self._sum()
        return self

    def _sum(self) -> NamedSum:
        self._pending = self._pending or NamedSum(self._local, self.collectives, "counts")
        return self._pending

    def total(self) -> dict[str, Tensor]:
        """The counts over all ranks, by name."""
        if self._total is None:
            self._total = self._sum().wait()
        return self._total

    def sum_beside(self, local: NamedTensors, label: str) -> dict[str, Tensor]:
        """Sum over ranks of tensors that are known only after the forward pass of a micro-batch, by name.

        If the counts have not been sent yet, both share one collective, labelled `counts`.
        """
        if self._pending is not None:
            return NamedSum(local, self.collectives, label).wait()
        self._pending = NamedSum({**self._local, **local}, self.collectives, "counts")
        everything = self._pending.wait()
        self._total = {name: everything[name] for name in self._local}
        return {name: everything[name] for name in local}


def read_scalars(scalars: NamedTensors) -> dict[str, float]:
    """The values of scalars by name, float64, in one transfer to the host, which waits for the device meanwhile."""
    if not scalars:
        return {}
    values = to_host(torch.stack([value.detach().to(torch.float64) for value in scalars.values()]))
    return dict(zip(scalars, values, strict=True))


def known(values: Mapping[str, float]) -> dict[str, float]:
    """Those that are numbers: a share of nothing is none."""
    return {name: value for name, value in values.items() if not math.isnan(value)}


def local_mean(sums: Tensor, counts: Tensor, num_parts: int) -> Tensor:
    """This part's share of a mean over groups of means: A·W · Σ_g (local sum_g / count_g) / (groups present).

    Args:
        sums: G local sums with gradient, or a scalar; zeros of an absent group still touch the graph (law 3).
        counts: G counts, or a scalar, over all ranks and micro-batches of the step; groups without any are left out.
        num_parts: A·W.

    Returns:
        Scalar; its mean over ranks and micro-batches is the global value.
    """
    present = counts > 0
    means = sums / counts.clamp(min=1)
    return num_parts * (means * present).sum() / present.sum().clamp(min=1)

"""Average of the gradients over ranks, in buckets, while the backward pass goes on.

For ZeRO 0, where DeepSpeed begins after the last gradient whatever its settings; from ZeRO 1 on it does this itself.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mgcda_dist.method.collectives import Collectives, PendingSum

__all__ = ["GradientReduction"]

_LABEL = "gradients"


class GradientReduction:
    """Starts the sum of a bucket of gradients as soon as the backward pass has its last one.

    Buckets are filled in the reverse order of the parameters, which is about that of the backward pass, and sent in the
    same order on every rank.

    Args:
        parameters: of the module, on their device and in their final type.
        bucket_bytes: gradients that are sent at once; a larger parameter has a bucket of its own.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], bucket_bytes: float, world: Collectives) -> None:
        self._world = world
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        self._buckets = _buckets(reversed(trained), bucket_bytes)
        self._bucket_of = {id(parameter): i for i, bucket in enumerate(self._buckets) for parameter in bucket}
        self._is_last, self._missing = False, list[int]()
        self._sent: list[PendingSum] = []
        self._hooks = [parameter.register_post_accumulate_grad_hook(self._has_gradient) for parameter in trained]

    def begin(self, *, is_last: bool) -> None:
        """Call it before a backward pass; `is_last`: its gradients complete those of the step."""
        self._is_last, self._sent = is_last, []
        self._missing = [len(bucket) for bucket in self._buckets]

    def end(self) -> None:
        """Call it after the backward pass: sends what is left, and makes the averages of it, in place."""
        if not self._is_last:
            return
        self._is_last = False
        while len(self._sent) < len(self._buckets):
            self._send()
        for pending in self._sent:
            pending.wait().mul_(1 / self._world.size)
        self._sent = []

    def _has_gradient(self, parameter: Tensor) -> None:
        if not self._is_last:
            return
        self._missing[self._bucket_of[id(parameter)]] -= 1
        while len(self._sent) < len(self._buckets) and self._missing[len(self._sent)] == 0:
            self._send()

    def _send(self) -> None:
        bucket = self._buckets[len(self._sent)]
        flat = torch.cat([_gradient(parameter).reshape(-1) for parameter in bucket])
        # The gradients are parts of what is sent, from here on: no second copy of them all, and none back.
        for parameter, part in zip(bucket, torch.split(flat, [p.numel() for p in bucket]), strict=True):
            parameter.grad = part.view(parameter.shape)
        self._sent.append(self._world.start_sum(flat, _LABEL, owned=True))


def _gradient(parameter: nn.Parameter) -> Tensor:
    """Its gradient; zeros where no loss depends on it."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _buckets(parameters: Iterable[nn.Parameter], num_bytes: float) -> list[list[nn.Parameter]]:
    """Neighbours of one type, up to `num_bytes` in a bucket."""
    buckets: list[list[nn.Parameter]] = []
    filled = 0
    for parameter in parameters:
        size = parameter.numel() * parameter.element_size()
        if not buckets or filled + size > num_bytes or parameter.dtype != buckets[-1][0].dtype:
            buckets.append([])
            filled = 0
        buckets[-1].append(parameter)
        filled += size
    return buckets

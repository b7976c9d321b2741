"""The step of DeepSpeed's optimiser for ZeRO 0 in bf16, with one look of the host at its gradients.

DeepSpeed asks every parameter by itself whether its gradient is finite, and every group for its norm: with a GPU each
of these numbers is a wait.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

__all__ = ["OneLookStep"]


class OneLookStep:
    """Takes the place of `step` of a DeepSpeed `FP16_UnfusedOptimizer` that does not scale the loss.

    Args:
        optimizer: DeepSpeed's, of parameters whose gradients are equal on every rank when it steps.
        clip_norm: 0: gradients are not clipped.
    """

    def __init__(self, optimizer: Any, clip_norm: float) -> None:
        self._optimizer, self._clip_norm = optimizer, clip_norm
        self._norm, self._value = torch.zeros(()), math.nan
        optimizer.step = self._step

    @torch.no_grad()
    def look(self, read: Callable[[Tensor], float]) -> float:
        """Norm of the gradients of the step that follows; infinite: it will be refused.

        Args:
            read: the value of a norm.
        """
        gradients, wide = list[Tensor](), list[Tensor]()
        for parameters, masters in self._groups():
            for parameter, master in zip(parameters, masters, strict=True):
                if parameter.grad is None:
                    master.grad = torch.zeros_like(master)
                    continue
                master.grad = torch.empty_like(master)
                gradients.append(parameter.grad)
                wide.append(master.grad)
        if wide:
            torch._foreach_copy_(wide, gradients)  # pyright: ignore[reportPrivateImportUsage]
        self._norm = get_total_norm([master.grad for master in self._masters()])
        value = read(self._norm)
        self._value = value if math.isfinite(value) else math.inf
        return self._value

    @torch.no_grad()
    def _step(self) -> bool:
        """As DeepSpeed's; True: refused."""
        optimizer, self._value, value = self._optimizer, math.nan, self._value
        assert not math.isnan(value), "look first"
        optimizer.overflow, optimizer._global_grad_norm = value == math.inf, value
        if optimizer.overflow:
            return optimizer._skip_invalid_grad_norm()
        optimizer._update_scale(False)  # counts the steps
        if self._clip_norm > 0:
            clip_grads_with_norm_(self._masters(), self._clip_norm, self._norm)
        optimizer.optimizer.step()
        for parameters, masters in self._groups():
            if masters:
                torch._foreach_copy_(parameters, masters)  # pyright: ignore[reportPrivateImportUsage]
            for master in masters:
                master.grad = None
        return False

    def _groups(self) -> list[tuple[list[Tensor], list[Tensor]]]:
        """Parameters, and their float32, by group."""
        return list(zip(self._optimizer.fp16_groups, self._optimizer.fp32_groups, strict=True))

    def _masters(self) -> list[Any]:
        return [master for _, masters in self._groups() for master in masters]

"""Float32 of the trained parameters of a module in bf16 or fp16, where DeepSpeed's optimisers keep it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["Masters"]


class Masters:
    """Reads and sets the float32 that the optimiser steps and the forward pass rounds.

    Args:
        optimizer: DeepSpeed's.
        zero_stage: 0: whole on every rank; 1 and 2: slices of all parameters in a row; 3: a slice of each.
    """

    def __init__(self, optimizer: Any, zero_stage: int) -> None:
        self._optimizer, self._zero_stage = optimizer, zero_stage

    @torch.no_grad()
    def set(self, given: Mapping[int, Tensor]) -> None:
        """Take `given`, by the parameters' ids, in the place of what DeepSpeed makes of the rounded parameters."""
        if self._zero_stage == 0:
            for parameter, master in self._pairs():
                master.copy_(given[id(parameter)])
        elif self._zero_stage == 3:
            for parameter, slice_, start in self._slices():
                slice_.copy_(given[id(parameter)].flatten()[start : start + slice_.numel()])
        else:
            for group in self._optimizer.bit16_groups:
                for parameter in group:
                    parameter.set_full_hp_param(given[id(parameter)].to(parameter.device))

    def of(self, parameters: Sequence[nn.Parameter]) -> list[tuple[nn.Parameter, Tensor]]:
        """Trained parameters, each with its whole float32, on every rank; a collective where that is sliced."""
        if self._zero_stage == 0:
            whole = {id(parameter): master for parameter, master in self._pairs()}
            return [(parameter, whole[id(parameter)]) for parameter in parameters]
        if self._zero_stage == 3:
            return [(parameter, self._optimizer.get_full_hp_param(parameter)) for parameter in parameters]
        return [(parameter, parameter.get_full_hp_param()) for parameter in parameters]  # type: ignore[attr-defined]

    def _pairs(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        for rounded, masters in zip(self._optimizer.fp16_groups, self._optimizer.fp32_groups, strict=True):
            yield from zip(rounded, masters, strict=True)

    def _slices(self) -> Iterator[tuple[nn.Parameter, Tensor, int]]:
        """Parameters, this rank's slice of their float32 without its padding, and its first element in the whole."""
        rank, optimizer = dist.get_rank(), self._optimizer
        for parameters, flat in zip(optimizer.fp16_groups, optimizer.fp32_partitioned_groups_flat, strict=True):
            start = 0
            for parameter in parameters:
                length = parameter.ds_tensor.numel()
                valid = min(max(parameter.ds_numel - rank * length, 0), length)
                yield parameter, flat[start : start + valid], rank * length
                start += length

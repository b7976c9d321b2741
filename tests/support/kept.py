"""Bytes that a forward pass keeps for the backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["kept_bytes"]


def kept_bytes(network: nn.Module, x: Tensor) -> tuple[Any, int]:
    """The output of a network, and the bytes that autograd keeps of its forward pass beside parameters."""
    parameters, kept = {p.data_ptr() for p in network.parameters()}, list[int]()

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in parameters:
            kept.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = network(x)
    return output, sum(kept)

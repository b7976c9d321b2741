"""A network to compile, and the nodes of autograd that a compiler made."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.support.tiny import TinySegmenter

__all__ = ["Deep", "compiled_nodes"]


class Block(nn.Module):
    """Two convolutions, N×8×h×w."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.tanh(self.first(x)))


class Deep(TinySegmenter):
    """The tiny network with blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(self.body, *(Block() for _ in range(4)))


def compiled_nodes(loss: Tensor) -> dict[Any, list[int]]:
    """Nodes of autograd that a compiler made → numbers of the parameters whose gradients come at its end."""
    found, waiting, seen = dict[Any, list[int]](), [loss.grad_fn], set[Any]()
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        below = [each for each, _ in node.next_functions]
        if "Compiled" in node.name():
            found[node] = [x.variable.numel() for x in below if hasattr(x, "variable")]
        waiting += below
    return found

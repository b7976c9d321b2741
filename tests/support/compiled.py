"""Nodes of autograd that a compiler made."""

from __future__ import annotations

from typing import Any

from torch import Tensor

__all__ = ["compiled_nodes"]


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

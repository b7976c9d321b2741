"""Compilation of a network block by block, so that its gradients come one after the other.

For autograd all that a compiler takes at once is one node, whose gradients are there when the last one is: the sums of
gradients over ranks would begin after the backward pass. Equal blocks share what is compiled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

__all__ = ["blocks_of", "compile_blocks"]

_WHOLE_SHARE = 1 / 16
"""Of the network's parameters: a part with fewer is compiled whole, also where it has blocks."""
_GRAPHS_EACH, _MOST_GRAPHS = 4, 256
"""Graphs of a block, as of training and of evaluation, and of all blocks. Torch counts all modules together, since to
it they are calls of one function, of which it compiles eight."""


def compile_blocks(network: nn.Module, size: tuple[int, int], **options: Any) -> list[str]:
    """Compile in place: the names of tensors stay, and so does what a checkpoint holds.

    Compilers start with the first pass. Single layers between the blocks stay as they are.

    Args:
        network: a segmenter that no engine has yet.
        size: height and width of an image to find the blocks with, pixels.
        options: of `torch.compile`.

    Returns:
        Paths of the parts that are compiled; an empty one alone: the whole network, in which no blocks were found.
    """
    found = blocks_of(network, size)
    limit = min(max(8, _GRAPHS_EACH * len(found)), _MOST_GRAPHS)
    for path in found:
        # Crops have one size; where the next block has another one, torch would take the sizes of both for unknown.
        network.get_submodule(path).compile(**{"dynamic": False, "recompile_limit": limit, **options})
    return found


def blocks_of(network: nn.Module, size: tuple[int, int]) -> list[str]:
    """Paths of the blocks that a network repeats, and of the parts beside them, as a decoder.

    A block has several kernels or matrices, and beside it another one of its class. Of blocks within blocks, as those
    of stages, the inner ones count where the outer one is not small.
    """
    running = _running(network, size)
    num_parameters = sum(parameter.numel() for parameter in network.parameters())

    def parts(module: nn.Module, path: str) -> Iterator[str]:
        own = sum(parameter.numel() for parameter in module.parameters())
        if own == 0 or not any(True for _ in module.children()):
            return
        has_blocks = any(_repeats(each) for each in module.modules())
        if module in running and (not has_blocks or own <= _WHOLE_SHARE * num_parameters):
            yield path
            return
        for name, child in module.named_children():
            yield from parts(child, f"{path}.{name}" if path else name)

    return list(parts(network, ""))


def _running(network: nn.Module, size: tuple[int, int]) -> set[nn.Module]:
    """Modules that are called in a forward pass: lists are not, nor what is read from outside."""
    called: set[nn.Module] = set()
    handles = [each.register_forward_pre_hook(lambda module, _: called.add(module)) for each in network.modules()]
    training, device = network.training, next(network.parameters()).device
    network.eval()
    try:
        with torch.no_grad():
            network(torch.zeros(1, 3, *size, dtype=torch.uint8, device=device))
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    return called


def _repeats(module: nn.Module) -> bool:
    """It has two blocks of one class."""
    kinds = Counter(type(child) for child in module.children() if _is_block(child))
    return any(number > 1 for number in kinds.values())


def _is_block(module: nn.Module) -> bool:
    return any(True for _ in module.children()) and sum(parameter.ndim > 1 for parameter in module.parameters()) > 1

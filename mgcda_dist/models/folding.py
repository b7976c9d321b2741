"""Frozen batch norms computed within the convolutions before them: one pass over the activations fewer each.

    norm(w ∗ x) = (w s) ∗ x + (b - m s),   s = γ / √(v + ε)

with the running statistics m and v, which do not change, and γ, b, w, which learn as before: gradients reach them
through the product. Parameters keep their places and names.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from mgcda_dist.errors import ConfigError
from mgcda_dist.method.batch import Prediction
from mgcda_dist.models.norm import FrozenBatchNorm

__all__ = ["fold_norms"]

_TOLERANCE = 1e-3


def fold_norms(network: nn.Module, size: tuple[int, int], where: str) -> int:
    """Fold every frozen batch norm whose input is the output of a convolution; in place.

    Args:
        network: a segmenter, on the CPU.
        size: height and width of an image to find the pairs with, pixels.
        where: config path, for errors.

    Returns:
        The number of norms that were folded.

    Raises:
        ConfigError: there is none, or something else reads the output of such a convolution.
    """
    image = (torch.arange(3 * size[0] * size[1]) * 2654435761 % 251).view(1, 3, *size).to(torch.uint8)
    training = network.training
    network.eval()
    with torch.no_grad():
        pairs, before = _pairs(network, image)
        for convolution, norm in pairs:
            _fold(convolution, norm)
        after: Prediction = network(image)
    network.train(training)
    if not pairs:
        problem = f"{type(network).__name__} has no frozen batch norm behind a convolution"
        raise ConfigError(where, problem, f"set {where}=false")
    for name, x in {"logits": before.logits, "embedding": before.embedding, **before.stages}.items():
        y = after.logits if name == "logits" else after.embedding if name == "embedding" else after.stages[name]
        if (x - y).norm() > _TOLERANCE * x.norm():
            problem = f"the {name} change: something else than its norm reads the output of a convolution"
            raise ConfigError(where, problem, f"set {where}=false")
    return len(pairs)


def _pairs(network: nn.Module, image: Tensor) -> tuple[list[tuple[nn.Conv2d, FrozenBatchNorm]], Prediction]:
    """Convolutions and norms that follow each other in a forward pass, each used once in it; and its prediction."""
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # the tensors are kept, so that no other gets their ids
    found: list[tuple[nn.Conv2d, FrozenBatchNorm]] = []
    calls: dict[nn.Module, int] = {}

    def left(module: Any, _: Any, output: Tensor) -> None:
        outputs[id(output)] = (module, output)
        calls[module] = calls.get(module, 0) + 1

    def entered(module: Any, inputs: tuple[Tensor, ...]) -> None:
        calls[module] = calls.get(module, 0) + 1
        if id(inputs[0]) in outputs:
            found.append((outputs[id(inputs[0])][0], module))

    handles = [m.register_forward_hook(left) for m in network.modules() if isinstance(m, nn.Conv2d)]
    handles += [m.register_forward_pre_hook(entered) for m in network.modules() if isinstance(m, FrozenBatchNorm)]
    try:
        prediction: Prediction = network(image)
    finally:
        for handle in handles:
            handle.remove()
    return [pair for pair in found if calls[pair[0]] == calls[pair[1]] == 1], prediction


def _fold(convolution: nn.Module, norm: FrozenBatchNorm) -> None:
    convolution.__dict__["folded_norm"] = norm  # beside its modules: its parameters have one place
    convolution.__class__ = _folding(type(convolution))
    norm.is_folded = True


@cache
def _folding(kind: type[nn.Module]) -> type[nn.Module]:
    """`kind`, whose forward pass reads a folded weight and bias; parameters and state keep their names."""

    def weight(convolution: Any) -> Tensor:
        own = convolution._parameters["weight"]
        scale, _ = convolution.folded_norm.affine(own.dtype)
        return own * scale.view(-1, 1, 1, 1)

    def bias(convolution: Any) -> Tensor:
        own = convolution._parameters["bias"]
        scale, shift = convolution.folded_norm.affine(convolution._parameters["weight"].dtype)
        return shift if own is None else shift + own * scale

    return type(kind.__name__, (kind,), {"weight": property(weight), "bias": property(bias)})

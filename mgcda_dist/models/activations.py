"""Activation checkpointing: blocks of a network are computed again in the backward pass, in the place of being kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from mgcda_dist.errors import ConfigError
from mgcda_dist.method.forwards import drawing_modules

__all__ = ["activations_kept", "checkpoint_activations"]

_SWITCHES = ("grad_checkpointing", "gradient_checkpointing")
"""Attributes of timm's and transformers' parts."""


def checkpoint_activations(network: nn.Module, where: str) -> list[str]:
    """Switch on what a library's networks offer: timm's `set_grad_checkpointing`, transformers' own.

    Blocks of training alone: evaluation keeps nothing in any case. What is computed again gives the same bits, since
    it neither draws random numbers nor changes its buffers.

    Args:
        network: a segmenter, changed in place.
        where: config path, for errors.

    Returns:
        Paths of the parts that are computed again.

    Raises:
        ConfigError: no part offers it, or a layer in one draws, which it would do without its context.
    """
    found: list[str] = []
    for path, module in network.named_modules():
        if any(path.startswith(f"{above}.") for above in found):
            continue
        if _switched_on(module):
            found.append(path)
    if not found:
        raise ConfigError(
            where,
            f"{type(network).__name__}: no part of the network can compute its activations again",
            "networks of timm and of transformers can; set engine.activation_checkpointing=false",
        )
    for path, module in drawing_modules(network):
        if any(path.startswith(f"{above}.") for above in found):
            problem = f"{path}, a {type(module).__name__}, draws in a forward pass, and would be computed again"
            raise ConfigError(where, problem, "draw outside of what is computed again, or set it to false")
    return found


def _switched_on(module: Any) -> bool:
    timms = getattr(module, "set_grad_checkpointing", None)
    if callable(timms):
        try:
            timms(enable=True)
        except (AssertionError, NotImplementedError, TypeError):  # a part that only hands it on, or has none
            return False
        return True
    if not getattr(module, "supports_gradient_checkpointing", False):
        return False
    options = {"use_reentrant": False}
    if (newer := getattr(module, "activation_checkpointing_enable", None)) is not None:
        newer(activation_checkpointing_kwargs=options)
    else:
        module.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    return True


@contextmanager
def activations_kept(network: nn.Module) -> Iterator[None]:
    """Compute nothing again within the block."""
    switched = [(m, name) for m in network.modules() for name in _SWITCHES if getattr(m, name, None) is True]
    for module, name in switched:
        setattr(module, name, False)
    try:
        yield
    finally:
        for module, name in switched:
            setattr(module, name, True)

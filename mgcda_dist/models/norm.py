"""Treatment of a network's batch normalisation (law 6 of the distributed form).

Statistics of one rank's part of the batch would make the result depend on the number of ranks. Modes: `frozen` (fixed
pretrained statistics), `sync` (statistics of the global batch; trains on GPUs only), `group` (GroupNorm: statistics of
one image), and `local` (statistics of one rank's images, which breaks the invariance).
"""

from __future__ import annotations

from collections.abc import Container
from functools import cache
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm  # pyright: ignore[reportPrivateUsage]

from mgcda_dist.choices import NormMode
from mgcda_dist.errors import ConfigError

__all__ = ["FrozenBatchNorm", "convert_norm", "norms_without_statistics", "num_groups"]


class FrozenBatchNorm(nn.Module):
    """Batch normalisation whose running statistics never change; its scale and shift are trained.

    It keeps the tensors of `source` under the same names (state dicts stay interchangeable) and ignores train() and
    eval(). `drop` and `act` are those of timm's BatchNormAct2d, identities otherwise.

    Attributes:
        is_folded: the convolution before it computes it, too: see `folding.py`.
    """

    is_folded = False

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, source: BatchNorm) -> None:
        super().__init__()
        self.eps = source.eps
        self.register_parameter("weight", source.weight)
        self.register_parameter("bias", source.bias)
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(source, name))
        self.drop: nn.Module = getattr(source, "drop", None) or nn.Identity()
        self.act: nn.Module = getattr(source, "act", None) or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Normalise N×C×…, then apply dropout and activation as BatchNormAct2d does."""
        if self.is_folded:
            return self.act(self.drop(x))
        mean, var = self.running_mean, self.running_var
        # Training in bf16 casts parameters but not buffers; torch requires one type for all four.
        weight = None if self.weight is None else self.weight.to(mean.dtype)
        bias = None if self.bias is None else self.bias.to(mean.dtype)
        return self.act(self.drop(F.batch_norm(x, mean, var, weight, bias, training=False, eps=self.eps)))

    def affine(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Factor and shift of each channel, computed in the type of the statistics."""
        mean, var = self.running_mean, self.running_var
        scale = (var + self.eps).rsqrt()
        scale = scale if self.weight is None else scale * self.weight.to(mean.dtype)
        shift = -mean * scale if self.bias is None else self.bias.to(mean.dtype) - mean * scale
        return scale.to(dtype), shift.to(dtype)


def norms_without_statistics(module: nn.Module) -> tuple[list[str], int]:
    """Paths of the frozen batch norms with mean 0 and variance 1, and the number of all frozen ones.

    These have no pretrained statistics and normalise nothing; deep networks do not train then.
    """
    frozen = [(name, norm) for name, norm in module.named_modules() if isinstance(norm, FrozenBatchNorm)]
    unset = [name for name, x in frozen if not x.running_mean.any() and bool((x.running_var == 1).all())]
    return unset, len(frozen)


def num_groups(channels: int) -> int:
    """Largest number of groups up to 32 that divides `channels` into groups of at least 4."""
    return max(g for g in range(1, 33) if channels % g == 0 and (g == 1 or channels // g >= 4))


def convert_norm(module: nn.Module, mode: NormMode, excluded: Container[int] = ()) -> nn.Module:
    """`module` with its batch normalisation layers (timm's BatchNormAct2d too) converted to `mode`.

    Weights are kept: load them first. Conversion draws no random number. Modules with an id in `excluded` are not
    converted. Every mode can be built, loaded and evaluated on the CPU; several ranks train `sync` on GPUs only.

    Raises:
        ConfigError: an unknown mode, or a subclass of batch norm with its own forward pass, which `local` alone keeps.
    """
    if mode not in get_args(NormMode):
        raise ConfigError("model.norm", f"unknown mode {mode!r}", f"one of {', '.join(get_args(NormMode))}")
    return _converted(module, mode, excluded, {})


def _converted(module: nn.Module, mode: NormMode, excluded: Container[int], memo: dict[int, nn.Module]) -> nn.Module:
    """`memo`: id of a layer → its conversion, so that a layer with two names stays one layer."""
    if id(module) in memo:
        return memo[id(module)]
    if isinstance(module, BatchNorm):
        memo[id(module)] = _of_mode(module, mode)
        return memo[id(module)]
    memo[id(module)] = module
    for name, child in list(module._modules.items()):  # named_children() omits second names
        if child is not None and id(child) not in excluded:
            setattr(module, name, _converted(child, mode, excluded, memo))
    return module


def _of_mode(norm: BatchNorm, mode: NormMode) -> nn.Module:
    if mode == "local":
        return _in_type_of_statistics(norm)
    _check_own_forward(norm)
    match mode:
        case "frozen":
            return FrozenBatchNorm(norm)
        case "group":
            return _group_norm(norm)
        case "sync":
            from timm.layers.norm_act import convert_sync_batchnorm

            return _in_type_of_statistics(convert_sync_batchnorm(norm))


def _in_type_of_statistics(norm: nn.Module) -> nn.Module:
    """`norm` itself, whose forward pass takes scale and shift in the type of the running statistics.

    Training in bf16 casts parameters but not buffers; torch requires one type for all four.
    """
    norm.__class__ = _mixed(type(norm))
    return norm


@cache
def _mixed(kind: type[nn.Module]) -> type[nn.Module]:
    def in_type(name: str) -> property:
        def read(norm: Any) -> Tensor | None:
            parameter, mean = norm._parameters[name], norm.running_mean
            return parameter if parameter is None or mean is None else parameter.to(mean.dtype)

        return property(read)

    # As torch.nn.utils.parametrize does: parameters and state keep their names, and `kind` its forward pass.
    return type(kind.__name__, (kind,), {"weight": in_type("weight"), "bias": in_type("bias")})


def _check_own_forward(module: nn.Module) -> None:
    """Refuse a subclass of batch norm whose forward pass is neither torch's nor timm's: conversion would lose it."""
    kind = type(module)
    if isinstance(module, BatchNorm) and kind.forward.__module__.partition(".")[0] not in ("torch", "timm"):
        raise ConfigError(
            "model.norm",
            f"{kind.__module__}.{kind.__qualname__} is a batch norm with its own forward pass, which conversion "
            "would lose",
            "split it into torch's BatchNorm and a further layer, or use a normalisation of single images",
        )


def _group_norm(source: BatchNorm) -> nn.Module:
    norm = nn.GroupNorm(num_groups(source.num_features), source.num_features, source.eps, source.affine)
    if source.affine:
        norm.weight, norm.bias = source.weight, source.bias
    act, drop = getattr(source, "act", None), getattr(source, "drop", None)
    if act is None and drop is None:
        return norm
    from timm.layers.norm_act import GroupNormAct

    normact = GroupNormAct(source.num_features, norm.num_groups, source.eps, source.affine, apply_act=False)
    normact.weight, normact.bias = norm.weight, norm.bias
    normact.act, normact.drop = act or nn.Identity(), drop or nn.Identity()
    return normact

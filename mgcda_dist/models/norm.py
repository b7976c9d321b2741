"""What becomes of a backbone's batch normalisation (law 6 of the distributed form).

Statistics of one rank's slice would make the result depend on the number of ranks. So: `frozen` (pretrained statistics
stay as they are), `sync` (statistics of the global batch, GPU only), `group` (GroupNorm: statistics of one image), or,
asked for by name, `local`.
"""

from __future__ import annotations

from collections.abc import Container
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm  # pyright: ignore[reportPrivateUsage]

from mgcda_dist.choices import NormMode
from mgcda_dist.errors import ConfigError

__all__ = ["FrozenBatchNorm", "convert_norm", "num_groups", "without_statistics"]


class FrozenBatchNorm(nn.Module):
    """Batch normalisation whose running statistics never change; its scale and shift are trained.

    It takes over the tensors of `source` under the same names (state dicts stay interchangeable) and ignores
    train() / eval(). `drop` and `act` are those of timm's BatchNormAct2d, identities otherwise.
    """

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
        """Normalise N×C×…, then what BatchNormAct2d does: drop and activation."""
        mean, var = self.running_mean, self.running_var
        # An engine that trains in bf16 casts parameters but not buffers; torch wants the four of one type.
        weight = None if self.weight is None else self.weight.to(mean.dtype)
        bias = None if self.bias is None else self.bias.to(mean.dtype)
        return self.act(self.drop(F.batch_norm(x, mean, var, weight, bias, training=False, eps=self.eps)))


def without_statistics(module: nn.Module) -> tuple[list[str], int]:
    """Paths of the frozen batch norms that normalise nothing (mean 0, variance 1), and the number of frozen ones.

    So they are where weights were not loaded; deep networks do not train then.
    """
    frozen = [(name, norm) for name, norm in module.named_modules() if isinstance(norm, FrozenBatchNorm)]
    unset = [name for name, x in frozen if not x.running_mean.any() and bool((x.running_var == 1).all())]
    return unset, len(frozen)


def num_groups(channels: int) -> int:
    """Groups of a GroupNorm over `channels`: the most, up to 32, that divide them and hold at least 4 channels each."""
    return max(g for g in range(1, 33) if channels % g == 0 and (g == 1 or channels // g >= 4))


def convert_norm(module: nn.Module, mode: NormMode, kept: Container[int] = ()) -> nn.Module:
    """`module` with its batch normalisation layers (timm's BatchNormAct2d too) treated as `mode` says.

    Weights are kept: load them first. Conversion draws no random number. Modules with an id in `kept` stay as they are.

    Raises:
        ConfigError: `sync` without a GPU, an unknown mode, or a batch norm of one's own that does more than normalise.
    """
    if mode == "local":
        return module
    if mode == "sync":
        if not torch.cuda.is_available():
            raise ConfigError(
                "model.norm",
                "'sync' needs GPUs: synchronised batch normalisation does not run on CPU",
                "set model.norm=frozen (with pretrained weights) or model.norm=group (without)",
            )
        from timm.layers.norm_act import convert_sync_batchnorm

        for norm in module.modules():
            _check_own_forward(norm)
        return convert_sync_batchnorm(module)
    if mode not in get_args(NormMode):
        raise ConfigError("model.norm", f"unknown mode {mode!r}", f"one of {', '.join(get_args(NormMode))}")
    return _converted(module, mode, kept, {})


def _converted(module: nn.Module, mode: NormMode, kept: Container[int], done: dict[int, nn.Module]) -> nn.Module:
    """`done`: what became of the layers so far, by id; a layer with two names stays one layer."""
    if id(module) in done:
        return done[id(module)]
    if isinstance(module, BatchNorm):
        _check_own_forward(module)
        done[id(module)] = FrozenBatchNorm(module) if mode == "frozen" else _group_norm(module)
        return done[id(module)]
    done[id(module)] = module
    for name, child in list(module._modules.items()):  # named_children() leaves second names out
        if child is not None and id(child) not in kept:
            setattr(module, name, _converted(child, mode, kept, done))
    return module


def _check_own_forward(module: nn.Module) -> None:
    """What replaces a batch norm does what torch's or timm's does."""
    kind = type(module)
    if isinstance(module, BatchNorm) and kind.forward.__module__.partition(".")[0] not in ("torch", "timm"):
        raise ConfigError(
            "model.norm",
            f"{kind.__module__}.{kind.__qualname__} is a batch norm with a forward of its own, which its replacement "
            "would not have",
            "make it torch's BatchNorm and a layer of its own for the rest, or a normalisation of single images",
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

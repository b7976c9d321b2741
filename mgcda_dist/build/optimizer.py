"""Configuration → optimiser: one group of parameters per rate, and in words what learns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from mgcda_dist.config.schema import Config
from mgcda_dist.errors import ConfigError
from mgcda_dist.method.mgcda import MGCDA
from mgcda_dist.models.freezing import matches, own_name

__all__ = ["learning_in_words", "optimizer"]

_BLOCK = re.compile(r"^(?:.*[._])?(?:blocks?|layers?|stages?|layer\d+|layers_\d+|stages_\d+)(?:\.\d+)+(?=\.)")
"""Path of a block of a backbone: `blocks.3`, `layer2.0`, `stages_1.blocks.2`, `encoder.layers.0.blocks.1`, …"""


class _Group(NamedTuple):
    """Settings that the parameters of a group have in common.

    Attributes:
        name: backbone, heads or discriminators; of a rule its pattern.
        hold, warmup: shares of the training, with rate 0 and then with a rising rate.
    """

    name: str
    rate: float
    weight_decay: float
    hold: float
    warmup: float


def optimizer(config: Config, model: MGCDA, *, fused: bool = False) -> torch.optim.Optimizer:
    """AdamW or SGD with one group per learning rate: backbone, heads (decoder, projection), discriminators.

    Rules of `optim.parameters` and `optim.layer_decay` make more of them. Each group carries its `name`, `base_lr`,
    `hold` and `warmup`; the loop scales `base_lr` by the schedule. Norms and biases are not decayed.

    Args:
        fused: one kernel steps many parameters.

    Raises:
        ConfigError: a rule that names nothing that learns.
    """
    optim = config.optim
    grouped: dict[_Group, list[nn.Parameter]] = {}
    for group, _, parameter in _assigned(config, model):
        grouped.setdefault(group, []).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": parameters, "lr": group.rate, "base_lr": group.rate}
        | {key: getattr(group, key) for key in ("name", "weight_decay", "hold", "warmup")}
        for group, parameters in grouped.items()
    ]
    if optim.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=optim.lr_heads, momentum=optim.momentum, fused=fused or None)
    return torch.optim.AdamW(groups, lr=optim.lr_heads, fused=fused or None)


def learning_in_words(config: Config, model: MGCDA) -> str:
    """The parts that learn, each with its size and highest rate, and those that do not."""
    sizes: dict[str, int] = {}
    rates: dict[str, list[float]] = {}
    for group, name, parameter in _assigned(config, model):
        part = name.split(".")[0]
        sizes[part] = sizes.get(part, 0) + parameter.numel()
        rates.setdefault(part, []).append(group.rate)
    frozen: dict[str, int] = {}
    for name, parameter in model.segmenter.named_parameters():
        if not parameter.requires_grad:
            part = own_name(name).split(".")[0]
            frozen[part] = frozen.get(part, 0) + parameter.numel()
    learning = [f"{part} {_millions(size)} at {_range(rates[part])}" for part, size in sizes.items()]
    resting = [f"{part} {_millions(size)}" for part, size in frozen.items()]
    return f"learning: {', '.join(learning)}" + (f"; frozen: {', '.join(resting)}" if resting else "")


def _millions(size: int) -> str:
    return f"{size / 1e6:.2f} M" if size >= 10_000 else str(size)


def _range(rates: list[float]) -> str:
    low, high = min(rates), max(rates)
    return f"{high:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def _assigned(config: Config, model: MGCDA) -> Iterator[tuple[_Group, str, nn.Parameter]]:
    """Every parameter that learns, with its group and its name without `segmenter.`."""
    optim = config.optim
    parts = tuple(f"{path}." for path in cast(Sequence[str], model.segmenter.backbone_parts))
    rates = {"backbone": optim.lr_backbone, "heads": optim.lr_heads, "discriminators": optim.lr_discriminators}
    learning = [(_shown(name), p) for name, p in model.named_parameters() if p.requires_grad]
    for index, rule in enumerate(optim.parameters):
        if not any(matches(name, rule.match) for name, _ in learning):
            raise ConfigError(
                f"optim.parameters.{index}.match",
                f"{rule.match!r} names no parameter that learns",
                "names are those of model.safetensors; the method's own begin with mdat., cacl. or heads.",
            )
    named = [name for name, _ in model.segmenter.named_parameters()]
    depths = _depths([name for part in parts for name in named if own_name(name).startswith(part)])
    for name, parameter in learning:
        is_backbone = name.startswith(parts) and not name.startswith(("mdat.", "cacl."))
        part = "discriminators" if name.startswith("mdat.") else "backbone" if is_backbone else "heads"
        rate, decay, hold, warmup = rates[part], optim.weight_decay, 0.0, optim.warmup
        if is_backbone and optim.layer_decay < 1:
            rate *= optim.layer_decay ** depths[name]
        for rule in optim.parameters:  # the last of several decides
            if matches(name, rule.match):
                part = rule.match
                rate = rate if rule.lr is None else rule.lr
                decay = decay if rule.weight_decay is None else rule.weight_decay
                warmup = warmup if rule.warmup is None else rule.warmup
                hold = hold if rule.hold is None else rule.hold
        decayed = parameter.ndim > 1
        yield (
            _Group(part if decayed else f"{part}_no_decay", rate, decay if decayed else 0.0, hold, warmup),
            name,
            parameter,
        )


def _shown(name: str) -> str:
    """Name of a parameter of the training module as rules write it."""
    return own_name(name.removeprefix("segmenter."))


def _depths(names: list[str]) -> dict[str, int]:
    """Blocks above each parameter of a backbone: 0 for its last norm, 1 for the last block, most for the stem.

    Layer decay of BEiT (arXiv 2106.08254, appendix): rate · decay^(L + 1 - l), with l = 0 for the embedding, 1 … L for
    the blocks in the order in which the network lists them, and L + 1 for what follows.
    """
    blocks: list[str] = []
    for name in names:
        found = _BLOCK.match(name)
        if found is not None and found[0] not in blocks:
            blocks.append(found[0])
    if not blocks:
        return dict.fromkeys(map(own_name, names), 0)
    last = len(blocks) + 1
    depths: dict[str, int] = {}
    depth = last
    for name in names:
        found = _BLOCK.match(name)
        if found is not None:
            depth = last - (blocks.index(found[0]) + 1)
        elif depth == 1:  # the last block is over; between two blocks a layer goes with the one before it
            depth = 0
        depths[own_name(name)] = depth
    return depths

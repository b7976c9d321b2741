"""Invariants of distributed training (the laws of CONTRIBUTING.md), enforced on networks or checked before training.

Law 2: no draw from the global generator. Law 3: every parameter is used at every step. Laws 1 and 6: an image's outputs
do not depend on the rest of the batch. Law 4: a forward pass changes no buffer.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from mgcda_dist.choices import NormMode
from mgcda_dist.errors import ConfigError
from mgcda_dist.method.batch import Prediction
from mgcda_dist.method.forwards import ForwardContext, drawing_modules, telling

__all__ = ["check_compiles", "check_invariants", "freeze_unused", "without_dropout"]

_DROPOUT_WORDS = ("dropout", "drop_prob", "drop_rate", "drop_path", "layerdrop", "attn_drop", "proj_drop")
_BATCH_TOLERANCE = 1e-3


def without_dropout(network: nn.Module) -> nn.Module:
    """`network` with dropout, stochastic depth and layer drop switched off, in place.

    Dropout rates are in three places: torch's layers (`p`), attributes that a module passes to a function
    (`drop_prob`, `attention_dropout`, …), and a configuration that is read in the forward pass.
    """
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):  # pyright: ignore[reportPrivateUsage]
            module.p = 0.0
        _zero_dropout_rates(module)
        config = getattr(module, "config", None)
        if config is not None and not isinstance(config, Tensor | nn.Module) and hasattr(config, "__dict__"):
            _zero_dropout_rates(config)
    return network


def _zero_dropout_rates(owner: Any) -> None:
    for name, value in list(vars(owner).items()):
        if isinstance(value, float) and any(word in name for word in _DROPOUT_WORDS):
            setattr(owner, name, 0.0)


def check_invariants(segmenter: nn.Module, norm: NormMode, size: tuple[int, int], where: str) -> None:
    """Refuse a network whose training on N ranks would differ from training on one.

    Args:
        segmenter: image → `Prediction`; its mode is restored.
        norm: treatment of its batch normalisation. With `sync` and `local` only randomness is checked: `sync` needs
            its process group, and `local` is dependent on the rank by definition.
        size: height and width of the images to try, pixels.
        where: name of the network in messages.

    Raises:
        ConfigError: it draws random numbers, changes its buffers, or mixes the images of a batch.
    """
    strict = norm in ("frozen", "group")
    image = _image(2, size, segmenter)
    training, buffers = segmenter.training, {k: x.clone() for k, x in segmenter.named_buffers()}
    segmenter.train(strict)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            before = torch.get_rng_state()
            both = _told(segmenter, image)
            drawn = not torch.equal(before, torch.get_rng_state())
            alone = _told(segmenter, image[:1])
    finally:
        segmenter.train(training)
    if drawn:
        raise ConfigError(
            where,
            "draws random numbers in training: several ranks would draw other numbers than one process",
            "switch off its dropout, layer drop or noise, or draw from its `forward_context`",
        )
    if not strict:
        return
    moved = [name for name, x in segmenter.named_buffers() if not torch.equal(x, buffers[name])]
    if moved:
        raise ConfigError(
            where,
            f"changes buffers in its forward pass: {', '.join(moved[:3])}",
            "remove the update; for statistics use GroupNorm, LayerNorm, or torch's BatchNorm, which is replaced",
        )
    for name, x, y in zip(
        ("logits", "embedding"), (both.logits, both.embedding), (alone.logits, alone.embedding), strict=True
    ):
        if (x[:1] - y).norm() > _BATCH_TOLERANCE * y.norm():
            raise ConfigError(
                where,
                f"gives other {name} for a single image than for the same image in a batch: they would depend on the "
                "number of ranks",
                "use layers that normalise one image (GroupNorm, LayerNorm), or torch's BatchNorm, which is replaced",
            )


def _told(segmenter: nn.Module, image: Tensor) -> Prediction:
    """A pass as in the middle of training, whose layers may draw by slot."""
    slot = torch.arange(len(image), device=image.device)
    with telling([module for _, module in drawing_modules(segmenter)], ForwardContext(0, 0.5, slot)):
        return segmenter(image)


def check_compiles(network: nn.Module) -> None:
    """Raise `ConfigError` for a network that draws in a forward pass: a compiler would trace every step anew."""
    for path, module in drawing_modules(network):
        problem = f"{path}, a {type(module).__name__}, draws other numbers in every step"
        raise ConfigError("model.compile", problem, "set it to false")


def freeze_unused(segmenter: nn.Module, outputs: Collection[str], size: tuple[int, int] = (64, 96)) -> list[str]:
    """Freeze parameters that no trained output depends on (auxiliary heads, a last norm): they get no gradient.

    Args:
        segmenter: image → `Prediction`.
        outputs: `logits`, `embedding`, names of stages and `extra:NAME` that a loss reads.
        size: height and width of the image to try, pixels.

    Returns:
        Names of the newly frozen parameters; they stay in the state dict.

    Raises:
        ConfigError: nothing that learns lies under a stage or the embedding, so that aligning it would train the
            method's own heads alone.
    """
    named = [(name, x) for name, x in segmenter.named_parameters() if x.requires_grad]
    training = segmenter.training
    segmenter.eval()
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        prediction: Prediction = segmenter(_image(1, size, segmenter))
        parts = {"logits": prediction.logits, **prediction.stages, "embedding": prediction.embedding}
        parts |= {f"extra:{name}": x for name, x in prediction.extra.items()}
        used = {name: _depends(parts[name], [x for _, x in named]) for name in outputs}
    segmenter.train(training)
    for name, reached in used.items():
        if name in prediction.stages and not any(reached):
            raise ConfigError(
                f"stage {name}",
                "no parameter that is trained lies under it: aligning or contrasting it would train MGCDA's own heads "
                "alone, which are dropped at export",
                "attach mdat.stages and the embedding to layers that learn, or switch that part off",
            )
    unused = [(name, x) for i, (name, x) in enumerate(named) if not any(reached[i] for reached in used.values())]
    for _, parameter in unused:
        parameter.requires_grad_(False)
    return [name for name, _ in unused]


def _depends(output: Tensor, parameters: list[nn.Parameter]) -> list[bool]:
    """True per parameter that the output is a function of."""
    if not output.requires_grad or not parameters:
        return [False] * len(parameters)
    found = torch.autograd.grad(output.float().sum(), parameters, allow_unused=True, retain_graph=True)
    return [gradient is not None for gradient in found]


def _image(number: int, size: tuple[int, int], segmenter: nn.Module) -> Tensor:
    """A deterministic pattern without symmetry."""
    device = next(segmenter.parameters()).device
    ramp = torch.arange(number * 3 * size[0] * size[1], device=device)
    pattern = (ramp * 2654435761 % 251).view(number, 3, *size)
    # Each image is darker than the one before, so that averages over the batch differ from those of one image.
    return (pattern // (1 + 4 * torch.arange(number, device=device).view(-1, 1, 1, 1))).to(torch.uint8)

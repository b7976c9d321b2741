"""The laws of the distributed form, kept by a network that was not written for them, or refused before any training.

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

__all__ = ["check_laws", "freeze_unused", "without_dropout"]

_DROPOUT_WORDS = ("dropout", "drop_prob", "drop_rate", "drop_path", "layerdrop", "attn_drop", "proj_drop")
_BATCH_TOLERANCE = 1e-3


def without_dropout(network: nn.Module) -> nn.Module:
    """`network` with dropout, stochastic depth and layer drop switched off, in place.

    Dropout hides in three places: torch's layers (`p`), numbers that a module hands to a function (`drop_prob`,
    `attention_dropout`, …), and a configuration that is read in the forward pass.
    """
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):  # pyright: ignore[reportPrivateUsage]
            module.p = 0.0
        _silence(module)
        config = getattr(module, "config", None)
        if config is not None and not isinstance(config, Tensor | nn.Module) and hasattr(config, "__dict__"):
            _silence(config)
    return network


def _silence(owner: Any) -> None:
    for name, value in list(vars(owner).items()):
        if isinstance(value, float) and any(word in name for word in _DROPOUT_WORDS):
            setattr(owner, name, 0.0)


def check_laws(segmenter: nn.Module, norm: NormMode, size: tuple[int, int], where: str) -> None:
    """Look for what would make training on N ranks differ from training on one.

    Args:
        segmenter: image → `Prediction`; its mode is left as it was.
        norm: treatment of its batch normalisation. With `sync` and `local` only randomness is looked for: the one needs
            its process group, the other was asked for by name.
        size: height and width of the images to try, pixels.
        where: names the network in messages.

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
            both = segmenter(image)
            drawn = not torch.equal(before, torch.get_rng_state())
            alone = segmenter(image[:1])
    finally:
        segmenter.train(training)
    if drawn:
        raise ConfigError(
            where,
            "draws random numbers while it trains: ranks would draw differently from one process",
            "switch off its dropout, layer drop or noise",
        )
    if not strict:
        return
    moved = [name for name, x in segmenter.named_buffers() if not torch.equal(x, buffers[name])]
    if moved:
        raise ConfigError(
            where,
            f"changes buffers in its forward pass: {', '.join(moved[:3])}",
            "leave them alone in training; statistics: GroupNorm, LayerNorm, or torch's BatchNorm, which is replaced",
        )
    for name, x, y in zip(
        ("logits", "embedding"), (both.logits, both.embedding), (alone.logits, alone.embedding), strict=True
    ):
        if (x[:1] - y).norm() > _BATCH_TOLERANCE * y.norm():
            raise ConfigError(
                where,
                f"gives other {name} for an image by itself than in a batch: they would depend on the number of ranks",
                "use layers that normalise one image (GroupNorm, LayerNorm), or torch's BatchNorm, which is replaced",
            )


def freeze_unused(segmenter: nn.Module, outputs: Collection[str], size: tuple[int, int] = (64, 96)) -> list[str]:
    """Freeze what no trained output depends on (auxiliary heads, a last norm): engines would wait for its gradient.

    Args:
        segmenter: image → `Prediction`.
        outputs: `logits`, `embedding` and names of stages that a loss reads.
        size: height and width of the image to try, pixels.

    Returns:
        Names of the parameters frozen now; they stay in the state dict.
    """
    named = [(name, x) for name, x in segmenter.named_parameters() if x.requires_grad]
    training = segmenter.training
    segmenter.eval()
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        prediction: Prediction = segmenter(_image(1, size, segmenter))
        parts = {"logits": prediction.logits, **prediction.stages, "embedding": prediction.embedding}
        total = torch.stack([parts[name].float().sum() for name in outputs]).sum()
        gradients = torch.autograd.grad(total, [x for _, x in named], allow_unused=True)
    segmenter.train(training)
    unused = [(name, x) for (name, x), gradient in zip(named, gradients, strict=True) if gradient is None]
    for _, parameter in unused:
        parameter.requires_grad_(False)
    return [name for name, _ in unused]


def _image(number: int, size: tuple[int, int], segmenter: nn.Module) -> Tensor:
    """A pattern without symmetry; no generator is asked."""
    device = next(segmenter.parameters()).device
    ramp = torch.arange(number * 3 * size[0] * size[1], device=device)
    pattern = (ramp * 2654435761 % 251).view(number, 3, *size)
    # Each image darker than the one before: what is averaged over the batch must show.
    return (pattern // (1 + 4 * torch.arange(number, device=device).view(-1, 1, 1, 1))).to(torch.uint8)

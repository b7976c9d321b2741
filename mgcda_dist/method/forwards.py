"""Random numbers of a network's forward pass in training: law 2 for layers that draw.

A module with an attribute `forward_context` is told the step and the images before every training pass:

    class Noise(nn.Module):
        forward_context: ForwardContext | None = None

        def forward(self, x: Tensor) -> Tensor:
            if not self.training or self.forward_context is None:
                return x
            return x + self.forward_context.uniform("noise", x.shape[1]).to(x.dtype)[:, :, None, None]
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mgcda_dist.method.randomness import stream_key, uniform

__all__ = ["ATTRIBUTE", "ForwardContext", "drawing_modules", "telling"]

ATTRIBUTE = "forward_context"


@dataclass(frozen=True)
class ForwardContext:
    """Facts that a training pass may depend on beside the images.

    Attributes:
        step: of training.
        progress: share of training that is done, 0…1.
        slot: N, int64: positions of the images in the global batch, the same at every number of ranks.
        seed: of the run.
    """

    drawn_by: ClassVar[str] = "forward"

    step: int
    progress: float
    slot: Tensor
    seed: int = 0

    def uniform(self, purpose: str, *size: int) -> Tensor:
        """N×size random numbers in [0, 1), float64: a function of seed, step, image and purpose, and of no rank."""
        axes = [self.slot, *(torch.arange(length, device=self.slot.device) for length in size)]
        counters = [axis.view(-1, *[1] * (len(size) - n)) for n, axis in enumerate(axes)]
        return uniform(stream_key(self.seed, self.step, self.drawn_by, purpose), *counters)


def drawing_modules(*networks: nn.Module | None) -> list[tuple[str, nn.Module]]:
    """Path and module of all that has the attribute."""
    found: list[tuple[str, nn.Module]] = []
    for network in networks:
        if network is not None:
            modules: dict[str, nn.Module] = dict(network.named_modules())  # pyright: ignore[reportUnknownArgumentType]
            found += [(path, module) for path, module in modules.items() if hasattr(module, ATTRIBUTE)]
    return found


@contextmanager
def telling(modules: Sequence[nn.Module], context: ForwardContext) -> Generator[None]:
    """Tell modules the context of the passes within the block; outside of it there is none, and nothing is drawn."""
    for module in modules:
        setattr(module, ATTRIBUTE, context)
    try:
        yield
    finally:
        for module in modules:
            setattr(module, ATTRIBUTE, None)

"""Seeded initialisation: every rank builds the same network, and the global generator is unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mgcda_dist.method.randomness import stream_key

__all__ = ["seeded"]


@contextmanager
def seeded(*name: int | str) -> Iterator[None]:
    """Seed torch's CPU generator from `name` within the block, and restore its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also seed the GPUs, whose state is not restored.
        torch.default_generator.manual_seed(stream_key(*name))
        yield

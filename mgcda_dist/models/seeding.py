"""Initialisation as a pure function of a seed: every rank builds the same network, no global generator moves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mgcda_dist.method.randomness import stream_key

__all__ = ["seeded"]


@contextmanager
def seeded(*name: int | str) -> Iterator[None]:
    """Inside the block, torch's CPU generator is seeded from `name`; afterwards it is as it was before."""
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed the GPUs too, and those are not restored.
        torch.default_generator.manual_seed(stream_key(*name))
        yield

"""Randomness as a pure function of (seed, step, sample, purpose): law 2 of the distributed form.

Nothing here keeps state, and nothing asks which rank it runs on. A stream is named by integers and strings; equal names
give equal numbers on every machine, at every world size, after every resume. `uniform` draws one number per counter, on
any device, without a generator (a SplitMix64 finaliser over the counter: Steele, Lea, Flood, OOPSLA 2014).
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

__all__ = ["numpy_generator", "stream_key", "torch_generator", "uniform"]

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def stream_key(*name: int | str) -> int:
    """A 63-bit key of a stream's name, e.g. `stream_key(seed, epoch, "shard order")`."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in name)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def numpy_generator(*name: int | str) -> np.random.Generator:
    """A NumPy generator (counter-based Philox) for the stream of that name."""
    return np.random.Generator(np.random.Philox(key=stream_key(*name)))


def torch_generator(*name: int | str) -> torch.Generator:
    """A CPU torch generator for the stream of that name, e.g. to initialise parameters."""
    return torch.Generator().manual_seed(stream_key(*name))


def uniform(key: int, *counters: Tensor) -> Tensor:
    """One number in [0, 1) per counter, equal on every device.

    Args:
        key: from `stream_key`.
        counters: int64 tensors that broadcast together; every combination is its own draw.

    Returns:
        float64 tensor of the broadcast shape, multiples of 2^-53.
    """
    state: Tensor | int = key  # a number: a tensor of it would have to be copied to the device
    for counter in counters:
        state = _mix(state + (counter.to(torch.int64) + 1) * _GOLDEN)
    assert isinstance(state, Tensor), "without a counter there is no draw"
    return _shift(state, 11).to(torch.float64) * 2.0**-53


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    # torch shifts int64 arithmetically; clearing the copied sign bits makes the shift logical.
    return (x >> bits) & ((1 << (64 - bits)) - 1)

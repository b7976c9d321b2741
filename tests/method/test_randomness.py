"""Randomness as a pure function: law 2."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mgcda_dist.method.randomness import numpy_generator, stream_key, uniform
from tests.support import reference

COUNTERS = st.integers(-(2**62), 2**62)


@given(key=st.integers(0, 2**63 - 1), counters=st.lists(COUNTERS, min_size=1, max_size=4))
def test_uniform_is_the_published_finaliser(key: int, counters: list[int]):
    found = uniform(key, *[torch.tensor(counter) for counter in counters])
    assert found.dtype == torch.float64
    assert found.item() == reference.uniform(key, *counters)


def test_uniform_is_uniform_and_uncorrelated():
    draws = uniform(stream_key("moments"), torch.arange(300).unsqueeze(1), torch.arange(300))
    assert draws.min() >= 0 and draws.max() < 1
    assert draws.mean().item() == pytest.approx(0.5, abs=5 / (12 * 9e4) ** 0.5)
    assert draws.var().item() == pytest.approx(1 / 12, abs=2e-3)
    centred = draws - 0.5
    for shifted in (centred[:, 1:] * centred[:, :-1], centred[1:] * centred[:-1], centred * centred.T):
        # Neighbours in either counter, and swapped counters, off the diagonal.
        shifted = shifted[~torch.eye(*shifted.shape, dtype=torch.bool)]
        assert abs(shifted.mean().item()) < 5 / 12 / len(shifted) ** 0.5 * 2
    assert draws.unique().numel() == draws.numel()


def test_different_names_are_different_streams():
    names = [(0,), (1,), ("0",), (0, 1), (1, 0), (0, "1"), ("01",), ("0", "1"), (0, 1, ""), (-1,)]
    assert len({stream_key(*name) for name in names}) == len(names)
    assert all(0 <= stream_key(*name) < 2**63 for name in names)


def test_the_key_of_a_name_never_changes():
    # Frozen: another value would silently give resumed runs other samples.
    assert stream_key(0, "pixel") == 7774288152451910562
    assert numpy_generator(0, "pixel").integers(0, 1000, 4).tolist() == [154, 437, 788, 406]

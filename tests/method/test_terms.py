"""Weights of terms, and the random numbers of a loss."""

from __future__ import annotations

import torch

from mgcda_dist.method.terms import LossContext, Term, weight_at


def test_random_numbers_belong_to_the_image_and_to_no_rank():
    whole = LossContext(3, 0.5, torch.arange(4), seed=7)
    draws = whole.uniform("points", 5, 6)
    assert draws.shape == (4, 5, 6) and draws.min() >= 0 and draws.max() < 1
    assert draws.unique().numel() == draws.numel()
    part = LossContext(3, 0.5, torch.tensor([2, 3]), seed=7)
    torch.testing.assert_close(part.uniform("points", 5, 6), draws[2:], rtol=0, atol=0)
    assert whole.uniform("points").shape == (4,)
    for other in (LossContext(4, 0.5, whole.slot, seed=7), LossContext(3, 0.5, whole.slot, seed=8)):
        assert not torch.equal(other.uniform("points", 5, 6), draws)
    assert not torch.equal(whole.uniform("order", 5, 6), draws)


def test_a_weight_is_a_number_or_follows_the_progress():
    assert weight_at(Term("inlier").weight, 0.3) == 1.0
    assert weight_at(Term("both", lambda progress: 1 - progress).weight, 0.25) == 0.75

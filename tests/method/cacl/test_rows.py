"""The sum over negatives, and which rows fall to which rank; contrast itself: test_loss."""

from __future__ import annotations

import pytest
import torch

from mgcda_dist.method.cacl.rows import push_apart, share_of_rows

LOW = -1e9


@pytest.mark.parametrize("scale", [1.0, 14.0, 1000.0])
def test_the_sum_over_negatives_is_that_of_torch(scale: float):
    """Also of rows with one negative and none, and of similarities whose exponentials leave the range."""
    generator = torch.Generator().manual_seed(0)
    similarity = scale * torch.randn(6, 9, generator=generator, dtype=torch.float64)
    is_negative = torch.rand(6, 9, generator=generator) < 0.5
    is_negative[1], is_negative[2] = False, torch.arange(9) == 4
    similarity[0, ~is_negative[0]] = 10 * scale
    given, expected = similarity.clone().requires_grad_(), similarity.clone().requires_grad_()
    found = push_apart(given, is_negative)
    torch_found = torch.logsumexp(expected.masked_fill(~is_negative, LOW), dim=1)
    some = torch.tensor([0, 2, 3, 4, 5])
    torch.testing.assert_close(found[some], torch_found[some], rtol=1e-14, atol=0)
    assert found[1] == LOW and found[2] == similarity[2, 4]
    weights = torch.randn(6, generator=generator, dtype=torch.float64)
    (found * weights).sum().backward()
    (torch_found * weights)[some].sum().backward()
    assert given.grad is not None and expected.grad is not None and not given.grad[1].any()
    torch.testing.assert_close(given.grad, expected.grad, rtol=1e-13, atol=1e-300)


def test_the_gradient_is_that_of_differences():
    similarity = torch.linspace(-2, 3, 12, dtype=torch.float64).view(3, 4).requires_grad_()
    is_negative = torch.tensor([[1, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]]) == 1
    assert torch.autograd.gradcheck(lambda x: push_apart(x, is_negative), similarity)


def test_no_columns_are_no_negatives():
    similarity = torch.zeros(3, 0, requires_grad=True)
    found = push_apart(similarity, torch.zeros(3, 0, dtype=torch.bool))
    assert found.tolist() == [LOW] * 3 and found.requires_grad


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_every_filled_row_falls_to_one_rank_and_each_has_an_equal_share(size: int):
    """However the images that were sampled lie on the ranks."""
    is_filled = torch.arange(7) < 5
    found: list[int] = []
    for rank in range(size):
        row, counts = share_of_rows(is_filled, rank, size)
        assert len(row) == len(counts) == -(-7 // size)
        found += row[counts].tolist()
    assert sorted(found) == [0, 1, 2, 3, 4]

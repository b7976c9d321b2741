"""R_λ: the identity forward, -λ times the gradient backward."""

from __future__ import annotations

import pytest
import torch

from mgcda_dist.method.mdat.reversal import reversal_strength, reverse_gradient
from tests.support import reference


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_forward_is_the_identity_and_backward_the_negative(strength: float):
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    y = reverse_gradient(x, strength)
    assert torch.equal(y, x)
    direction = torch.randn_like(x)
    (gradient,) = torch.autograd.grad(y, x, direction)
    torch.testing.assert_close(gradient, -strength * direction, rtol=0, atol=0)


def test_gradient_check_with_the_sign_turned():
    # -R_{-1} … gradcheck compares with finite differences of the forward, so λ = -1 must pass and λ = 1 must fail.
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: reverse_gradient(v, -1.0).sin(), x)
    assert not torch.autograd.gradcheck(lambda v: reverse_gradient(v, 1.0).sin(), x, raise_exception=False)


def test_reversal_twice_is_the_square():
    x = torch.ones(3, dtype=torch.float64, requires_grad=True)
    reverse_gradient(reverse_gradient(x, 0.5), 0.5).sum().backward()
    assert x.grad is not None and torch.equal(x.grad, torch.full((3,), 0.25, dtype=torch.float64))


def test_what_lies_before_the_reversal_ascends_and_what_lies_after_descends():
    before = torch.tensor(0.7, requires_grad=True)
    after = torch.tensor(0.2, requires_grad=True)
    (reverse_gradient(before, 0.1) * after).backward()
    assert before.grad is not None and after.grad is not None
    assert before.grad.item() == pytest.approx(-0.1 * 0.2)
    assert after.grad.item() == pytest.approx(0.7)


def test_bf16_features_keep_their_type():
    x = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    reverse_gradient(x, 0.1).sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("progress", [0.0, 0.01, 0.1, 0.5, 0.99, 1.0])
def test_strength_follows_dann(progress: float):
    assert reversal_strength(progress, 0.4) == pytest.approx(reference.reversal_strength(progress, 0.4), abs=1e-15)


def test_strength_rises_from_zero_to_nearly_the_maximum():
    values = [reversal_strength(p / 100, 0.4) for p in range(101)]
    assert values[0] == 0.0 and values == sorted(values) and 0.4 > values[-1] > 0.3999

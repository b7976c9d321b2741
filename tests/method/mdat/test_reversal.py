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


def test_bf16_features_keep_their_type():
    x = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    reverse_gradient(x, 0.1).sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("progress", [0.0, 0.01, 0.1, 0.5, 0.99, 1.0])
def test_strength_follows_dann(progress: float):
    assert reversal_strength(progress, 0.4) == pytest.approx(reference.reversal_strength(progress, 0.4), abs=1e-15)

"""The gradient reversal layer R_λ and its schedule λ(p) (Ganin et al., DANN, arXiv 1409.7495)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["reversal_strength", "reverse_gradient"]


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * grad_outputs[0], None


def reverse_gradient(features: Tensor, strength: float) -> Tensor:
    """R_λ: the identity forward, -λ times the gradient backward; `strength` is λ."""
    return _Reverse.apply(features, strength)  # type: ignore[no-any-return]


def reversal_strength(progress: float, maximum: float) -> float:
    """λ(p) = λ_max · (2 / (1 + e^{-10p}) - 1), with p the progress of training in [0, 1]."""
    return maximum * (2.0 / (1.0 + math.exp(-10.0 * progress)) - 1.0)

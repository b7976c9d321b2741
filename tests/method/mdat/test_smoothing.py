"""Label smoothing: the target, the four ways to choose ε, the cap."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mgcda_dist.choices import SmoothingMode, smoothing_cap
from mgcda_dist.method.mdat.smoothing import LabelSmoothing, smoothed_cross_entropy
from tests.support import reference

MODES: tuple[SmoothingMode, ...] = get_args(SmoothingMode)


def case(num_domains: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(5, num_domains, 2, 3, dtype=torch.float64, generator=generator)
    domain = torch.randint(num_domains, (5,), generator=generator)
    kept = torch.rand(5, 2, 3, generator=generator) < 0.6
    kept[1] = False  # an image without a location that counts
    return logits, domain, kept


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("accuracy", [0.1, 0.25, 0.6, 1.0])
@pytest.mark.parametrize("progress", [0.0, 0.4, 1.0])
def test_epsilon_agrees_with_the_formula(mode: SmoothingMode, value: float, accuracy: float, progress: float):
    logits, domain, kept = case()
    found = LabelSmoothing(mode, value).per_image(logits, domain, kept, torch.tensor(accuracy).double(), progress)
    for i, d in enumerate(domain.tolist()):
        own = [torch.softmax(logits[i, :, y, x], dim=0)[d].item() for y in range(2) for x in range(3) if kept[i, y, x]]
        expected = reference.epsilon_of(mode, value, 4, progress, torch.tensor(accuracy).double().item(), own)
        assert found[i].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_domains", [2, 3, 7])
def test_no_mode_passes_the_cap(mode: SmoothingMode, num_domains: int):
    logits, domain, kept = case(num_domains)
    sure = 50 * F.one_hot(domain, num_domains).double().view(5, num_domains, 1, 1).expand_as(logits)
    epsilon = LabelSmoothing(mode, 1.0).per_image(sure, domain, kept, torch.tensor(1.0), progress=1.0)
    assert epsilon.max().item() <= smoothing_cap(num_domains) == pytest.approx(0.5 * (1 - 1 / num_domains))


def test_extreme_logits_stay_finite():
    logits = torch.tensor([1e4, -1e4, 0.0]).view(1, 3, 1, 1).requires_grad_()
    loss = smoothed_cross_entropy(logits.log_softmax(dim=1), torch.tensor([1]), torch.tensor([0.2])).sum()
    loss.backward()
    assert loss.isfinite() and logits.grad is not None and logits.grad.isfinite().all()

"""Outlier losses against values computed by hand, and the resampling between logits and labels."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from mgcda_dist.choices import OutlierKind
from mgcda_dist.models.outlier_losses import (
    abstention,
    energy_hinge,
    entropy,
    label_at,
    outlier_loss,
    rba_hinge,
    upsample,
)

# Four pixels of three classes: inlier, anomaly, void, normal of unknown class. Energies: -log(e^2+2), -log 3, …
LOGITS = torch.tensor([[2.0, 0.0, 5.0, 5.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]).view(1, 3, 1, 4)
LABEL = torch.tensor([0, 254, 255, 253]).view(1, 1, 4)
LIMITS: dict[OutlierKind, dict[str, float]] = {
    "energy_hinge": {"inlier_energy": -3.0, "outlier_energy": -1.0},
    "rba_hinge": {"inlier_rba": -2.5, "outlier_rba": -0.5},
    "entropy": {},
}
LOSSES = {kind: loss for kind, limits in LIMITS.items() if (loss := outlier_loss(kind, limits))}


def test_energy_hinge_by_hand():
    sums = energy_hinge(LOGITS, LABEL, inlier_energy=-3.0, outlier_energy=-1.0)
    assert sums.inlier_sum.item() == pytest.approx((3.0 - math.log(math.e**2 + 2)) ** 2)
    assert sums.anomaly_sum.item() == pytest.approx((math.log(3) - 1.0) ** 2)


def test_energy_hinge_is_zero_beyond_its_margins():
    sums = energy_hinge(LOGITS, LABEL, inlier_energy=-2.0, outlier_energy=-1.2)
    assert (sums.inlier_sum.item(), sums.anomaly_sum.item()) == (0.0, 0.0)


def test_rba_hinge_by_hand():
    sums = rba_hinge(LOGITS, LABEL, inlier_rba=-2.5, outlier_rba=-0.5)
    inlier = -(1 / (1 + math.exp(-2)) + 0.5 + 0.5)
    assert sums.inlier_sum.item() == pytest.approx((inlier + 2.5) ** 2)
    assert sums.anomaly_sum.item() == pytest.approx((-0.5 + 1.5) ** 2)


def test_entropy_is_cross_entropy_to_uniform_on_anomalies():
    logits = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    label = torch.tensor([[[254, 1], [254, 255]]])
    sums = entropy(logits, label)
    per_pixel = F.cross_entropy(logits, torch.full((1, 3, 2, 2), 1 / 3), reduction="none")
    assert sums.anomaly_sum.item() == pytest.approx(per_pixel[label == 254].sum().item(), rel=1e-6)
    assert sums.inlier_sum.item() == 0.0


def test_abstention_by_hand():
    logits = torch.tensor([[3.0, 2.0], [0.0, 0.0], [1.0, 1.0]]).view(1, 3, 1, 2)  # two classes and abstention
    sums = abstention(logits, torch.tensor([[[0, 254]]]))
    total = math.e**3 + 1 + math.e
    penalty = math.log(math.e**3 + 1) ** 2
    assert sums.inlier_sum.item() == pytest.approx(-math.log(math.e**3 / total + math.e / total / penalty))
    total, penalty = math.e**2 + 1 + math.e, math.log(math.e**2 + 1) ** 2
    assert sums.anomaly_sum.item() == pytest.approx(-math.log(math.e / total / penalty))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("label", [0, 253, 254, 255])
def test_a_loss_without_pixels_is_zero_with_a_gradient(name, label):
    logits = LOGITS.clone().requires_grad_()
    sums = LOSSES[name](logits, torch.full((1, 1, 4), label))
    (sums.inlier_sum + sums.anomaly_sum).backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
    if label in (253, 255):
        assert (sums.inlier_sum + sums.anomaly_sum).item() == 0 and not logits.grad.any()


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_the_sum(name):
    logits = torch.randn(1, 3, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    label = torch.tensor([[[0, 254, 1], [255, 254, 2]]])

    def total(x: torch.Tensor) -> torch.Tensor:
        sums = LOSSES[name](x, label)
        return sums.inlier_sum + sums.anomaly_sum

    assert torch.autograd.gradcheck(total, (logits,))


def test_losses_of_half_precision_logits_are_single_precision():
    sums = energy_hinge(LOGITS.bfloat16(), LABEL, -3.0, -1.0)
    assert sums.inlier_sum.dtype == torch.float32


def test_label_at_stays_inside_when_the_stride_does_not_divide():
    label = torch.arange(33).view(1, 33, 1)
    assert label_at(label, (9, 1)).flatten().tolist() == [2, 6, 10, 14, 18, 22, 26, 30, 32]


@pytest.mark.parametrize("size", [(32, 48), (33, 50), (227, 320), (5, 3)])
def test_upsampling_keeps_a_pixel_where_it_is(size):
    # A ramp over the padded image, averaged over 4×4 cells, comes back as the ramp wherever no border is near.
    rows, columns = (-(-n // 4) for n in size)
    centres = torch.arange(columns) * 4 + 1.5
    ramp = centres.view(1, 1, 1, -1).expand(1, 1, rows, columns)
    up = upsample(ramp, size)
    assert up.shape == (1, 1, *size)
    inner = up[0, 0, 0, 2 : columns * 4 - 2]
    expected = torch.arange(size[1]).float()[2 : columns * 4 - 2]
    torch.testing.assert_close(inner, expected)

"""L_seg: groups, weights, and what no pixel may do."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mgcda_dist.models.outlier_losses import energy_hinge
from mgcda_dist.models.segmentation_loss import segmentation_loss

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(2, 4, 8, 8, generator=GENERATOR)
LABEL = torch.tensor([0, 1, 2, 3, 253, 254, 255])[torch.randint(0, 7, (2, 32, 32), generator=GENERATOR)]


def test_groups_equal_the_plain_losses_at_full_size():
    result = segmentation_loss("energy_hinge", outlier_weight=0.3, stride_px=1)(LOGITS, LABEL)
    full = F.interpolate(LOGITS, size=(32, 32), mode="bilinear")
    target = torch.where(LABEL < 4, LABEL, -100)
    outlier = energy_hinge(full, LABEL, -8.0, -3.0)
    expected = [F.cross_entropy(full, target, reduction="sum"), outlier.inlier_sum, outlier.anomaly_sum]
    torch.testing.assert_close(result.sums, torch.stack(expected))
    assert result.counts.tolist() == [int((LABEL < 4).sum())] * 2 + [int((LABEL == 254).sum())]
    assert segmentation_loss("energy_hinge", outlier_weight=0.3).weights == (1.0, 0.3, 0.3)


def test_class_weights_are_factors_of_the_pixels_of_their_class():
    weights = [1.0, 5.0, 0.5, 2.0]
    plain = segmentation_loss("entropy", stride_px=1)(LOGITS, LABEL)
    weighted = segmentation_loss("entropy", stride_px=1, class_weights=weights)(LOGITS, LABEL)
    log_p = F.interpolate(LOGITS, size=(32, 32), mode="bilinear").log_softmax(1)
    expected = sum(-w * log_p[:, k][k == LABEL].sum() for k, w in enumerate(weights))
    torch.testing.assert_close(weighted.sums[0], expected)
    assert weighted.counts.tolist() == plain.counts.tolist() and weighted.sums[1:].tolist() == plain.sums[1:].tolist()


@pytest.mark.parametrize("outlier", ["energy_hinge", "entropy", "none"])
@pytest.mark.parametrize("stride_px", [1, 2, 4])
@pytest.mark.parametrize("label", [LABEL, torch.full_like(LABEL, 255)], ids=["mixed", "void"])
def test_any_batch_gives_finite_sums_and_gradients(outlier, stride_px, label):
    logits = LOGITS.clone().requires_grad_()
    loss = segmentation_loss(outlier, stride_px=stride_px)
    result = loss(logits, label)
    assert result.sums.shape == result.counts.shape == (len(loss.weights),)
    result.sums.sum().backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
    assert bool(logits.grad.any()) == bool(result.counts.any())


def test_odd_sizes():
    result = segmentation_loss("entropy")(torch.randn(1, 4, 9, 13), torch.zeros(1, 33, 50, dtype=torch.int64))
    assert result.counts.tolist() == [17 * 25, 0, 0]


def test_unknown_term_is_named():
    with pytest.raises(ValueError, match="'focal'"):
        segmentation_loss("focal")  # pyright: ignore[reportArgumentType]

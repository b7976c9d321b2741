"""Law 1 over micro-batches: 12 images as 1, 2, 3, 6 or 12 micro-batches give one loss, one gradient, one state.

L_seg, the outlier loss, L_mdat and their gradients agree to 1e-9 in float64. L_cacl contrasts within a micro-batch:
it is left out of the exact comparison; docs/equations.md says how much it differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import pytest
import torch
from torch import Tensor

from mgcda_dist.choices import OutlierKind, SmoothingMode
from mgcda_dist.method.batch import ANOMALY, VOID, Batch
from mgcda_dist.method.mgcda import SegmentationLoss
from mgcda_dist.models.segmentation_loss import segmentation_loss
from tests.support.tiny import NUM_CLASSES, lively, part_of, tiny_batch

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES, STEPS = 12, 3
MICRO_BATCHES = (2, 3, 6, 12)


@dataclass
class Trained:
    values: list[dict[str, float]]
    gradients: list[Tensor]
    accuracy: Tensor


def as_it_is(label: Tensor) -> Tensor:
    return label


def first_half_unlabelled(label: Tensor) -> Tensor:
    """Micro-batches without a labelled pixel, and in them no anomaly."""
    return torch.cat([torch.full_like(label[: IMAGES // 2], VOID), label[IMAGES // 2 :]])


def one_anomaly(label: Tensor) -> Tensor:
    """All micro-batches but one are without an anomaly."""
    label = torch.where(label == ANOMALY, 0, label)
    label[7, 4:9, 4:12] = ANOMALY
    return label


def unequal(label: Tensor) -> Tensor:
    """Every image has another number of labelled pixels."""
    label = label.clone()
    for i in range(IMAGES):
        label[i, : i + 1] = VOID
    return label


def train(
    num_micro_batches: int,
    alter: Callable[[Tensor], Tensor] = as_it_is,
    *,
    smoothing: SmoothingMode = "adaptive_stage",
    loss: SegmentationLoss | None = None,
    with_cacl: bool = False,
) -> Trained:
    model = lively(smoothing=smoothing, with_cacl=with_cacl)
    model.segmentation_loss = loss or model.segmentation_loss
    trained = Trained([], [], torch.empty(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in range(STEPS):
        whole = tiny_batch(step, IMAGES)
        whole = Batch(whole.image, alter(whole.label), whole.domain, whole.slot, step)
        batches = [part_of(whole, i, num_micro_batches) for i in range(num_micro_batches)]
        counts = model.count(batches)
        outcomes = [model(batch, (step + 1) / 4, counts) for batch in batches]
        optimizer.zero_grad()
        for outcome in outcomes:
            (outcome.loss / num_micro_batches).backward()  # as an engine that accumulates does
        totals = model.total(outcomes)
        trained.values.append(totals.scalars())
        trained.gradients.append(torch.cat([gradient(x).flatten() for x in model.parameters()]))
        optimizer.step()
        model.commit(outcomes, totals)
    assert model.mdat is not None
    trained.accuracy = model.mdat.accuracy.clone()
    return trained


def gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None, "law 3: every parameter is touched"
    return parameter.grad


def assert_equal(found: Trained, expected: Trained) -> None:
    for here, there in zip(found.values, expected.values, strict=True):
        assert here == pytest.approx(there, rel=1e-9, abs=1e-9)
    for here, there in zip(found.gradients, expected.gradients, strict=True):
        torch.testing.assert_close(here, there, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.accuracy, expected.accuracy, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("alter", [as_it_is, first_half_unlabelled, one_anomaly, unequal])
@pytest.mark.parametrize("num_micro_batches", MICRO_BATCHES)
def test_micro_batches_are_one_batch(num_micro_batches: int, alter: Callable[[Tensor], Tensor]):
    assert_equal(train(num_micro_batches, alter), train(1, alter))


@pytest.mark.parametrize("smoothing", get_args(SmoothingMode))
def test_label_smoothing_does_not_see_micro_batches(smoothing: SmoothingMode):
    assert_equal(train(6, unequal, smoothing=smoothing), train(1, unequal, smoothing=smoothing))


@pytest.mark.parametrize("outlier", [kind for kind in get_args(OutlierKind) if kind != "abstention"])
def test_outlier_losses_do_not_see_micro_batches(outlier: OutlierKind):
    # Abstention needs one more logit; its terms go the same way.
    loss = segmentation_loss(outlier, NUM_CLASSES, stride_px=1)
    assert_equal(train(6, first_half_unlabelled, loss=loss), train(1, first_half_unlabelled, loss=loss))


def test_the_other_terms_stay_exact_beside_cacl():
    found, expected = train(4, with_cacl=True).values[0], train(1, with_cacl=True).values[0]
    for name in ("loss/seg", "loss/outlier", "loss/mdat"):
        assert found[name] == pytest.approx(expected[name], rel=1e-9)


def test_cacl_is_the_mean_over_micro_batches():
    """Each contrasts for itself: the same images as three steps of one micro-batch, with the same memory."""
    together, apart = lively(smoothing="constant", with_cacl=True), lively(smoothing="constant", with_cacl=True)
    batches = [part_of(tiny_batch(0, IMAGES), i, 3) for i in range(3)]
    counts = together.count(batches)
    outcomes = [together(batch, 0.25, counts) for batch in batches]
    separate = [apart.total([apart(batch, 0.25)]).scalars() for batch in batches]
    found = together.total(outcomes).scalars()
    assert found["loss/cacl"] == pytest.approx(sum(values["loss/cacl"] for values in separate) / 3, rel=1e-12)
    assert found["cacl/anchors"] == sum(values["cacl/anchors"] for values in separate)

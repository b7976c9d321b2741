"""Law 1 over micro-batches: 12 images as 1, 2, 3, 6 or 12 micro-batches give one loss, one gradient, one state.

L_seg, the outlier loss, L_mdat and their gradients agree to 1e-9 in float64. L_cacl contrasts within a micro-batch:
it is left out of the exact comparison; docs/equations.md says how much it differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import pytest

from mgcda_dist.choices import OutlierKind, SmoothingMode
from mgcda_dist.method.batch import VOID, Batch
from mgcda_dist.models.segmentation_loss import segmentation_loss
from tests.multiprocess.scenarios import (
    BATCH,
    TAUGHT,
    Scenario,
    class_mixed,
    compare,
    lonely_anomaly,
    one_rank_void,
    play,
)
from tests.support.tiny import NUM_CLASSES, lively, part_of, tiny_batch

pytestmark = pytest.mark.usefixtures("one_thread")

ONE_BATCH = Scenario({"with_cacl": False}, steps=3, images=BATCH)


def as_it_is(batch: Batch) -> Batch:
    return batch


def unequal(batch: Batch) -> Batch:
    """Every image has another number of labelled pixels."""
    label = batch.label.clone()
    for i in range(BATCH):
        label[i, : i + 1] = VOID
    return replace(batch, label=label)


@pytest.mark.parametrize("alter", [as_it_is, one_rank_void, lonely_anomaly, unequal])
@pytest.mark.parametrize("number", [2, 3, 6, 12])
def test_micro_batches_are_one_batch(number: int, alter: Callable[[Batch], Batch]):
    scenario = replace(ONE_BATCH, alter=alter)
    compare(play(replace(scenario, accumulation=number)), play(scenario), 1e-9)


@pytest.mark.parametrize("smoothing", get_args(SmoothingMode))
def test_label_smoothing_does_not_see_micro_batches(smoothing: SmoothingMode):
    scenario = replace(ONE_BATCH, alter=unequal, model=ONE_BATCH.model | {"smoothing": smoothing})
    compare(play(replace(scenario, accumulation=6)), play(scenario), 1e-9)


@pytest.mark.parametrize("outlier", [kind for kind in get_args(OutlierKind) if kind != "abstention"])
def test_outlier_losses_do_not_see_micro_batches(outlier: OutlierKind):
    # Abstention needs one more logit; its terms go the same way.
    loss = segmentation_loss(outlier, NUM_CLASSES, stride_px=1)
    scenario = replace(ONE_BATCH, alter=one_rank_void, loss=loss)
    compare(play(replace(scenario, accumulation=6)), play(scenario), 1e-9)


@pytest.mark.parametrize("alter", [as_it_is, one_rank_void, unequal, class_mixed])
@pytest.mark.parametrize("number", [2, 3, 12])
def test_labels_of_the_teacher_do_not_see_micro_batches(number: int, alter: Callable[[Batch], Batch]):
    scenario = replace(ONE_BATCH, alter=alter, model=ONE_BATCH.model | TAUGHT)
    expected = play(scenario)
    assert all(terms["loss/teacher"] > 0 for terms in expected.terms[1:])
    compare(play(replace(scenario, accumulation=number)), expected, 1e-9)


def test_the_other_terms_stay_exact_beside_cacl():
    found, expected = (play(Scenario(steps=1, images=BATCH, accumulation=n)).terms[0] for n in (4, 1))
    for name in ("loss/seg", "loss/outlier", "loss/mdat"):
        assert found[name] == pytest.approx(expected[name], rel=1e-9)


def test_cacl_is_the_mean_over_micro_batches():
    """Each contrasts for itself: the same images as three steps of one micro-batch, with the same memory."""
    together, apart = lively(smoothing="constant", with_cacl=True), lively(smoothing="constant", with_cacl=True)
    batches = [part_of(tiny_batch(0, BATCH), i, 3) for i in range(3)]
    counts = together.count(batches)
    outcomes = [together(batch, 0.25, counts) for batch in batches]
    separate = [apart.total([apart(batch, 0.25)]).scalars() for batch in batches]
    found = together.total(outcomes).scalars()
    assert found["loss/cacl"] == pytest.approx(sum(values["loss/cacl"] for values in separate) / 3, rel=1e-12)
    assert found["cacl/anchors"] == sum(values["cacl/anchors"] for values in separate)

"""The teacher's labels and L_teacher against loops, and which images and pixels they are about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from mgcda_dist.method.batch import ANOMALY, VOID, Batch, Prediction
from mgcda_dist.method.mgcda import MGCDA
from mgcda_dist.method.teacher.labels import num_teachable, taught_labels, taught_sum, teachable
from tests.multiprocess.scenarios import class_mixed, pasted_on_unlabelled
from tests.support import reference
from tests.support.tiny import NUM_CLASSES, energy, lively, tiny_batch

SIZE = (4, 6)


def _drawn(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of teacher and student for eight images."""
    generator = torch.Generator().manual_seed(seed)
    teacher, student = torch.randn(2, 8, NUM_CLASSES, *SIZE, generator=generator, dtype=torch.float64).mul(2)
    return teacher, student


@pytest.mark.parametrize(("confidence", "score_quantile"), [(0.6, 0.75), (0.6, 1.0), (0.0, 0.5), (0.9, 0.3)])
@pytest.mark.parametrize("step", range(3))
@pytest.mark.parametrize("alter", [pasted_on_unlabelled, class_mixed])
def test_labels_and_loss_are_those_of_the_loops(
    alter: Callable[[Batch], Batch], step: int, confidence: float, score_quantile: float
) -> None:
    (teacher, student), batch = _drawn(step), alter(tiny_batch(step))
    mask, score = teachable(batch, SIZE), energy(teacher)
    taught = taught_labels(teacher, score, mask, confidence=confidence, score_quantile=score_quantile)
    expected = reference.teacher_labels(
        teacher.tolist(), score.tolist(), batch.label.tolist(), confidence=confidence, score_quantile=score_quantile,
        unlabelled=batch.is_unlabelled.tolist(),
    )  # fmt: skip
    found = [[[None if x == VOID else x for x in row] for row in image] for image in taught.label.tolist()]
    assert found == expected.labels
    assert taught.inlier.tolist() == expected.inliers
    assert taught.weight.tolist() == pytest.approx(expected.weights, rel=1e-12)
    assert int(num_teachable(batch, SIZE)) == expected.total > 0
    loss = reference.teacher_loss(student.tolist(), expected)
    assert float(taught_sum(student, taught)) / expected.total == pytest.approx(loss, rel=1e-9)


@pytest.mark.parametrize("outlier_weight", [0.0, 0.6])
@pytest.mark.parametrize("alter", [pasted_on_unlabelled, class_mixed])
def test_the_model_has_the_loss_of_its_teacher(alter: Callable[[Batch], Batch], outlier_weight: float) -> None:
    """Of a teacher that looks at the weak views, where the batch has them."""
    model = _one_step(lively(teacher_decay=0.7, teacher_outlier_weight=outlier_weight))
    batch = alter(tiny_batch(1))
    assert model.teacher is not None
    looked_at = batch.image.clone()
    if batch.weak is not None:
        looked_at[batch.is_unlabelled] = batch.weak
        assert not torch.equal(looked_at, batch.image)
    ask, answer = model.network("ema")(looked_at), model.segmenter(batch.image)
    taught = reference.teacher_labels(
        ask.logits.tolist(), energy(ask.logits).tolist(), batch.label.tolist(), confidence=0.4, score_quantile=0.75,
        unlabelled=batch.is_unlabelled.tolist(),
    )  # fmt: skip
    terms = model.total([model(batch, 0.3)]).scalars()
    expected = reference.teacher_loss(answer.logits.tolist(), taught, outlier_weight)
    assert terms["loss/teacher"] == pytest.approx(expected, rel=1e-9)
    assert (reference.teacher_loss(answer.logits.tolist(), taught) < expected - 1e-3) == (outlier_weight > 0)
    num_labelled = sum(x is not None for image in taught.labels for row in image for x in row)
    assert 0 < terms["teacher/labelled"] < 1
    assert terms["teacher/labelled"] == pytest.approx(num_labelled / taught.total, rel=1e-12)
    assert terms["loss/total"] == pytest.approx(
        terms["loss/seg"] + terms["loss/outlier"] + 0.5 * terms["loss/mdat"] + 0.1 * terms["loss/cacl"]
        + 0.7 * terms["loss/teacher"],
        rel=1e-9,
    )  # fmt: skip


def test_labelled_images_pasted_objects_and_foreign_pixels_are_not_asked_about() -> None:
    for alter in (pasted_on_unlabelled, class_mixed):
        batch = alter(tiny_batch(0))
        mask = teachable(batch, tuple(batch.label.shape[1:]))  # pyright: ignore[reportArgumentType]
        assert not mask[batch.domain != 2].any() and mask[batch.domain == 2].any()
        assert not mask[batch.label == ANOMALY].any() and not mask[batch.is_foreign].any()
        assert torch.equal(mask[batch.domain == 2], (batch.label == VOID)[batch.domain == 2])


def test_what_looks_anomalous_gets_no_label() -> None:
    """The highest scores of an image are left out, however sure the class is; its weight stays."""
    logits = torch.zeros(1, NUM_CLASSES, *SIZE, dtype=torch.float64)
    logits[:, 1] = 9.0
    score = torch.arange(24, dtype=torch.float64).view(1, *SIZE)
    everywhere = torch.ones(1, *SIZE, dtype=torch.bool)
    taught = taught_labels(logits, score, everywhere, confidence=0.9, score_quantile=0.75)
    assert torch.equal(taught.label, torch.where(score <= 17, 1, VOID)) and taught.weight.tolist() == [1.0]
    assert torch.equal(taught.inlier, score <= 17)
    unsure = taught_labels(logits * 0, score, everywhere, confidence=0.9, score_quantile=0.75)
    assert torch.equal(unsure.inlier, score <= 17), "an inlier of whatever class"
    assert (unsure.label == VOID).all()


def test_an_image_weighs_as_much_as_it_is_sure() -> None:
    logits = torch.zeros(2, NUM_CLASSES, *SIZE, dtype=torch.float64)
    logits[0, 2, 0] = 9.0  # one row of four
    taught = taught_labels(logits, -logits[:, 2], logits[:, 0] == 0, confidence=0.9, score_quantile=1.0)
    assert taught.weight.tolist() == [0.25, 0.0]
    assert (taught.label[1] == VOID).all()


def test_no_image_without_labels_is_no_loss_and_no_look() -> None:
    model = _one_step(lively(teacher_decay=0.7))
    assert model.teacher is not None

    def refuse(image: torch.Tensor) -> Prediction:
        raise AssertionError("the teacher was asked")

    model.teacher.network.forward = refuse
    batch = tiny_batch(1)
    batch = replace(batch, label=torch.where(batch.label == VOID, 1, batch.label))
    terms = model.total([model(batch, 0.3)]).scalars()
    assert terms["loss/teacher"] == terms["teacher/labelled"] == 0


def test_labelled_crops_are_not_asked_about_whatever_they_show() -> None:
    """A crop of a labelled stream may show nothing but void; its stream is known to have labels."""
    model = _one_step(lively(teacher_decay=0.7))
    batch = tiny_batch(1)
    told = replace(batch, unlabelled=torch.zeros(len(batch.slot), dtype=torch.bool))
    found = [model.total([model(each, 0.3)]).scalars()["loss/teacher"] for each in (batch, told)]
    assert found[0] > 0 == found[1]


def test_a_teacher_of_no_weight_is_an_average_alone() -> None:
    """Nobody asks it, and the loss is that without it, to the last digit."""
    with_it, without = lively(teacher_decay=0.7, teacher_weight=0.0, teacher_outlier_weight=0.5), lively()
    for step in range(2):
        terms = [model.total([model(tiny_batch(step), 0.3)]).scalars() for model in (with_it, without)]
        assert terms[0] == terms[1]


def test_the_gradient_reaches_the_segmenter_and_not_the_teacher() -> None:
    model, batch = _one_step(lively(teacher_decay=0.7, with_mdat=False, with_cacl=False)), tiny_batch(1)
    model.segmentation_weight = 0.0
    model(batch, 1.0).loss.backward()
    assert all(x.grad is not None and bool(x.grad.any()) for x in model.segmenter.parameters())
    assert all(x.grad is None for x in model.network("ema").parameters())


def _one_step(model: MGCDA, batch: Batch | None = None) -> MGCDA:
    """The model after step 0 moved its teacher, then a little further than it."""
    outcome = model(batch or tiny_batch(0), 0.1)
    model.commit([outcome], model.total([outcome]))
    with torch.no_grad():
        for parameter in model.segmenter.parameters():
            parameter.add_(0.01)
    return model

"""The sampler's choice: types, difficulty, quotas, hardest share; a function of (seed, step, slot) alone."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mgcda_dist.method.batch import ANOMALY, INLIER, VOID, Batch
from mgcda_dist.method.cacl.sampler import (
    NO_TYPE,
    Budget,
    Pixels,
    describe_pixels,
    image_difficulty,
    image_quota,
    num_sent,
    sample_pixels,
    sent_rows,
)
from mgcda_dist.method.randomness import stream_key
from tests.support import reference

SEED, STEP, CLASSES = 5, 7, 3


def random_case(seed: int, num_images: int = 4, size: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Labels N×4s×4s in cells of 4, logits N×C×s×s, scores N×s×s; rare classes, images without anomaly or label."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.tensor([0, 0, 0, 1, 2, ANOMALY, ANOMALY, INLIER, VOID])
    cells = values[torch.randint(len(values), (num_images, size, size), generator=generator)]
    cells[seed % num_images] = VOID
    cells[(seed + 1) % num_images][cells[(seed + 1) % num_images] == ANOMALY] = 0
    label = cells.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
    logits = torch.randn(num_images, CLASSES, size, size, generator=generator, dtype=torch.float64)
    return label, logits, torch.randn(num_images, size, size, generator=generator, dtype=torch.float64)


def described(label: Tensor, *arguments: Any, unlabelled: Tensor | None = None) -> Pixels:
    """`describe_pixels` of a batch with these labels."""
    slot = torch.arange(len(label))
    return describe_pixels(Batch(torch.empty(0), label, slot, slot, STEP, unlabelled=unlabelled), *arguments)


def chosen(pixels: Pixels, budget: Budget, slots: list[int]) -> Tensor:
    quota = image_quota(*image_difficulty(pixels, CLASSES), budget)
    return sample_pixels(pixels, quota, budget, torch.tensor(slots), SEED, STEP)


def by_type(row: Tensor, budget: Budget) -> dict[int, list[int]]:
    """The rows of one image, sorted by their place: anomalies first, then each class."""
    parts = row.split([budget.max_anomaly_pixels] + [budget.max_inlier_pixels] * budget.num_classes)
    kinds = [budget.num_classes, *range(budget.num_classes)]
    return {kind: [p for p in part.tolist() if p >= 0] for kind, part in zip(kinds, parts, strict=True)}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    anomaly_pixels=st.integers(1, 9),
    inlier_pixels=st.integers(1, 6),
    hard_fraction=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    image_aware=st.booleans(),
    mixed=st.booleans(),
)
def test_agrees_with_the_reference(
    seed: int, anomaly_pixels: int, inlier_pixels: int, hard_fraction: float, image_aware: bool, mixed: bool
):
    label, logits, score = random_case(seed)
    budget = Budget(CLASSES, anomaly_pixels, inlier_pixels, hard_fraction, image_aware)
    slots = [3, 0, 8, 5]
    # The classes in an image without labels are those of another one: no rows.
    bare = [i == seed % 3 for i in range(4)] if mixed else None
    told = None if bare is None else torch.tensor(bare)
    table = chosen(described(label, logits, score, None, unlabelled=told), budget, slots)
    assert table.shape == (4, budget.rows_per_image)
    draw = partial(reference.uniform, stream_key(SEED, STEP, "pixel"))
    wanted, _ = reference.sampled(label.tolist(), score.tolist(), slots, draw, unlabelled=bare, **asdict(budget))
    for row, expected in zip(table, wanted, strict=True):
        assert by_type(row, budget) == expected


# ---------------------------------------------------------------------------------------------------------------- quota


def test_quotas_do_not_depend_on_the_scale_and_offset_of_the_score():
    mean = torch.tensor([[0.1, 1.0], [0.5, 2.0], [1.0, 3.0]], dtype=torch.float64)
    budget = Budget(CLASSES, 10, 6, 0.5, True)
    expected = image_quota(mean, torch.ones_like(mean), budget)
    assert torch.equal(image_quota(1000 * mean - 77, torch.ones_like(mean), budget), expected)


def test_quota_is_capped_at_the_reserved_rows():
    mean = torch.zeros(16, 2, dtype=torch.float64)
    mean[3] = 1e6
    quota = image_quota(mean, torch.ones_like(mean), Budget(CLASSES, 5, 3, 0.5, True))
    assert quota[3].tolist() == [6, 10] and quota.min() >= 0


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
def test_the_score_of_a_pixel_without_a_type_does_not_matter(value: float):
    label, logits, score = random_case(3)
    label[:, :4, :4] = VOID  # 4 pixels to a cell
    budget = Budget(CLASSES, 4, 3, 0.5, True)
    expected = chosen(described(label, logits, score, None), budget, [3, 0, 8, 5])
    score[:, 0, 0] = value
    assert torch.equal(chosen(described(label, logits, score, None), budget, [3, 0, 8, 5]), expected)


def test_nothing_present_gives_nothing():
    zero = torch.zeros(3, 2, dtype=torch.float64)
    for image_aware in (True, False):
        assert not image_quota(zero, zero, Budget(CLASSES, 7, 4, 0.5, image_aware)).any()


def test_a_score_that_is_not_a_number_samples_nothing_rather_than_out_of_range():
    label, logits, score = random_case(3)
    score[0, 0, 0] = float("nan")
    table = chosen(described(label, logits, score, None), Budget(CLASSES, 5, 3, 0.5, True), [0, 1, 2, 3])
    assert table.min() >= -1 and table.max() < 36


# ------------------------------------------------------------------------------------------------------------ rows sent


def test_an_image_sends_twice_its_share_at_most():
    budget = Budget(CLASSES, 5, 3, 0.5, True)
    assert budget.rows_per_image == 10 + 3 * 6
    assert num_sent(budget, 4, None) == num_sent(budget, 4, 1000) == 28
    assert [num_sent(budget, 4, limit) for limit in (40, 41, 1)] == [20, 21, 1]


def test_rows_are_sent_by_draw_and_the_filled_ones_first():
    index = torch.tensor([[3, -1, 5, 7, -1, 9], [-1, -1, 2, -1, -1, -1], [-1] * 6, [0, 1, 2, 3, 4, 5]])
    slot = torch.tensor([4, 9, 1, 0])
    key = stream_key(SEED, STEP, "sent rows")
    found, draw = sent_rows(index, 3, slot, key), partial(reference.uniform, key)
    for image, rows, pixels in zip(slot.tolist(), found.tolist(), index.tolist(), strict=True):
        order = [(pixel < 0, draw(image, row)) for row, pixel in enumerate(pixels)]
        assert rows == sorted(sorted(range(6), key=order.__getitem__)[:3])
    alone = sent_rows(index[3:], 3, slot[3:], key)
    assert torch.equal(alone[0], found[3]), "the rank that holds an image does not matter"
    assert not torch.equal(sent_rows(index[3:], 3, slot[3:], key + 1), alone)
    assert torch.equal(sent_rows(index, 6, slot, key), torch.arange(6).expand(4, 6))


# ---------------------------------------------------------------------------------------------------------------- types


def test_types_of_labels():
    label = torch.tensor([[[0, 1, 2, ANOMALY, VOID, INLIER, 3]]])
    pixels = described(label, torch.zeros(1, CLASSES, 1, 7), torch.zeros(1, 1, 7), None)
    assert pixels.type.tolist() == [[0, 1, 2, CLASSES, NO_TYPE, NO_TYPE, NO_TYPE]]


def test_labels_are_read_at_the_centre_of_each_cell():
    label = torch.zeros(1, 8, 8, dtype=torch.int64)
    label[0, 2, 6] = 1  # the pixel at the centre of cell (0, 1) of a 2 × 2 grid
    label[0, 3, 7] = 2
    pixels = described(label, torch.zeros(1, CLASSES, 2, 2), torch.zeros(1, 2, 2), None)
    assert pixels.type.tolist() == [[0, 1, 0, 0]]


def test_confident_pixels_of_unlabelled_images_take_the_predicted_class():
    label = torch.full((3, 1, 3), VOID)
    label[1, 0, 0] = 0  # has a label: its void pixels stay out
    label[2, 0, 0] = ANOMALY  # pasted onto an unlabelled image: the rest may still be trusted, the anomaly stays one
    logits = torch.zeros(3, CLASSES, 1, 3)
    logits[:, 2, 0, 1:] = 9.0
    logits[:, 1, 0, 0] = 0.1
    logits[2, 1, 0, 0] = 9.0
    types = described(label, logits, torch.zeros(3, 1, 3), 0.9).type.tolist()
    assert types == [[NO_TYPE, 2, 2], [0, NO_TYPE, NO_TYPE], [CLASSES, 2, 2]]
    assert described(label, logits, torch.zeros(3, 1, 3), None).type[0].tolist() == [NO_TYPE] * 3


def test_a_teacher_names_the_class_of_what_has_no_label():
    """Its label stands where there is none, and nowhere else; where it gives none either, nothing is sampled."""
    label = torch.tensor([[[VOID, VOID, ANOMALY, 1]]])
    logits = torch.zeros(1, CLASSES, 1, 4)
    logits[:, 0] = 9.0  # what the network itself would say
    taught = torch.tensor([[[2, VOID, 2, 2]]])
    pixels = described(label, logits, torch.arange(4.0).view(1, 1, 4), None, taught)
    assert pixels.type.tolist() == [[2, NO_TYPE, CLASSES, 1]]
    assert pixels.difficulty[0, 0] == 0.0, "an inlier"


def test_pixels_of_another_image_have_no_type():
    """They would stand for the domain that they lie in; an object, and what the network or teacher names, does."""
    label = torch.tensor([[[0, 1, ANOMALY, VOID, INLIER]]]).repeat(2, 1, 1)
    logits = torch.zeros(2, CLASSES, 1, 5)
    logits[:, 2] = 9.0
    told = torch.tensor([True, False])
    nothing = torch.zeros(2, 1, 5)
    assert described(label, logits, nothing, None, unlabelled=told).type.tolist() == [
        [NO_TYPE, NO_TYPE, CLASSES, NO_TYPE, NO_TYPE], [0, 1, CLASSES, NO_TYPE, NO_TYPE],
    ]  # fmt: skip
    found = described(label, logits, nothing, 0.9, unlabelled=told).type[0]
    assert found.tolist() == [NO_TYPE, NO_TYPE, CLASSES, 2, NO_TYPE]
    taught = torch.where(label == VOID, 1, VOID)
    found = described(label, logits, nothing, None, taught, unlabelled=told).type[0]
    assert found.tolist() == [NO_TYPE, NO_TYPE, CLASSES, 1, NO_TYPE]

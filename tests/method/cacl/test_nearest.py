"""The rows nearest to an anchor: against sorting in loops, with ties, and over ranks with a part of the rows each."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mgcda_dist.method.cacl.nearest import NOTHING, is_nearest, largest, nearness
from tests.support import reference

pytestmark = pytest.mark.usefixtures("one_thread")


def case(seed: int, anchors: int, rows: int) -> tuple[Tensor, Tensor]:
    """Cosines A×R with many ties, and rows that may be."""
    generator = torch.Generator().manual_seed(seed)
    cosine = torch.randint(-8, 9, (anchors, rows), generator=generator, dtype=torch.float64) / 8
    cosine += 1e-12 * torch.randn(anchors, rows, generator=generator, dtype=torch.float64)  # of rounding
    return cosine, torch.rand(anchors, rows, generator=generator) < 0.8


def chosen(cosine: Tensor, may_be: Tensor, k: int) -> Tensor:
    numbers = nearness(cosine, may_be, torch.arange(cosine.shape[1]))
    return is_nearest(numbers, largest(numbers, k))


SIZES = {"seed": st.integers(0, 999), "anchors": st.integers(0, 4), "rows": st.integers(0, 12), "k": st.integers(1, 14)}


@settings(max_examples=80, deadline=None)
@given(**SIZES)
def test_agrees_with_the_reference(seed: int, anchors: int, rows: int, k: int):
    cosine, may_be = case(seed, anchors, rows)
    for found, near, allowed in zip(chosen(cosine, may_be, k), cosine.tolist(), may_be.tolist(), strict=True):
        others = [reference.Row([near[r]], 0, 0, 0.0, r) for r in range(rows) if allowed[r]]
        wanted = reference.nearest_of(reference.Row([1.0], 0, 0, 0.0, -1), others, k)
        assert found.nonzero().flatten().tolist() == sorted(row.id for row in wanted)


@settings(max_examples=80, deadline=None)
@given(**SIZES, size=st.integers(1, 4))
def test_ranks_that_hold_a_part_of_the_rows_choose_the_same(seed: int, anchors: int, rows: int, k: int, size: int):
    cosine, may_be = case(seed, anchors, rows)
    parts = [torch.arange(rows)[rank::size] for rank in range(size)]
    numbers = [nearness(cosine[:, part], may_be[:, part], part) for part in parts]
    top = largest(torch.cat([largest(each, k) for each in numbers], dim=1), k)
    together = torch.zeros_like(may_be)
    for part, each in zip(parts, numbers, strict=True):
        together[:, part] = is_nearest(each, top)
    assert torch.equal(together, chosen(cosine, may_be, k))


def test_of_equally_near_rows_the_first_are_taken():
    assert chosen(torch.full((1, 9), 0.3), torch.ones(1, 9, dtype=torch.bool), 4).tolist() == [[True] * 4 + [False] * 5]


def test_numbers_hold_every_cosine_and_row():
    ends = nearness(torch.tensor([[1.0, -1.0, float("nan")]]), torch.ones(1, 3, dtype=torch.bool), torch.arange(3))
    assert ends[0, 0] > ends[0, 2] > ends[0, 1] > NOTHING
    last = torch.tensor([0, 2**32 - 1])
    near, far = nearness(torch.tensor([[0.5, 0.5]]), torch.ones(1, 2, dtype=torch.bool), last)[0]
    assert near > far > nearness(torch.tensor([[0.5 - 2**-15]]), torch.ones(1, 1, dtype=torch.bool), last[:1])[0, 0]

"""The rows nearest to an anchor: against sorting in loops, with ties, and over ranks with a part of the rows each."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mgcda_dist.method.cacl.nearest import is_nearest, largest, nearness
from tests.support import reference

pytestmark = pytest.mark.usefixtures("one_thread")


def case(seed: int, anchors: int, rows: int) -> tuple[Tensor, Tensor]:
    """Cosines A×R with many ties, and rows that may be."""
    generator = torch.Generator().manual_seed(seed)
    cosine = torch.randint(-8, 9, (anchors, rows), generator=generator).to(torch.float64) / 8
    cosine += 1e-12 * torch.randn(anchors, rows, generator=generator, dtype=torch.float64)  # of rounding
    return cosine, torch.rand(anchors, rows, generator=generator) < 0.8


def chosen(cosine: Tensor, may_be: Tensor, k: int) -> Tensor:
    numbers = nearness(cosine / 0.1, may_be, 0.1)
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
    numbers = [nearness(cosine[:, part] / 0.1, may_be[:, part], 0.1) for part in parts]
    top = largest(torch.cat([largest(each, k) for each in numbers], dim=1), k)
    together = torch.zeros_like(may_be)
    for part, each in zip(parts, numbers, strict=True):
        together[:, part] = is_nearest(each, top)
    assert torch.equal(together, chosen(cosine, may_be, k))


def test_of_equally_near_rows_all_are_taken():
    allowed = torch.ones(1, 9, dtype=torch.bool)
    assert chosen(torch.full((1, 9), 0.3), allowed, 4).all(), "neither their order nor rounding chooses"
    cosine = torch.tensor([[0.9, 0.1, 0.5, 0.5, 0.5 + 1e-7, 0.8, 0.2, 0.5 - 1e-4, -0.5]])
    assert chosen(cosine, allowed, 3)[0].nonzero().flatten().tolist() == [0, 2, 3, 4, 5]
    assert chosen(cosine, allowed, 2)[0].nonzero().flatten().tolist() == [0, 5]

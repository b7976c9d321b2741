"""Parts of the contrast with rows that have two forms: of all rows, and of few chosen ones."""

from __future__ import annotations

import pytest
import torch

from mgcda_dist.method.cacl.rows import push_apart, push_apart_few

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
@pytest.mark.parametrize(("anchors", "rows"), [(7, 20), (3, 1), (0, 5), (4, 0)])
def test_few_negatives_repel_as_a_mask_over_all_rows_does(anchors: int, rows: int, share: float):
    generator = torch.Generator().manual_seed(0)
    similarity = torch.randn(anchors, rows, generator=generator, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(anchors, rows, generator=generator) < share
    found, wanted = push_apart_few(similarity, mask), push_apart(similarity, mask)
    some = mask.any(dim=1)
    torch.testing.assert_close(found[some], wanted[some])
    assert (found[~some] < -1e8).all()
    weight = torch.randn(anchors, generator=generator, dtype=torch.float64) * some
    (gradient,) = torch.autograd.grad((found * weight).sum(), similarity)
    (expected,) = torch.autograd.grad((wanted * weight).sum(), similarity)
    torch.testing.assert_close(gradient, expected)

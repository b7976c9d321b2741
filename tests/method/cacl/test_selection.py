"""The choice of positives and negatives: each anchor's own positives, and draws that do not know of each other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mgcda_dist.method.cacl.queue import PixelMetadata
from mgcda_dist.method.cacl.selection import Choice, PositiveOrder, Selection
from mgcda_dist.method.randomness import stream_key, uniform

pytestmark = pytest.mark.usefixtures("one_thread")

ANOMALY_TYPE, DOMAINS, ANCHORS = 3, 2, 20

# 20 anchors of type 0 in domain 0, 30 rows of type 0 in domain 1, 100 anomalies.
TYPE = torch.tensor([0] * 50 + [ANOMALY_TYPE] * 100)
DOMAIN = torch.tensor([0] * ANCHORS + [1] * 30 + [0] * 100)
ROWS = PixelMetadata(TYPE, DOMAIN, torch.zeros(150), torch.arange(150))
ALL, OWN = torch.arange(150), torch.arange(ANCHORS)


def drawn(step: int, **other_steps: int) -> Callable[[str], Tensor]:
    """Draws of a step; those of the purposes in `other_steps` are of other ones."""
    return lambda purpose: uniform(stream_key(other_steps.get(purpose, step), purpose), torch.tensor(0), ROWS.id)


def positives(order: PositiveOrder, anchors: Tensor) -> Tensor:
    """P_i of anchors among all rows, A×R bool."""
    place, counts = order.columns(anchors, ALL, torch.ones_like(ALL, dtype=torch.bool))
    mask = torch.zeros(len(anchors), 151, dtype=torch.bool)
    return mask.scatter(1, torch.where(counts, place, 150), True)[:, :150]


def chosen(selection: Selection, draw: Callable[[str], Tensor]) -> tuple[Tensor, Tensor]:
    """P_i and N_i of the anchors among all rows."""
    choice = Choice.of(ROWS, num_domains=DOMAINS, anomaly_type=ANOMALY_TYPE, selection=selection, draw=draw)
    return positives(choice.order, OWN), choice.is_negative & choice.of_other_kind(OWN, ALL)


def test_anchors_of_a_type_and_domain_share_their_positives_or_have_their_own():
    shared, _ = chosen(Selection(num_positives=4), drawn(0))
    assert len({tuple(row) for row in shared.tolist()}) == 1
    own, _ = chosen(Selection(num_positives=4, positives="per_anchor"), drawn(0))
    assert len({tuple(row) for row in own.tolist()}) > ANCHORS / 2
    assert (own.sum(dim=1) == 4).all()
    assert not own[:, :ANCHORS].any(), "all are of the other domain, which has enough"


def test_every_row_is_a_positive_as_often_as_any_other():
    times = sum(chosen(Selection(4, positives="per_anchor"), drawn(step))[0].sum(dim=0)[20:50] for step in range(60))
    # 60 · 20 · 4 / 30 = 160 on average; a row of a shared draw would be taken 0 or 20 times a step.
    assert isinstance(times, Tensor) and times.min() > 100 and times.max() < 220


def test_an_anchor_of_the_own_domain_is_no_positive_of_its_own():
    own, _ = chosen(Selection(45, positives="per_anchor"), drawn(0))
    assert not own[OWN, OWN].any()
    assert (own.sum(dim=1) == 45).all() and own[:, 20:50].all(), "30 of the other domain, then 15 of the own"


@pytest.mark.parametrize("limit", [1, 25, 60])
@pytest.mark.parametrize("cross_domain", [True, False])
def test_positives_that_cross_domains_are_those_that_are_taken(limit: int, cross_domain: bool):
    for domain in (DOMAIN, torch.zeros_like(DOMAIN), torch.arange(150) % 2):
        rows = PixelMetadata(TYPE, domain, torch.zeros(150), torch.arange(150))
        selection = Selection(limit, cross_domain=cross_domain)
        order = Choice.of(
            rows, num_domains=DOMAINS, anomaly_type=ANOMALY_TYPE, selection=selection, draw=drawn(0)
        ).order
        taken = positives(order, ALL)
        assert torch.equal(order.num_positives(), taken.sum(dim=1))
        assert order.in_use().sum() <= order.max_in_use
        assert torch.equal(order.num_crossing(), (taken & (domain.unsqueeze(1) != domain)).sum(dim=1))


@pytest.mark.parametrize("purpose", ["contrast", "positives", "turn"])
def test_positives_per_anchor_and_negatives_have_draws_of_their_own(purpose: str):
    selection = Selection(4, 12, 0.0, positives="per_anchor")
    (positives, negatives), (p, n) = chosen(selection, drawn(0)), chosen(selection, drawn(0, **{purpose: 1}))
    assert torch.equal(n, negatives) == (purpose != "contrast")
    assert torch.equal(p, positives) == (purpose == "contrast")

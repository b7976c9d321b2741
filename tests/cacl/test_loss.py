"""L_cacl against its formula, with and without memory; its gradients; anchors, positives and negatives at the edges."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from mgcda_dist.cacl import CACL, Budget, Selection
from mgcda_dist.cacl.loss import contrastive_sum, count_anchors
from mgcda_dist.cacl.queue import Rows
from mgcda_dist.collectives import Collectives
from mgcda_dist.randomness import stream_key
from tests.support import reference

ANOMALY_TYPE, DOMAINS, DIM = 3, 3, 5
KEY = stream_key(1, 2, "contrast")


def rows_of(types: list[int], seed: int, *, memory: bool = False, scale: float = 1.0) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    n = len(types)
    z = scale * F.normalize(torch.randn(n, DIM, generator=generator, dtype=torch.float64), dim=1)
    names = torch.randperm(200, generator=generator)[:n]
    return Rows(
        z,
        torch.tensor(types, dtype=torch.int64),
        torch.randint(DOMAINS, (n,), generator=generator),
        -1 - names if memory else names,
    )


def as_list(rows: Rows) -> list[reference.Row]:
    columns = (rows.z.tolist(), rows.type.tolist(), rows.domain.tolist(), rows.id.tolist())
    return [reference.Row(*row) for row in zip(*columns, strict=True)]


def found(anchors: Rows, candidates: Rows, selection: Selection, temperature: float = 0.1) -> Tensor:
    return contrastive_sum(
        anchors, candidates, anomaly_type=ANOMALY_TYPE, temperature=temperature, selection=selection, key=KEY
    )


def expected(anchors: Rows, candidates: Rows, selection: Selection, temperature: float = 0.1) -> tuple[float, int]:
    return reference.contrastive(
        as_list(anchors),
        as_list(candidates),
        anomaly_type=ANOMALY_TYPE,
        temperature=temperature,
        num_positives=selection.num_positives,
        num_negatives=selection.num_negatives,
        hard_fraction=selection.hard_negative_fraction,
        cross_domain=selection.cross_domain,
        draw=lambda anchor, candidate: reference.uniform(KEY, anchor, candidate),
    )


TYPES = st.lists(st.integers(0, ANOMALY_TYPE), max_size=18)


@settings(max_examples=120, deadline=None)
@given(
    batch=TYPES,
    memory=TYPES,
    num_positives=st.integers(1, 6),
    num_negatives=st.integers(0, 9),
    hard=st.sampled_from([0.0, 0.34, 0.5, 1.0]),
    cross_domain=st.booleans(),
    temperature=st.sampled_from([0.07, 0.1, 1.0]),
    seed=st.integers(0, 99),
)
def test_agrees_with_the_formula(
    batch: list[int],
    memory: list[int],
    num_positives: int,
    num_negatives: int,
    hard: float,
    cross_domain: bool,
    temperature: float,
    seed: int,
):
    rows = rows_of(batch, seed)
    candidates = Rows.concat(rows, rows_of(memory, seed + 100, memory=True))
    selection = Selection(num_positives, num_negatives, hard, cross_domain)
    total, count = expected(rows, candidates, selection, temperature)
    # softplus is linear from 20 on, which is e^-20 per pair off.
    assert found(rows, candidates, selection, temperature).item() == pytest.approx(total, abs=1e-7)
    assert count_anchors(rows.type, candidates.type, ANOMALY_TYPE).item() == count


def test_the_sum_over_parts_of_the_anchors_is_the_sum_over_all():
    rows = rows_of([0, 1, 2, 3] * 5, 4)
    selection = Selection(4, 6, 0.5, True)
    parts = [Rows(rows.z[i::3], rows.type[i::3], rows.domain[i::3], rows.id[i::3]) for i in range(3)]
    total = sum(found(part, rows, selection).item() for part in parts)
    assert total == pytest.approx(found(rows, rows, selection).item(), abs=1e-12)


@pytest.mark.parametrize("temperature", [0.3, 1.0])
@pytest.mark.parametrize("selection", [Selection(3, 4, 0.5, True), Selection(50, 50, 1.0, False)])
def test_gradient(temperature: float, selection: Selection):
    rows = rows_of([0, 1, 0, 3, 3, 1, 2], 8)
    memory = rows_of([0, 3, 2], 9, memory=True)

    def loss(z: Tensor) -> Tensor:
        batch = Rows(z, rows.type, rows.domain, rows.id)
        return found(batch, Rows.concat(batch, memory), selection, temperature)

    assert torch.autograd.gradcheck(loss, rows.z.requires_grad_())


def test_gradients_reach_anchors_positives_and_negatives_but_not_the_memory():
    rows = rows_of([0, 0, 3], 1)
    rows.z.requires_grad_()
    memory = rows_of([0, 3], 2, memory=True)
    anchor = Rows(rows.z[:1], rows.type[:1], rows.domain[:1], rows.id[:1])
    found(anchor, Rows.concat(rows, memory), Selection(9, 9, 1.0, True)).backward()
    assert rows.z.grad is not None and bool((rows.z.grad.abs().sum(dim=1) > 1e-9).all())
    assert memory.z.grad is None


# --------------------------------------------------------------------------------------- which rows are chosen, by hand


def choice(types: list[int], domains: list[int], z: Tensor, selection: Selection) -> list[bool]:
    """Which rows the first one was contrasted with: those its loss depends on."""
    z = z.clone().double().requires_grad_()
    rows = Rows(z, torch.tensor(types), torch.tensor(domains), torch.arange(len(types)))
    anchor = Rows(rows.z[:1].detach(), rows.type[:1], rows.domain[:1], rows.id[:1])
    found(anchor, rows, selection, temperature=1.0).backward()
    assert z.grad is not None
    return (z.grad.abs().sum(dim=1) > 0).tolist()


def test_positives_come_from_other_domains_first():
    z = torch.ones(7, 2)
    types, domains = [0, 0, 0, 0, 0, 3, 1], [1, 1, 0, 2, 1, 0, 0]
    one = Selection(2, 9, 1.0, True)
    assert choice(types, domains, z, one) == [False, False, True, True, False, True, False]
    same = Selection(2, 9, 1.0, False)
    assert choice(types, domains, z, same) == [False, True, False, False, True, True, False]
    three = choice(types, domains, z, Selection(3, 9, 1.0, True))
    assert three[2] and three[3] and three[1] != three[4], "then from the own domain"


def test_hard_negatives_are_the_nearest():
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.9, 0.0], [-1.0, 0.0], [0.5, 0.0], [0.7, 0.0]])
    types, domains = [0, 0, 3, 3, 3, 3], [0, 1, 0, 1, 2, 0]
    assert choice(types, domains, z, Selection(1, 2, 1.0, True)) == [False, True, True, False, False, True]


def test_half_of_the_negatives_is_drawn_from_the_rest():
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0]] + [[1.0 - i / 50, 0.0] for i in range(40)])
    types, domains = [0, 0] + [3] * 40, [0] * 42
    chosen = choice(types, domains, z, Selection(1, 10, 0.5, True))[2:]
    assert sum(chosen) == 10 and all(chosen[:5]) and not all(chosen[:10])


def test_inliers_of_another_class_are_neither_positive_nor_negative():
    z = torch.ones(4, 2)
    assert choice([0, 0, 1, 2], [0, 0, 0, 0], z, Selection(9, 9, 1.0, True)) == [False] * 4  # no negative: loss 0
    assert choice([0, 0, 1, 3], [0, 0, 0, 0], z, Selection(9, 9, 1.0, True)) == [False, True, False, True]


# ------------------------------------------------------------------------------------------------------------ the edges


@pytest.mark.parametrize(
    ("batch", "memory"),
    [([], []), ([], [0, 3]), ([0], []), ([3], []), ([0, 1, 2, 3], []), ([0, 0, 1, 1], []), ([3, 3], []), ([3], [0, 1])],
)
def test_edges_are_finite_touch_the_rows_and_count_right(batch: list[int], memory: list[int]):
    rows = rows_of(batch, 1)
    rows.z.requires_grad_()
    candidates = Rows.concat(rows, rows_of(memory, 2, memory=True))
    selection = Selection(4, 6, 0.5, True)
    total = found(rows, candidates, selection)
    total.backward()
    value, count = expected(rows, candidates, selection)
    assert total.item() == pytest.approx(value, abs=1e-9)
    assert count_anchors(rows.type, candidates.type, ANOMALY_TYPE).item() == count
    assert rows.z.grad is not None and rows.z.grad.isfinite().all()


def test_a_rank_without_anchors_touches_its_rows():
    rows = rows_of([0, 0, 3, 3], 1)
    rows.z.requires_grad_()
    none = Rows(rows.z[:0], rows.type[:0], rows.domain[:0], rows.id[:0])
    total = found(none, rows, Selection(4, 6, 0.5, True))
    total.backward()
    assert total.item() == 0.0 and rows.z.grad is not None and not rows.z.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [1e-3, 0.01])
def test_a_tiny_temperature_does_not_overflow(dtype: torch.dtype, temperature: float):
    rows = rows_of([0, 1, 3] * 6, 5)
    z = rows.z.to(dtype).requires_grad_()
    batch = Rows(z, rows.type, rows.domain, rows.id)
    total = found(batch, batch, Selection(6, 12, 0.5, True), temperature)
    total.backward()
    assert total.isfinite() and z.grad is not None and z.grad.isfinite().all()


def test_equal_rows_and_antipodes_are_finite():
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    rows = Rows(z, torch.tensor([0, 0, 3, 3]), torch.tensor([0, 1, 0, 1]), torch.arange(4))
    found(rows, rows, Selection(4, 4, 0.5, True)).backward()
    assert z.grad is not None and z.grad.isfinite().all()


# ----------------------------------------------------------------------------------------------------- the whole module


def module(queue_rows: int = 4) -> CACL:
    torch.manual_seed(0)
    return CACL(
        6, DOMAINS, Budget(ANOMALY_TYPE, 2, 1, 0.5, False), Selection(3, 4, 0.5, True), projection_dim=DIM,
        queue_rows=queue_rows,
    ).double()  # fmt: skip


def test_projection_is_unit_length_and_of_the_sampled_pixels():
    cacl = module()
    embedding = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    index = torch.tensor([[5, -1, 0, 11, 2], [1, 1, -1, -1, 7]])
    z = cacl.project(embedding, index)
    assert z.shape == (10, DIM)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(10, dtype=torch.float64))
    torch.testing.assert_close(z[3], cacl.projection(embedding[0, :, 2, 3]))
    torch.testing.assert_close(z[9], cacl.projection(embedding[1, :, 1, 3]))


def test_projection_of_bf16_is_at_least_float32():
    z = module().bfloat16().project(torch.randn(1, 6, 2, 2).bfloat16(), torch.tensor([[0, 3]]))
    assert z.dtype == torch.float32
    torch.testing.assert_close(z.norm(dim=1), torch.ones(2), rtol=1e-5, atol=0)


def test_gathered_rows_know_type_domain_and_place():
    cacl = module()
    index = torch.tensor([[4, -1, 2, -1, 0], [-1, -1, -1, 3, -1]])  # 2 anomaly rows, then one per class
    z = torch.arange(10.0).double().unsqueeze(1).expand(10, DIM)
    rows, own = cacl.gather(z, index, torch.tensor([2, 1]), Collectives())
    assert rows.id.tolist() == [0, 2, 4, 8]
    assert rows.type.tolist() == [ANOMALY_TYPE, 0, 2, 1]
    assert rows.domain.tolist() == [2, 2, 2, 1]
    assert rows.z[:, 0].tolist() == [0.0, 2.0, 4.0, 8.0]
    assert own.all()


@pytest.mark.parametrize("queue_rows", [0, 4])
def test_empty_rows_send_no_gradient(queue_rows: int):
    cacl = module(queue_rows)
    embedding = torch.randn(2, 6, 3, 4, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([[4, 5, 2, -1, 7], [1, -1, 3, 8, -1]])
    rows, own = cacl.gather(cacl.project(embedding, index), index, torch.tensor([0, 1]), Collectives())
    loss, count = cacl.share(rows, own, 3, 1)
    loss.backward()
    assert count == 5  # three anomalies, class 0 twice; classes 1 and 2 once each have no positive
    assert embedding.grad is not None
    touched = embedding.grad.abs().sum(dim=1).flatten(1) > 0
    assert not touched[0, 0] and not touched[1, 0], "pixel 0 stands in for empty rows"
    assert all(touched[0, p] for p in (4, 5, 2)) and all(touched[1, p] for p in (1, 3))


def test_nothing_sampled_touches_the_projection():
    cacl = module()
    embedding = torch.randn(2, 6, 3, 4, dtype=torch.float64, requires_grad=True)
    index = torch.full((2, 5), -1)
    rows, own = cacl.gather(cacl.project(embedding, index), index, torch.tensor([0, 1]), Collectives())
    loss, count = cacl.share(rows, own, 3, 1)
    loss.backward()
    assert loss.item() == 0.0 and count == 0
    assert all(p.grad is not None and not p.grad.any() for p in cacl.parameters())

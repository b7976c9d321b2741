"""L_cacl against its formula, with and without memory; its gradients; anchors, positives and negatives at the edges."""

from __future__ import annotations

from dataclasses import asdict
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from mgcda_dist.choices import Balance, Negatives, NegativesBy, Positives
from mgcda_dist.method.batch import Batch
from mgcda_dist.method.cacl import CACL, Budget, PixelMetadata, Selection
from mgcda_dist.method.cacl.exchange import GatheredSample, gathered_sample, start_exchange
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.method.randomness import stream_key
from mgcda_dist.method.reduce import LossTerm, StepCounts, local_mean
from tests.support import reference

ANOMALY_TYPE, DOMAINS, DIM = 3, 3, 5
pytestmark = pytest.mark.usefixtures("one_thread")

STEP = 2
ALONE = Collectives()


def rows_of(types: list[int], seed: int) -> tuple[PixelMetadata, Tensor]:
    """What is known of rows of these types, and their embeddings."""
    generator = torch.Generator().manual_seed(seed)
    n = len(types)
    z = F.normalize(torch.randn(n, DIM, generator=generator, dtype=torch.float64), dim=1)
    rows = PixelMetadata(
        torch.tensor(types, dtype=torch.int64),
        torch.randint(DOMAINS, (n,), generator=generator),
        torch.randn(n, generator=generator, dtype=torch.float64).round(),  # many are equal: the first is taken
        torch.randperm(200, generator=generator)[:n],
    )
    return rows, z


def contrasting(selection: Selection, temperature: float = 0.1, memory: list[int] | None = None) -> CACL:
    """A module whose memory holds rows of these types."""
    budget = Budget(ANOMALY_TYPE, 2, 1, 0.5, False)
    cacl = CACL(
        6, DOMAINS, budget, selection, projection_dim=DIM, queue_rows=20, temperature=temperature, seed=1
    ).double()
    cacl.queue.push(*rows_of(memory or [], 100), step=0)
    return cacl


def found(cacl: CACL, rows: PixelMetadata, z: Tensor) -> tuple[Tensor, int]:
    """Sum over the anchors, and their number."""
    total, count, _ = cacl.contrast(GatheredSample(rows, z, 200, STEP, torch.tensor(0)), ALONE)
    return total.sum(), int(count.sum())


def as_list(rows: PixelMetadata, z: Tensor) -> list[reference.Row]:
    columns = (z.tolist(), rows.type.tolist(), rows.domain.tolist(), rows.difficulty.tolist(), rows.id.tolist())
    return [reference.Row(*row) for row in zip(*columns, strict=True)]


def draw(purpose: str, row: int) -> float:
    return reference.uniform(stream_key(1, STEP, purpose), 0, row)


def terms_of(cacl: CACL, rows: PixelMetadata, z: Tensor) -> list[tuple[reference.Row, float]]:
    return reference.contrastive(
        as_list(rows, z),
        as_list(rows, z) + as_list(cacl.queue.metadata(), cacl.queue.local_rows()[1]),
        anomaly_type=ANOMALY_TYPE,
        temperature=cacl.temperature,
        draw=draw,
        **asdict(cacl.selection),
    )


def expected(cacl: CACL, rows: PixelMetadata, z: Tensor) -> tuple[float, int]:
    terms = terms_of(cacl, rows, z)
    return sum(value for _, value in terms), len(terms)


TYPES = st.lists(st.integers(0, ANOMALY_TYPE), max_size=18)


@settings(max_examples=120, deadline=None)
@given(
    batch=TYPES,
    memory=TYPES,
    num_positives=st.integers(1, 6),
    num_negatives=st.integers(0, 9),
    hard=st.sampled_from([0.0, 0.34, 0.5, 1.0]),
    cross_domain=st.booleans(),
    negatives=st.sampled_from(get_args(Negatives)),
    positives=st.sampled_from(get_args(Positives)),
    negatives_by=st.sampled_from(get_args(NegativesBy)),
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
    negatives: Negatives,
    positives: Positives,
    negatives_by: NegativesBy,
    temperature: float,
    seed: int,
):
    selection = Selection(num_positives, num_negatives, hard, cross_domain, negatives, positives, negatives_by)
    cacl = contrasting(selection, temperature, memory)
    rows, z = rows_of(batch, seed)
    total, count = expected(cacl, rows, z)
    here, anchors = found(cacl, rows, z)
    # softplus is linear from 20 on, which is e^-20 per pair off.
    assert here.item() == pytest.approx(total, abs=1e-7)
    assert anchors == count


@pytest.mark.parametrize("balance", get_args(Balance))
@pytest.mark.parametrize("types", [[0, 0, 1, 2, 2, 1, 3, 3], [0, 0, 3], [0, 3, 3], [0, 0], [3, 3], [0, 3], []])
def test_the_mean_over_anchors(types: list[int], balance: Balance):
    cacl = contrasting(Selection(3, 4, 0.5, True))
    cacl.balance = balance
    rows, z = rows_of(types, 4)
    sample = GatheredSample(rows, z, 200, STEP, torch.tensor(0))
    total, count, _ = cacl.contrast(sample, ALONE)
    wanted = reference.mean_over_anchors(terms_of(cacl, rows, z), ANOMALY_TYPE, balance)
    assert local_mean(total, count, 1).item() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("temperature", [0.3, 1.0])
@pytest.mark.parametrize(
    "selection", [Selection(3, 4, 0.5, True), Selection(50, 50, 1.0, False), Selection(3, 4, 0.5, True, "other_type")]
)
@pytest.mark.parametrize("shard", [None, (0, 1)])
def test_gradient(temperature: float, selection: Selection, shard: tuple[int, int] | None):
    cacl = contrasting(selection, temperature, [0, 3, 2])
    cacl.queue.is_sharded = shard is not None  # the sum over ranks too, of one rank
    rows, z = rows_of([0, 1, 0, 3, 3, 1, 2], 8)
    assert torch.autograd.gradcheck(lambda z: found(cacl, rows, z)[0], z.requires_grad_())


def test_micro_batches_of_a_step_draw_differently():
    rows, z = rows_of([0] * 12 + [3] * 30, 3)
    cacl = contrasting(Selection(2, 4, 0.0, True))
    samples = [GatheredSample(rows, z, 200, STEP, torch.tensor(i)) for i in (0, 4, 8)]
    assert len({cacl.contrast(sample, ALONE)[0].item() for sample in samples}) == 3


# ------------------------------------------------------------------------------------------------------------ the edges


@pytest.mark.parametrize("shard", [None, (0, 1)])
@pytest.mark.parametrize(
    ("batch", "memory"),
    [([], []), ([], [0, 3]), ([0], []), ([3], []), ([0, 1, 2, 3], []), ([0, 0, 1, 1], []), ([3, 3], []), ([3], [0, 1])],
)
def test_edges_are_finite_touch_the_rows_and_count_right(
    batch: list[int], memory: list[int], shard: tuple[int, int] | None
):
    cacl = contrasting(Selection(4, 6, 0.5, True), memory=memory)
    cacl.queue.is_sharded = shard is not None
    rows, z = rows_of(batch, 1)
    total, anchors = found(cacl, rows, z.requires_grad_())
    total.backward()
    value, count = expected(cacl, rows, z)
    assert total.item() == pytest.approx(value, abs=1e-9)
    assert anchors == count
    assert z.grad is not None and z.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [1e-3, 0.01])
def test_a_tiny_temperature_does_not_overflow(dtype: torch.dtype, temperature: float):
    rows, z = rows_of([0, 1, 3] * 6, 5)
    z = z.to(dtype).requires_grad_()
    total, _ = found(contrasting(Selection(6, 12, 0.5, True), temperature).to(dtype), rows, z)
    total.backward()
    assert total.isfinite() and z.grad is not None and z.grad.isfinite().all()


@pytest.mark.parametrize("temperature", [0.025, 0.07])
def test_the_sum_over_ranks_keeps_single_precision_down_to_the_smallest_temperature(temperature: float):
    # Antipodes are the smallest terms there are: e^{-2/T} after the shift.
    z = torch.tensor([[1.0, 0, 0, 0, 0], [1.0, 0, 0, 0, 0], [-1.0, 0, 0, 0, 0]], requires_grad=True)
    rows = PixelMetadata(torch.tensor([0, 0, 3]), torch.tensor([0, 1, 0]), torch.zeros(3), torch.arange(3))
    cacl = contrasting(Selection(4, 4, 0.5, True), temperature).float()
    cacl.queue.is_sharded = True
    total, _ = found(cacl, rows, z)
    (grad,) = torch.autograd.grad(total, z)
    cacl.queue.is_sharded = False
    wanted, _ = found(cacl, rows, z)
    (wanted_grad,) = torch.autograd.grad(wanted, z)
    assert total.item() == pytest.approx(wanted.item(), rel=1e-4, abs=1e-30)
    torch.testing.assert_close(grad, wanted_grad, rtol=1e-4, atol=1e-30)


# ----------------------------------------------------------------------------------------------------- the whole module


def module(queue_rows: int = 4) -> CACL:
    torch.manual_seed(0)
    return CACL(
        6, DOMAINS, Budget(ANOMALY_TYPE, 2, 1, 0.5, False), Selection(3, 4, 0.5, True), projection_dim=DIM,
        queue_rows=queue_rows,
    ).double()  # fmt: skip


def of_domains(*domains: int) -> Batch:
    slot = torch.arange(len(domains))
    return Batch(torch.empty(0), torch.empty(0), torch.tensor(domains), slot, step=3)


def loss_of(cacl: CACL, embedding: Tensor, index: Tensor, difficulty: Tensor) -> LossTerm:
    """L_cacl of these pixels of two images, of domains 0 and 1."""
    pending = start_exchange(cacl.project(embedding, index), index, difficulty, of_domains(0, 1), ALONE)
    return cacl(pending, StepCounts({}, 1, ALONE))[0]


def test_projection_is_unit_length_and_of_the_sampled_pixels():
    cacl = module()
    embedding = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    index = torch.tensor([[5, -1, 0, 11, 2], [1, 1, -1, -1, 7]])
    z = cacl.project(embedding, index)
    assert z.shape == (10, DIM)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(10, dtype=torch.float64))
    torch.testing.assert_close(z[3], cacl.projection(embedding[0, :, 2, 3]))
    torch.testing.assert_close(z[9], cacl.projection(embedding[1, :, 1, 3]))


def test_the_gradient_of_the_embedding_lies_in_memory_as_the_embedding_does():
    """Channels last; a sum of gradients in two layouts, and each convolution before it, would copy them."""
    embedding = torch.randn(2, 6, 3, 4, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()
    seen: list[Tensor] = []
    passed = embedding * 1.0
    passed.register_hook(seen.append)
    module().project(passed, torch.tensor([[5, -1, 0], [1, 1, 7]])).sum().backward()
    (gradient,) = seen
    assert passed.is_contiguous(memory_format=torch.channels_last) and gradient.stride() == passed.stride()


def test_projection_of_bf16_is_at_least_float32():
    z = module().bfloat16().project(torch.randn(1, 6, 2, 2).bfloat16(), torch.tensor([[0, 3]]))
    assert z.dtype == torch.float32
    torch.testing.assert_close(z.norm(dim=1), torch.ones(2), rtol=1e-5, atol=0)


def test_gathered_rows_know_type_domain_and_place():
    cacl = module()
    index = torch.tensor([[4, -1, 2, -1, 0], [-1, -1, -1, 3, -1]])  # 2 anomaly rows, then one per class
    z = torch.arange(10.0).double().unsqueeze(1).expand(10, DIM)
    difficulty = torch.arange(10.0).view(2, 5).double()
    pending = start_exchange(z, index, difficulty, of_domains(2, 1), ALONE)
    rows, z, num_reserved, step, first_slot = gathered_sample(pending, cacl.budget, ALONE)
    assert (step, first_slot.item()) == (3, 0)
    assert len(rows) == cacl.budget.max_rows(2) == 10, "empty rows are there, too: shapes do not depend on the data"
    assert rows.is_filled.tolist() == [True] * 4 + [False] * 6
    filled = rows.where(rows.is_filled)
    assert filled.id.tolist() == [0, 2, 4, 8]
    assert filled.type.tolist() == [ANOMALY_TYPE, 0, 2, 1]
    assert filled.domain.tolist() == [2, 2, 2, 1]
    assert z[:4, 0].tolist() == [0.0, 2.0, 4.0, 8.0]
    assert filled.difficulty.tolist() == [4.0, 2.0, 0.0, 8.0]
    assert num_reserved == 10


def test_so_many_rows_at_most_are_gathered_those_with_the_smallest_draws():
    cacl = module()
    index = torch.tensor([[4, 2, 0], [-1, 3, 1]])  # of five rows that are reserved
    row = torch.tensor([[0, 2, 4], [1, 3, 4]])
    z = torch.arange(6.0).double().unsqueeze(1).expand(6, DIM)
    pending = start_exchange(z, index, torch.zeros(2, 5).double(), of_domains(2, 1), ALONE, row=row)
    whole = gathered_sample(pending, cacl.budget, ALONE)
    assert whole.num_reserved == 6 and whole.metadata.id[:5].tolist() == [0, 2, 4, 8, 9]
    assert whole.metadata.type.tolist()[:5] == [ANOMALY_TYPE, 0, 2, 1, 2] and whole.metadata.is_filled.sum() == 5
    chances = {0: 0.5, 2: 0.9, 4: 0.1, 8: 0.3, 9: 0.7}

    def draw(ids: torch.Tensor) -> torch.Tensor:
        return torch.tensor([chances.get(each, 0.0) for each in ids.tolist()], dtype=torch.float64)

    few = gathered_sample(pending, cacl.budget, ALONE, 3, draw)
    assert few.metadata.id.tolist() == [0, 4, 8] and few.z[:, 0].tolist() == [0.0, 2.0, 4.0]
    assert few.metadata.is_filled.all()


def test_rows_that_travel_in_bf16_are_rounded_and_their_gradient_is_not():
    index, difficulty = torch.tensor([[4, 2, 0, 1, 3]]), torch.rand(1, 5).double()
    z = torch.rand(5, DIM, dtype=torch.float64, requires_grad=True)
    pending = start_exchange(z, index, difficulty, of_domains(1), ALONE, dtype="bf16")
    found = gathered_sample(pending, module().budget, ALONE)
    assert torch.equal(found.z, z.bfloat16().double()) and not torch.equal(found.z, z)
    assert torch.equal(found.metadata.difficulty, difficulty[0, index[0]])
    weights = torch.rand(5, DIM, dtype=torch.float64)
    (found.z * weights).sum().backward()
    assert z.grad is not None and torch.equal(z.grad, weights)


@pytest.mark.parametrize("queue_rows", [0, 4])
def test_empty_rows_send_no_gradient(queue_rows: int):
    cacl = module(queue_rows)
    embedding = torch.randn(2, 6, 3, 4, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([[4, 5, 2, -1, 7], [1, -1, 3, 8, -1]])
    difficulty = torch.zeros(2, 12, dtype=torch.float64)
    term = loss_of(cacl, embedding, index, difficulty)
    term.local_loss.backward()
    assert term.sums["cacl/anchors"] == 5  # three anomalies, class 0 twice; classes 1 and 2 once each have no positive
    assert embedding.grad is not None
    touched = embedding.grad.abs().sum(dim=1).flatten(1) > 0
    assert not touched[0, 0] and not touched[1, 0], "pixel 0 stands in for empty rows"
    assert all(touched[0, p] for p in (4, 5, 2)) and all(touched[1, p] for p in (1, 3))


def test_nothing_sampled_touches_the_projection():
    cacl = module()
    embedding = torch.randn(2, 6, 3, 4, dtype=torch.float64, requires_grad=True)
    index = torch.full((2, 5), -1)
    difficulty = torch.zeros(2, 12, dtype=torch.float64)
    term = loss_of(cacl, embedding, index, difficulty)
    term.local_loss.backward()
    assert term.local_loss.item() == 0.0 == term.sums["cacl/anchors"]
    assert all(p.grad is not None and not p.grad.any() for p in cacl.parameters())

"""The memory: rings per (domain, side), order, wrapping, and what leaves no room for surprises in a checkpoint."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mgcda_dist.method.cacl.queue import MemoryQueue, PixelMetadata, few_per_image
from mgcda_dist.method.randomness import uniform
from mgcda_dist.method.reduce import read_scalars
from tests.support import reference
from tests.support.tiny import lively, tiny_batch

DOMAINS, CLASSES, DIM = 3, 2, 4

pytestmark = pytest.mark.usefixtures("one_thread")


def rows_of(kinds: list[tuple[int, int]], seed: int) -> tuple[PixelMetadata, Tensor]:
    """Rows of the given (type, domain), and their embeddings."""
    generator = torch.Generator().manual_seed(seed)
    rows = PixelMetadata(
        torch.tensor([kind for kind, _ in kinds], dtype=torch.int64),
        torch.tensor([domain for _, domain in kinds], dtype=torch.int64),
        torch.randn(len(kinds), generator=generator, dtype=torch.float64),
        torch.arange(len(kinds)),
    )
    return rows, torch.randn(len(kinds), DIM, generator=generator, dtype=torch.float64)


def as_list(rows: PixelMetadata, z: Tensor) -> list[reference.Row]:
    columns = (z.tolist(), rows.type.tolist(), rows.domain.tolist(), rows.difficulty.tolist(), rows.id.tolist())
    return [reference.Row(*row) for row in zip(*columns, strict=True)]


def content(queue: MemoryQueue) -> list[reference.Row]:
    index, z = queue.local_rows()
    assert index.tolist() == list(range(len(queue.metadata()))), "replicated: all rows are here"
    return as_list(queue.metadata(), z)


PUSHES = st.lists(
    st.lists(st.tuples(st.integers(0, CLASSES), st.integers(0, DOMAINS - 1)), max_size=14), min_size=1, max_size=6
)


@settings(max_examples=80, deadline=None)
@given(pushes=PUSHES, capacity=st.integers(0, 6))
def test_agrees_with_lists(pushes: list[list[tuple[int, int]]], capacity: int):
    queue = MemoryQueue(DOMAINS, CLASSES, capacity, DIM).double()
    memory = reference.Memory(DOMAINS, CLASSES, capacity)
    for step, kinds in enumerate(pushes):
        rows, z = rows_of(kinds, step)
        queue.push(rows, z, step)
        memory.push(as_list(rows, z), step)
        assert content(queue) == memory.rows()
        assert queue.cursor.tolist() == memory.cursors
        steps = [[-1 if place is None else place[3] for place in ring] for ring in memory.places]
        assert queue.steps.tolist() == steps


def test_what_was_read_does_not_change_when_rows_enter():
    queue = MemoryQueue(1, CLASSES, 2, DIM).double()
    queue.push(*rows_of([(0, 0)] * 2, 0), 0)
    _, read = queue.local_rows()
    copy = read.clone()
    queue.push(*rows_of([(0, 0)] * 2, 1), 1)
    assert torch.equal(read, copy) and not torch.equal(queue.local_rows()[1], copy)


def test_rows_enter_without_their_graph():
    queue = MemoryQueue(1, CLASSES, 2, DIM).double()
    rows, z = rows_of([(0, 0)], 0)
    queue.push(rows, z.requires_grad_() * 2, 0)
    assert not queue.local_rows()[1].requires_grad


def test_health_tells_fill_and_age():
    assert MemoryQueue(2, CLASSES, 0, DIM).signals(0) == {}, "without capacity there is no memory"
    queue = MemoryQueue(2, CLASSES, 4, DIM).double()
    empty = {"queue_fill_inlier": 0.0, "queue_fill_anomaly": 0.0, "queue_age_steps": 0.0}
    assert read_scalars(queue.signals(0)) == empty
    queue.push(*rows_of([(0, 0), (1, 0), (CLASSES, 1)], 0), 2)
    queue.push(*rows_of([(0, 0)], 1), 6)
    health = read_scalars(queue.signals(10))
    assert health["queue_fill_inlier"] == pytest.approx(3 / 8)
    assert health["queue_fill_anomaly"] == pytest.approx(1 / 8)
    assert health["queue_age_steps"] == pytest.approx((8 * 3 + 4) / 4)


# ------------------------------------------------------------------------------------------------------ sharded


def sharded(size: int, capacity: int) -> list[MemoryQueue]:
    return [MemoryQueue(DOMAINS, CLASSES, capacity, DIM, shard=(rank, size)).double() for rank in range(size)]


def together(queues: list[MemoryQueue]) -> list[reference.Row]:
    """The rows of all shards in order; every row is held once."""
    rows = queues[0].metadata()
    z = torch.full((len(rows), DIM), torch.nan, dtype=torch.float64)
    for queue in queues:
        index, part = queue.local_rows()
        assert z[index].isnan().all(), "a row is held twice"
        z[index] = part
    return as_list(rows, z)


@settings(max_examples=60, deadline=None)
@given(pushes=PUSHES, capacity=st.integers(0, 7), size=st.integers(1, 4))
def test_the_shards_together_are_the_replicated_memory(pushes: list[list[tuple[int, int]]], capacity: int, size: int):
    whole, queues = MemoryQueue(DOMAINS, CLASSES, capacity, DIM).double(), sharded(size, capacity)
    for step, kinds in enumerate(pushes):
        rows, z = rows_of(kinds, step)
        for queue in (whole, *queues):
            queue.push(rows, z, step)
    assert together(queues) == content(whole)
    assert all(queue.z.shape[1] == -(-capacity // size) for queue in queues)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 4), (4, 3), (3, 3)])
def test_shards_are_dealt_anew_at_another_world_size(before: int, after: int):
    old, new = sharded(before, 7), sharded(after, 7)
    for step in range(4):
        for queue in old:
            queue.push(*rows_of([(0, 0), (1, 0), (CLASSES, 2), (0, 1)] * 2, step), step)
    for queue in new:
        queue.load_state_dict(old[0].state_dict())  # what is known of the rows is equal on every rank
        queue.load_shards(other.shard_state() for other in reversed(old))
    assert together(new) == together(old)


def test_a_missing_or_foreign_shard_is_refused():
    queues = sharded(3, 7)
    with pytest.raises(ValueError, match=r"only \[0, 2\]"):
        queues[1].load_shards([queues[0].shard_state(), queues[2].shard_state()])
    with pytest.raises(ValueError, match="wanted is"):
        queues[1].load_shards(queue.shard_state() for queue in sharded(3, 20))


# -------------------------------------------------------------------------------------------------- what may enter


@settings(max_examples=60, deadline=None)
@given(places=st.lists(st.integers(0, 23), max_size=16, unique=True), limit=st.integers(1, 4), seed=st.integers(0, 9))
def test_few_rows_per_image_and_type(places: list[int], limit: int, seed: int):
    """Eight rows of each of three images; types go by place."""
    types, id_ = torch.tensor(places, dtype=torch.int64) % (CLASSES + 1), torch.tensor(places, dtype=torch.int64)
    mask = few_per_image(id_ // 8, types, uniform(seed, id_), limit)
    rows = [reference.Row([], place % (CLASSES + 1), 0, 0.0, place) for place in places]
    wanted = reference.few_per_image(rows, 8, limit, lambda _, row: reference.uniform(seed, row))
    assert id_[mask].tolist() == [row.id for row in wanted]


def test_few_rows_of_an_image_make_a_memory_of_many_steps():
    """The same images, one row of each type or all: rings of 20 rows span more than twice as many steps."""
    spans: list[int] = []
    for rows_per_image in (None, 1):
        model = lively(queue_rows=20, queue_rows_per_image=rows_per_image)
        assert model.cacl is not None
        for step in range(12):
            outcome = model(tiny_batch(step), 0.5)
            model.commit([outcome], model.total([outcome]))
        steps = model.cacl.queue.steps[0]  # inliers of domain 0
        spans.append(int(steps.max() - steps.min()) + 1)
    assert spans[1] > 2 * spans[0] > 0

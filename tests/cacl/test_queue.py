"""The memory: rings per (domain, side), order, wrapping, and what leaves no room for surprises in a checkpoint."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mgcda_dist.cacl.queue import MemoryQueue, Rows
from tests.support import reference

DOMAINS, CLASSES, DIM = 3, 2, 4


def rows_of(kinds: list[tuple[int, int]], seed: int) -> Rows:
    """Rows of the given (type, domain)."""
    generator = torch.Generator().manual_seed(seed)
    return Rows(
        torch.randn(len(kinds), DIM, generator=generator, dtype=torch.float64),
        torch.tensor([kind for kind, _ in kinds], dtype=torch.int64),
        torch.tensor([domain for _, domain in kinds], dtype=torch.int64),
        torch.arange(len(kinds)),
    )


def as_list(rows: Rows) -> list[reference.Row]:
    return [
        reference.Row(z, kind, domain, name)
        for z, kind, domain, name in zip(
            rows.z.tolist(), rows.type.tolist(), rows.domain.tolist(), rows.id.tolist(), strict=True
        )
    ]


PUSHES = st.lists(
    st.lists(st.tuples(st.integers(0, CLASSES), st.integers(0, DOMAINS - 1)), max_size=14), min_size=1, max_size=6
)


@settings(max_examples=80, deadline=None)
@given(pushes=PUSHES, capacity=st.integers(0, 6))
def test_agrees_with_lists(pushes: list[list[tuple[int, int]]], capacity: int):
    queue = MemoryQueue(DOMAINS, CLASSES, capacity, DIM).double()
    memory = reference.Memory(DOMAINS, CLASSES, capacity)
    for step, kinds in enumerate(pushes):
        rows = rows_of(kinds, step)
        queue.push(rows, step)
        memory.push(as_list(rows), step)
        assert as_list(queue.rows()) == memory.rows()
        assert queue.cursor.tolist() == memory.cursors
        steps = [[-1 if place is None else place[2] for place in ring] for ring in memory.places]
        assert queue.steps.tolist() == steps


def test_of_more_rows_than_a_ring_holds_the_last_stay():
    queue = MemoryQueue(1, CLASSES, 3, DIM).double()
    rows = rows_of([(0, 0)] * 8, seed=0)
    queue.push(rows, 0)
    kept = queue.rows()
    assert sorted(kept.z[:, 0].tolist()) == sorted(rows.z[-3:, 0].tolist())
    assert queue.cursor.tolist() == [8 % 3, 0]


def test_frequent_inliers_never_push_out_an_anomaly():
    queue = MemoryQueue(2, CLASSES, 4, DIM).double()
    queue.push(rows_of([(CLASSES, 1)], seed=0), 0)
    for step in range(1, 20):
        queue.push(rows_of([(0, 0), (1, 1)] * 6, seed=step), step)
    anomalies = queue.rows().type == CLASSES
    assert anomalies.sum() == 1 and queue.rows().domain[anomalies].tolist() == [1]


def test_ids_are_negative_unique_and_bound_to_the_place():
    queue = MemoryQueue(DOMAINS, CLASSES, 5, DIM).double()
    queue.push(rows_of([(0, 0), (CLASSES, 2), (1, 1)], 0), 0)
    before = queue.rows().id.tolist()
    assert max(before) < 0 and len(set(before)) == len(before)
    queue.push(rows_of([(0, 0)], 1), 1)
    assert set(before) < set(queue.rows().id.tolist())


def test_what_was_read_does_not_change_when_rows_enter():
    queue = MemoryQueue(1, CLASSES, 2, DIM).double()
    queue.push(rows_of([(0, 0)] * 2, 0), 0)
    read = queue.rows()
    copy = read.z.clone()
    queue.push(rows_of([(0, 0)] * 2, 1), 1)
    assert torch.equal(read.z, copy) and not torch.equal(queue.rows().z, copy)


def test_rows_enter_without_their_graph():
    queue = MemoryQueue(1, CLASSES, 2, DIM).double()
    rows = rows_of([(0, 0)], 0)
    rows.z.requires_grad_()
    queue.push(Rows(rows.z * 2, rows.type, rows.domain, rows.id), 0)
    assert not queue.rows().z.requires_grad


def test_all_state_is_in_buffers():
    queue = MemoryQueue(DOMAINS, CLASSES, 3, DIM).double()
    for step in range(3):
        queue.push(rows_of([(step % 3, 1), (0, 0), (0, 0)], step), step)
    restored = MemoryQueue(DOMAINS, CLASSES, 3, DIM).double()
    restored.load_state_dict(queue.state_dict())
    for one in (queue, restored):
        one.push(rows_of([(0, 0), (1, 2)], 9), 9)
    assert as_list(queue.rows()) == as_list(restored.rows())


def test_health_tells_fill_and_age():
    queue = MemoryQueue(2, CLASSES, 4, DIM).double()
    assert queue.health(0) == {"queue_fill_inlier": 0.0, "queue_fill_anomaly": 0.0, "queue_age_steps": 0.0}
    queue.push(rows_of([(0, 0), (1, 0), (CLASSES, 1)], 0), 2)
    queue.push(rows_of([(0, 0)], 1), 6)
    health = queue.health(10)
    assert health["queue_fill_inlier"] == pytest.approx(3 / 8)
    assert health["queue_fill_anomaly"] == pytest.approx(1 / 8)
    assert health["queue_age_steps"] == pytest.approx((8 * 3 + 4) / 4)


def test_without_capacity_there_is_no_memory():
    queue = MemoryQueue(2, CLASSES, 0, DIM)
    queue.push(rows_of([(0, 0)], 0), 0)
    assert len(queue.rows()) == 0 and queue.rows().z.shape == (0, DIM) and queue.health(3) == {}

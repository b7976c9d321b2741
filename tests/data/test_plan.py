"""The plan is a pure function of (seed, domains, step): cover, order, independence of the world."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgcda_dist.data.plan import DomainPlan, Plan, SlotRef, slots_of
from mgcda_dist.errors import ConfigError, ShardError

SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any)
DOMAINS = st.lists(st.tuples(SIZES, st.integers(1, 5)), min_size=1, max_size=4)
SEEDS = st.integers(0, 2**31)


def make_plan(domains: list[tuple[list[int], int]], seed: int = 0, window_shards: int = 3) -> Plan:
    parts = [DomainPlan(f"d{i}", np.array(sizes, np.uint32), share) for i, (sizes, share) in enumerate(domains)]
    return Plan(parts, seed, window_shards)


def stream(plan: Plan, domain: int, num_samples: int, first_step: int = 0) -> list[int]:
    found: list[int] = []
    step = first_step
    while len(found) < num_samples:
        found += [ref.sample for ref in plan.step(step) if ref.domain == domain]
        step += 1
    return found[:num_samples]


@settings(deadline=None)
@given(DOMAINS, SEEDS, st.integers(1, 15))
def test_every_sample_comes_once_per_epoch_and_domain(domains: list[tuple[list[int], int]], seed: int, window: int):
    plan = make_plan(domains, seed, window)
    for index, (sizes, _) in enumerate(domains):
        size = sum(sizes)
        seen = stream(plan, index, 3 * size)  # per_step rarely divides the epoch
        for epoch in range(3):
            assert sorted(seen[epoch * size : (epoch + 1) * size]) == list(range(size))


@settings(deadline=None)
@given(DOMAINS, SEEDS, st.integers(0, 10**12))
def test_a_step_is_sorted_complete_and_repeatable(domains: list[tuple[list[int], int]], seed: int, t: int):
    plan = make_plan(domains, seed)
    refs = plan.step(t)
    assert [ref.slot for ref in refs] == list(range(plan.global_batch))
    for index, (_, share) in enumerate(domains):
        assert sum(ref.domain == index for ref in refs) == share
    plan.step(0)
    plan.step(t + 10**6)  # what was asked before leaves no trace
    assert plan.step(t) == refs == make_plan(domains, seed).step(t)


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 3), SEEDS, st.integers(0, 10**9))
def test_ranks_micro_batches_and_workers_cover_the_same_global_batches(
    share: int, accumulation: int, workers: int, seed: int, t: int
):
    domains = [([5, 3, 8], 4 * share * accumulation), ([7], 3 * share * accumulation), ([2, 2], share * accumulation)]
    plan = make_plan(domains, seed)
    expected = [plan.step(t), plan.step(t + 1)]
    for world_size in (1, 2, 4, 8):
        seen: dict[int, list[SlotRef]] = {}  # order in which the engine meets the slots: step, micro-batch, rank
        for rank in range(world_size):
            # A loader worker takes every `workers`-th micro-batch; the loader hands them on in order.
            micros = list(range(2 * accumulation))
            parts = [micros[worker :: max(workers, 1)] for worker in range(max(workers, 1))]
            assert sorted(index for part in parts for index in part) == micros
            for part in parts:
                for index in part:
                    step, micro = divmod(index, accumulation)
                    slots = slots_of(rank, world_size, accumulation, micro, plan.global_batch)
                    key = (step * accumulation + micro) * world_size + rank
                    assert key not in seen
                    seen[key] = plan.slots(t + step, slots)
        flat = [ref for key in sorted(seen) for ref in seen[key]]
        assert flat == expected[0] + expected[1]


@settings(deadline=None)
@given(SIZES.filter(lambda sizes: sum(sizes) >= 12), SEEDS)
def test_seed_epoch_and_name_change_the_order(sizes: list[int], seed: int):
    size = sum(sizes)
    plan = make_plan([(sizes, 1), (sizes, 1)], seed)
    first, second = np.split(np.array(stream(plan, 0, 2 * size)), 2)
    other_seed = stream(make_plan([(sizes, 1)], seed + 1), 0, size)
    other_name = stream(plan, 1, size)
    assert len({tuple(order) for order in (first, second, other_seed, other_name)}) == 4


def test_windows_keep_reading_local():
    plan = make_plan([([10] * 20, 1)], window_shards=4)
    samples = np.array(stream(plan, 0, 200))
    for window in range(5):
        assert len(set(samples[window * 40 : (window + 1) * 40] // 10)) == 4


def test_domains_interleave_evenly():
    plan = make_plan([([50], 8), ([50], 4), ([50], 4)])
    domains = [ref.domain for ref in plan.step(0)]
    for world_size in (2, 4):
        for part in np.split(np.array(domains), world_size):
            assert np.bincount(part, minlength=3).tolist() == [8 // world_size, 4 // world_size, 4 // world_size]


def test_known_order_is_frozen():
    """A change of this order breaks the resuming of every run: it needs a new major version."""
    plan = make_plan([([3, 4], 2), ([5], 1)], seed=7, window_shards=2)
    known = [(0, 0, 2), (1, 1, 1), (2, 0, 5), (0, 0, 1), (1, 1, 4), (2, 0, 4), (0, 0, 5), (1, 1, 4), (2, 0, 4)]
    assert [tuple(ref) for t in (0, 1, 10**9) for ref in plan.step(t)] == known


@pytest.mark.parametrize(
    ("rank", "world_size", "accumulation", "micro"), [(0, 3, 1, 0), (2, 2, 1, 0), (0, 2, 2, 2), (0, 0, 1, 0)]
)
def test_impossible_cuts_are_named(rank: int, world_size: int, accumulation: int, micro: int):
    with pytest.raises(ConfigError):
        slots_of(rank, world_size, accumulation, micro, 8)


def test_impossible_plans_are_named():
    with pytest.raises(ShardError, match="domain d0: its shards hold no sample"):
        make_plan([([0, 0], 1)])
    with pytest.raises(ShardError):
        make_plan([([], 1)])
    with pytest.raises(ConfigError):
        make_plan([])
    with pytest.raises(ConfigError):
        make_plan([([1], 1)], window_shards=0)
    with pytest.raises(ConfigError, match="its own name"):
        Plan([DomainPlan("a", np.array([1]), 1)] * 2, 0, 1)
    with pytest.raises(ConfigError, match="step -1"):
        make_plan([([1], 1)]).step(-1)

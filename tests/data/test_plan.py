"""The plan is a pure function of (seed, streams, step): cover, order, independence of the world."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgcda_dist.data.plan import Plan, SlotRef, StreamPlan, slots_of
from mgcda_dist.errors import ConfigError, ShardError

SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any)
DOMAINS = st.lists(st.tuples(SIZES, st.integers(1, 5)), min_size=1, max_size=4)
SEEDS = st.integers(0, 2**31)


def make_plan(streams: list[tuple[list[int], int]], seed: int = 0, window_shards: int = 3, groups: int = 1) -> Plan:
    parts = [StreamPlan(f"d{i}", np.array(sizes, np.uint32), share) for i, (sizes, share) in enumerate(streams)]
    return Plan(parts, seed, window_shards, groups)


def samples_of(plan: Plan, stream: int, num_samples: int, first_step: int = 0) -> list[int]:
    found: list[int] = []
    step = first_step
    while len(found) < num_samples:
        found += [ref.sample for ref in plan.step(step) if ref.stream == stream]
        step += 1
    return found[:num_samples]


@settings(deadline=None)
@given(DOMAINS, SEEDS, st.integers(1, 15))
def test_every_sample_comes_once_per_epoch_and_stream(streams: list[tuple[list[int], int]], seed: int, window: int):
    plan = make_plan(streams, seed, window)
    for index, (sizes, _) in enumerate(streams):
        size = sum(sizes)
        seen = samples_of(plan, index, 3 * size)  # per_step rarely divides the epoch
        for epoch in range(3):
            assert sorted(seen[epoch * size : (epoch + 1) * size]) == list(range(size))


@settings(deadline=None)
@given(DOMAINS, SEEDS, st.integers(0, 10**12))
def test_a_step_is_sorted_complete_and_repeatable(streams: list[tuple[list[int], int]], seed: int, t: int):
    plan = make_plan(streams, seed)
    refs = plan.step(t)
    assert [ref.slot for ref in refs] == list(range(plan.global_batch))
    for index, (_, share) in enumerate(streams):
        assert sum(ref.stream == index for ref in refs) == share
    plan.step(0)
    plan.step(t + 10**6)  # what was asked before leaves no trace
    assert plan.step(t) == refs == make_plan(streams, seed).step(t)


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 3), SEEDS, st.integers(0, 10**9))
def test_ranks_micro_batches_and_workers_cover_the_same_global_batches(
    share: int, accumulation: int, workers: int, seed: int, t: int
):
    streams = [([5, 3, 8], 4 * share * accumulation), ([7], 3 * share * accumulation), ([2, 2], share * accumulation)]
    plan = make_plan(streams, seed)
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
    first, second = np.split(np.array(samples_of(plan, 0, 2 * size)), 2)
    other_seed = samples_of(make_plan([(sizes, 1)], seed + 1), 0, size)
    other_name = samples_of(plan, 1, size)
    assert len({tuple(order) for order in (first, second, other_seed, other_name)}) == 4


def test_windows_keep_reading_local():
    plan = make_plan([([10] * 20, 1)], window_shards=4)
    samples = np.array(samples_of(plan, 0, 200))
    for window in range(5):
        assert len(set(samples[window * 40 : (window + 1) * 40] // 10)) == 4


@settings(deadline=None)
@given(
    st.lists(st.tuples(SIZES, st.integers(1, 3)), min_size=1, max_size=3), st.integers(2, 5), SEEDS, st.integers(1, 5)
)
def test_in_groups_every_sample_comes_once_per_epoch(
    streams: list[tuple[list[int], int]], groups: int, seed: int, window: int
):
    plan = make_plan([(sizes, turns * groups) for sizes, turns in streams], seed, window, groups)
    part = plan.global_batch // groups
    for index, (sizes, turns) in enumerate(streams):
        size = sum(sizes)
        steps = range(-(-3 * size // (turns * groups)) + 1)
        refs = [ref for t in steps for ref in plan.step(t) if ref.stream == index]
        for epoch in range(3):
            seen: list[int] = []
            for group in range(groups):  # a part of the batch is one, whatever the stream
                own = [ref.sample for ref in refs if ref.slot // part == group]
                seen += own[(epoch * size + group) // groups : ((epoch + 1) * size + group) // groups]
            assert sorted(seen) == list(range(size))


def test_in_groups_whole_epochs_are_whole_steps():
    sizes = [1, 7, 0, 2, 5, 3, 6]  # 24 samples in uneven shards
    plan = make_plan([(sizes, 4), (sizes, 8)], window_shards=2, groups=4)
    for index, per_step in enumerate((4, 8)):
        for epoch in range(3):
            steps = range(epoch * 24 // per_step, (epoch + 1) * 24 // per_step)
            assert sorted(ref.sample for t in steps for ref in plan.step(t) if ref.stream == index) == list(range(24))


@settings(deadline=None, max_examples=30)
@given(DOMAINS, SEEDS, st.integers(2, 4), st.integers(0, 10**12))
def test_in_groups_a_step_is_a_function_of_its_number(
    streams: list[tuple[list[int], int]], seed: int, groups: int, t: int
):
    content = [(sizes, share * groups) for sizes, share in streams]
    plan, others = make_plan(content, seed, groups=groups), make_plan(content, seed, groups=groups)
    refs = plan.step(t)
    others.step(t + 10**6)
    for world_size in (1, groups):
        slots = [slots_of(rank, world_size, 1, 0, plan.global_batch) for rank in reversed(range(world_size))]
        assert [ref for part in reversed([others.slots(t, part) for part in slots]) for ref in part] == refs


@pytest.mark.parametrize("accumulation", [1, 2])
def test_in_groups_a_node_reads_its_share_of_the_shards(accumulation: int):
    nodes, shards, per_step = 8, 80, 32
    sizes = np.random.default_rng(0).integers(20, 60, shards)
    first = np.cumsum(sizes) - sizes

    def touched(groups: int) -> float:
        plan = Plan([StreamPlan("a", sizes, per_step)], 0, 4, groups)
        seen: set[int] = set()
        for t in range(int(sizes.sum()) // per_step):
            for micro in range(accumulation):
                refs = plan.slots(t, slots_of(3, nodes, accumulation, micro, per_step))
                seen |= {int(first.searchsorted(ref.sample, side="right")) for ref in refs}
        return len(seen)

    assert touched(1) > 0.9 * shards
    assert touched(nodes * accumulation) < 1.5 * shards / nodes
    assert touched(nodes) < shards / 2, "fewer groups than nodes × micro-batches help, too"


def test_streams_interleave_evenly():
    plan = make_plan([([50], 8), ([50], 4), ([50], 4)])
    streams = [ref.stream for ref in plan.step(0)]
    for world_size in (2, 4):
        for part in np.split(np.array(streams), world_size):
            assert np.bincount(part, minlength=3).tolist() == [8 // world_size, 4 // world_size, 4 // world_size]


def test_known_order_is_frozen():
    """A change of this order breaks the resuming of every run: it needs a new major version."""
    plan = make_plan([([3, 4], 2), ([5], 1)], seed=7, window_shards=2)
    known = [(0, 0, 2), (1, 1, 1), (2, 0, 5), (0, 0, 1), (1, 1, 4), (2, 0, 4), (0, 0, 5), (1, 1, 4), (2, 0, 4)]
    assert [tuple(ref) for t in (0, 1, 10**9) for ref in plan.step(t)] == known


def test_known_order_in_groups_is_frozen():
    plan = make_plan([([3, 4], 2), ([5], 4)], seed=7, window_shards=1, groups=2)
    known = [1, 5, 0, 4, 6, 2, 2, 4, 1, 3, 0, 4, 1, 3, 0, 2, 0, 3]
    assert [ref.sample for t in (0, 1, 10**9) for ref in plan.step(t)] == known


@pytest.mark.parametrize(
    ("rank", "world_size", "accumulation", "micro"), [(0, 3, 1, 0), (2, 2, 1, 0), (0, 2, 2, 2), (0, 0, 1, 0)]
)
def test_impossible_cuts_are_named(rank: int, world_size: int, accumulation: int, micro: int):
    with pytest.raises(ConfigError):
        slots_of(rank, world_size, accumulation, micro, 8)


def test_impossible_plans_are_named():
    with pytest.raises(ShardError, match="stream d0: its shards hold no sample"):
        make_plan([([0, 0], 1)])
    with pytest.raises(ShardError):
        make_plan([([], 1)])
    with pytest.raises(ConfigError):
        make_plan([])
    with pytest.raises(ConfigError):
        make_plan([([1], 1)], window_shards=0)
    with pytest.raises(ConfigError, match="its own name"):
        Plan([StreamPlan("a", np.array([1]), 1)] * 2, 0, 1)
    with pytest.raises(ConfigError, match=r"stream d0: 6 images .* 4 groups of shards alike\s.*take 2 groups"):
        make_plan([([1], 6)], groups=4)
    with pytest.raises(ConfigError):
        make_plan([([1], 6)], groups=0)
    with pytest.raises(ConfigError, match="step -1"):
        make_plan([([1], 1)]).step(-1)

"""The collectives themselves, and what a step pays for them."""

from __future__ import annotations

import pytest
import torch

from tests.multiprocess.scenarios import BATCH, SCENARIOS
from tests.multiprocess.worlds import EVALUATED_FRAMES, Results, judged, rows_of
from tests.support.evaluations import evaluate_drawn
from tests.support.tiny import NUM_DOMAINS

SIZES = (2, 3, 4)
STAGES, SEG_GROUPS, FLOAT64 = 2, 3, 8
ROWS_PER_IMAGE, DIM = 2 * 6 + 3 * 2 * 3, 6  # image-aware: twice the average of each side
NEAREST = 6  # half of the 12 negatives


@pytest.mark.parametrize("size", SIZES)
def test_a_gather_has_all_rows_in_rank_order_and_its_gradients_cross_ranks(worlds: list[Results], size: int):
    # The gradient of a row is that of the sum of all ranks' losses.
    everywhere = torch.cat([rows_of(rank) for rank in range(size)]).requires_grad_()
    for rank in range(size):
        assert torch.equal(worlds[rank].gathers[size]["everywhere"], everywhere.detach())
    total = torch.stack([judged(everywhere, rank) for rank in range(size)]).sum()
    (expected,) = torch.autograd.grad(total, everywhere)
    found = torch.cat([worlds[rank].gathers[size]["gradient"] for rank in range(size)])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_sums_may_be_waited_for_in_any_order(worlds: list[Results], size: int):
    first, second = sum(range(1, size + 1)), sum(10.0**k for k in range(1, size + 1))
    for rank in range(size):
        assert worlds[rank].sums[size] == [second, first, first]


@pytest.mark.parametrize("size", SIZES)
def test_a_step_calls_two_sums_one_gather_and_its_backward(worlds: list[Results], size: int):
    # What really went through torch.distributed; one more all_reduce is the gradient reduction.
    for rank in range(size):
        assert worlds[rank].calls[size] == {"all_reduce": 3, "all_gather_single": 1, "reduce_scatter_single": 1}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", SCENARIOS)
def test_comm_stats_follow_the_formula(worlds: list[Results], name: str, size: int):
    scenario = SCENARIOS[name]
    steps, micros = scenario.steps, scenario.steps * scenario.accumulation
    mdat, cacl = scenario.model.get("with_mdat", True), scenario.model.get("with_cacl", True)
    sharded = scenario.model.get("queue_layout") == "sharded"
    nearest = sharded and scenario.model.get("negatives_by") == "similarity"
    images, image_aware = BATCH // size, cacl and scenario.model.get("image_aware", True)
    per_image = ROWS_PER_IMAGE if scenario.model.get("image_aware", True) else ROWS_PER_IMAGE // 2
    max_rows = scenario.model.get("max_rows")
    per_image = per_image if max_rows is None else min(per_image, -(-2 * max_rows // BATCH))
    bf16 = scenario.model.get("gather_dtype") == "bf16"
    difficulty = image_aware * size * 2 * images * 2
    taught = "teacher_decay" in scenario.model
    terms = 5 + mdat + 2 * cacl + 2 * taught
    rows = images * per_image * (DIM + 3)
    expected = {  # label: (calls, float64 numbers of a call)
        "counts": (steps, SEG_GROUPS + taught + mdat * 4 * STAGES * NUM_DOMAINS + difficulty),
        "difficulty": (micros - steps, difficulty),  # that of the first micro-batch travels with the counts
        "values": (steps, terms + mdat * 4 * STAGES * NUM_DOMAINS + cacl * 4),
        "cacl_rows": (micros, cacl * images * per_image * (DIM / (4 if bf16 else 1) + 3)),
        "cacl_rows_backward": (micros, cacl * size * rows),
        "nearest": (micros, nearest * size * images * per_image * NEAREST),  # values alone, no rows
        "memory": (micros, sharded * size * images * per_image),
        "memory_backward": (micros, sharded * size * images * per_image),
    }
    expected = {label: (calls, numbers) for label, (calls, numbers) in expected.items() if calls * numbers}
    # The same on every rank and at every step, whatever the rank has or lacks (law 3).
    for rank in range(size):
        stats = worlds[rank].records[name, size].stats
        assert dict(stats.calls) == {label: calls for label, (calls, _) in expected.items()}
        assert dict(stats.num_bytes) == {label: calls * FLOAT64 * n for label, (calls, n) in expected.items()}


@pytest.mark.parametrize("size", SIZES)
def test_an_evaluation_merges_to_what_one_process_finds(worlds: list[Results], size: int):
    alone = evaluate_drawn("drawn", 1.0, EVALUATED_FRAMES, with_anomalies=True)
    result, num_bytes = worlds[0].evaluations[size]
    assert alone is not None and result is not None and num_bytes == 0
    assert result.pixel == alone.pixel
    assert result.frames == alone.frames
    assert [each.frame for each in result.pictured] == [each.frame for each in alone.pictured]
    for rank in range(1, size):
        result, num_bytes = worlds[rank].evaluations[size]
        assert result is None
        # Two int64 per row and table, at most one row per pixel; pictures of four kept frames; some numbers. Rank 2 of
        # four sends those of rank 3, too.
        frames, pixels = len(range(rank, EVALUATED_FRAMES, size)), 64 * 96
        ranks = 2 if (rank, size) == (2, 4) else 1
        assert num_bytes < ranks * (2 * 16 * frames * pixels + 4 * 8 * pixels + 20_000)

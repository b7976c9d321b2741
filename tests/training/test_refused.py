"""A loss or gradient that is not finite, on one rank: all ranks refuse the step, and nothing has moved."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.distributed import run_distributed
from tests.training.refused import CASES, STEPS, refuse_all, stop_after_three

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SIZES = (1, 2)


@pytest.fixture(scope="module")
def seen() -> dict[int, list[list[dict[str, Any]]]]:
    return {size: run_distributed(refuse_all, size, timeout_s=280) for size in SIZES}


@pytest.mark.parametrize("case", range(len(CASES)), ids=["-".join(map(str, case)) for case in CASES])
@pytest.mark.parametrize("size", SIZES)
def test_a_refused_step_leaves_everything_as_it_was(
    seen: dict[int, list[list[dict[str, Any]]]], size: int, case: int
) -> None:
    *_, what, bad_step = CASES[case]
    for rank, results in enumerate(seen[size]):
        result = results[case]
        assert result["differing"] == [] and result["finite"]
        names = " ".join(result["names"])
        assert all(part in names for part in ("/model/cacl.queue.cursor", "/model/mdat.accuracy", "/model/segmenter"))
        assert "exp_avg" in names or (rank > 0 and CASES[case][1] == 0)  # rank 0 writes what is equal on all
        assert result["steps"] == [step for step in range(STEPS) if step != bad_step]
        assert result["skipped"] == (1, 0)
        (sentence,) = result["said"]
        noun = "loss" if what == "loss" else "gradient"
        assert f"step {bad_step}: the {noun} is not finite, the step is skipped on all ranks" in sentence
        # The samples of all ranks are named, on every rank.
        assert all(f"d/{bad_step}-{slot}" in sentence for slot in range(8))


@pytest.mark.parametrize("case", range(len(CASES)), ids=["-".join(map(str, case)) for case in CASES])
def test_it_is_refused_at_every_world_size_alike(seen: dict[int, list[list[dict[str, Any]]]], case: int) -> None:
    alone, two = (seen[size][0][case]["losses"] for size in SIZES)
    assert two == pytest.approx(alone, rel=2e-2 if CASES[case][0] == "bf16" else 1e-4)


def test_the_run_stops_after_several_in_a_row_and_names_the_samples_of_all_ranks() -> None:
    messages = run_distributed(stop_after_three, 2, timeout_s=280)
    assert messages[0] == messages[1]
    for words in ("3 steps in a row (optim.max_skipped_in_a_row)", "rank 0: d/1-0", "rank 1: d/1-4", "d/1-7",
                  "The last good checkpoint is there", "override the configuration"):  # fmt: skip
        assert words in messages[0]

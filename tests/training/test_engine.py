"""Law 1 through the engine: one process, two and four train alike, for ZeRO 0 to 3, over a save and a load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.distributed import run_distributed
from tests.training.steps import CASES, COMBINATIONS, train_cases

pytestmark = pytest.mark.slow

# bf16 keeps 8 bits: a gradient that is reduced in another order differs by 2^-8, which moves a parameter by as much,
# and a pixel that is sampled instead of its neighbour moves the contrastive term.
SIZES = (1, 2, 4)
_TOLERANCE = {"sgd": 1e-5, "adamw": 1e-4, "bf16": 2e-2}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[list[dict[str, Any]]]]:
    folder = tmp_path_factory.mktemp("engine")
    return {size: run_distributed(train_cases, size, str(folder / f"w{size}"), timeout_s=280) for size in SIZES}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", range(len(CASES)), ids=["-".join(map(str, case)) for case in CASES])
@pytest.mark.parametrize("size", SIZES[1:])
def test_more_ranks_train_as_one(seen: dict[int, list[list[dict[str, Any]]]], case: int, size: int) -> None:
    kind, *_ = CASES[case]
    alone, first = seen[1][0][case], seen[size][0][case]
    assert all(seen[size][rank][case] == first for rank in range(size))
    assert first["losses"] == pytest.approx(alone["losses"], rel=_TOLERANCE[kind])
    if kind != "bf16":
        assert all(first[name] == alone[name] for name in ("anchors", "types", "steps"))


@pytest.mark.extended
@pytest.mark.timeout(3600)
def test_every_combination_trains_as_one_rank_does(tmp_path: Path) -> None:
    """ZeRO 0 … 3 × accumulation 1, 2 × layout of the memory × SGD, AdamW, on two and on four ranks."""
    alone, *others = (
        run_distributed(train_cases, size, str(tmp_path / f"w{size}"), COMBINATIONS, timeout_s=1200) for size in SIZES
    )
    for everyone in others:
        for found in everyone:
            for case, here, there in zip(COMBINATIONS, found, alone[0], strict=True):
                assert here["losses"] == pytest.approx(there["losses"], rel=_TOLERANCE[case[0]]), case
                assert all(here[name] == there[name] for name in ("anchors", "types", "steps")), case


@pytest.mark.timeout(600)
def test_the_stage_of_zero_does_not_change_the_numbers(seen: dict[int, list[list[dict[str, Any]]]]) -> None:
    by_stage = {
        stage: seen[2][0][i]["losses"] for i, (kind, stage, acc, _) in enumerate(CASES) if (kind, acc) == ("sgd", 1)
    }
    for losses in by_stage.values():
        assert losses == pytest.approx(by_stage[0], rel=1e-5)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", range(len(CASES)), ids=["-".join(map(str, case)) for case in CASES])
def test_the_engine_sends_what_the_page_on_scale_says(seen: dict[int, list[list[dict[str, Any]]]], case: int) -> None:
    kind, stage, micros, layout = CASES[case]
    for rank in (0, 1):
        found = seen[2][rank][case]
        gradient = found["parameters"] * (2 if kind == "bf16" else 4)
        padded = pytest.approx(gradient, abs=64)  # to a multiple of the ranks
        sent: dict[str, list[int]] = {name: list(sizes) for name, sizes in found["sent"].items()}
        reductions = [size for size in sent["allreduce"] if size >= gradient]
        # Besides the gradients: the counts (with the difficulties of one micro-batch) and the values of the step, the
        # difficulties of the other micro-batches, two sums per micro-batch of a sharded memory, and DeepSpeed's norm,
        # which without slices every rank takes of its own.
        small = len(sent["allreduce"]) - len(reductions)
        assert small == 2 + (micros - 1) + micros * (2 if layout == "sharded" else 0) + (
            2 if kind == "bf16" else int(stage > 0)
        )
        # Of the rows of CACL, one gather and one scatter a micro-batch; the others are DeepSpeed's.
        gathers, scatters = (
            [x for x in sent[f"{n}_base"] if x != found["rows"]] for n in ("allgather", "reduce_scatter")
        )
        assert len(sent["allgather_base"]) - len(gathers) == len(sent["reduce_scatter_base"]) - len(scatters) == micros
        if stage == 3:
            assert reductions == []
            assert scatters == [padded] * micros
            assert gradient <= sum(gathers) <= micros * 2 * gradient + 64 * len(gathers)
        else:
            assert reductions == [gradient] * (micros if stage == 2 else 1)
            assert scatters == []
            assert gathers == ([padded] if stage else [])

"""The teacher's average through the engine: ZeRO 0 to 3 and bf16, one process and two, over a save and a load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mgcda_dist.training.engine import DeepSpeedEngine, to_universal
from tests.support.distributed import run_distributed
from tests.support.engine import micro_batches, tiny_engine
from tests.support.tiny import tiny_mgcda

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STEPS, HALF, BATCH, DECAY = 6, 3, 8, 0.75
CASES: list[tuple[str, int]] = [("fp32", 0), ("fp32", 1), ("fp32", 2), ("fp32", 3), ("bf16", 2), ("bf16", 3)]
State = dict[str, Tensor]


def _engine(precision: str, zero_stage: int, *, universal: bool = False) -> DeepSpeedEngine:
    model = tiny_mgcda(dtype=torch.float32, teacher_decay=DECAY)
    return tiny_engine(model, batch=BATCH, precision=precision, zero_stage=zero_stage, load_universal=universal)


def _train(engine: DeepSpeedEngine, first: int, last: int) -> list[State]:
    """Steps; of each the segmenter's parameters after it, whole."""
    seen: list[State] = []
    for step in range(first, last):
        (batch,) = micro_batches(step, BATCH)
        outcome = engine.forward(batch, step / STEPS)
        totals = engine.model.total([outcome])
        engine.backward(outcome.loss)
        engine.step(1.0)
        engine.commit([outcome], totals)
        with engine.whole_parameters() as model:
            seen.append({name: x.detach().float().clone() for name, x in model.segmenter.state_dict().items()})
    return seen


def _average(engine: DeepSpeedEngine) -> State:
    return {name: x.clone() for name, x in engine.model.network("ema").state_dict().items()}


def _begin(folder: str) -> list[dict[str, Any]]:
    """On every rank, per case: all steps, with a save half-way; then the second half from there in a new engine."""
    found: list[dict[str, Any]] = []
    for precision, stage in CASES:
        engine, place = _engine(precision, stage), Path(folder) / f"{precision}-{stage}"
        seen = _train(engine, 0, HALF)
        engine.save(place)
        seen += _train(engine, HALF, STEPS)
        resumed = _engine(precision, stage)
        resumed.load(place)
        _train(resumed, HALF, STEPS)
        found.append({"students": seen, "average": _average(engine), "resumed": _average(resumed)})
    return found


def _go_on(folder: str) -> list[State]:
    """In one process: the second half of each case that two have begun."""
    found: list[State] = []
    for precision, stage in CASES:
        place = Path(folder) / f"{precision}-{stage}"
        if stage:
            to_universal(place, place.with_name(f"{place.name}-universal"))
            place = place.with_name(f"{place.name}-universal")
        engine = _engine(precision, stage, universal=stage > 0)
        engine.load(place)
        _train(engine, HALF, STEPS)
        found.append(_average(engine))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("teacher")


@pytest.fixture(scope="module")
def found(folder: Path) -> list[list[dict[str, Any]]]:
    return run_distributed(_begin, 2, str(folder), timeout_s=280)


@pytest.mark.parametrize("case", range(len(CASES)), ids=[f"{kind}-{stage}" for kind, stage in CASES])
def test_it_is_the_average_of_the_steps_on_every_rank(found: list[list[dict[str, Any]]], case: int) -> None:
    for rank in (0, 1):
        students, average = found[rank][case]["students"], found[rank][case]["average"]
        expected = students[0]
        for step, student in enumerate(students):
            decay = min(DECAY, 1 - 1 / (step + 1))
            expected = {name: decay * expected[name] + (1 - decay) * x for name, x in student.items()}
        for name, x in average.items():
            assert x.dtype == torch.float32
            torch.testing.assert_close(x, expected[name], rtol=1e-5, atol=1e-6)
            assert torch.equal(x, found[0][case]["average"][name])
        assert any(not torch.equal(x, students[-1][name]) for name, x in average.items())


@pytest.mark.parametrize("case", range(len(CASES)), ids=[f"{kind}-{stage}" for kind, stage in CASES])
def test_a_resumed_average_has_the_same_bytes(found: list[list[dict[str, Any]]], case: int) -> None:
    for rank in (0, 1):
        average, resumed = found[rank][case]["average"], found[rank][case]["resumed"]
        assert all(torch.equal(x, resumed[name]) for name, x in average.items())


@pytest.mark.extended
def test_one_rank_goes_on_where_two_began(found: list[list[dict[str, Any]]], folder: Path) -> None:
    (alone,) = run_distributed(_go_on, 1, str(folder), timeout_s=280)
    for case, state, of_two in zip(CASES, alone, found[0], strict=True):
        for name, x in state.items():
            tolerance = 2e-2 if case[0] == "bf16" else 1e-4  # see test_engine.py
            torch.testing.assert_close(x, of_two["average"][name], rtol=tolerance, atol=tolerance, msg=str(case))


def test_it_is_written_once_and_not_by_every_rank(found: list[list[dict[str, Any]]], folder: Path) -> None:
    from safetensors.torch import load_file

    for kind, stage in CASES:
        place = folder / f"{kind}-{stage}"
        names = [name for name in load_file(place / "buffers.safetensors") if name.startswith("teacher.")]
        assert len(names) == len(found[0][0]["average"])
        for file in place.rglob("*model_states.pt"):
            module = torch.load(file, weights_only=False)["module"]
            assert not [name for name in module if name.startswith("teacher.")]

"""Resume at another world size: the rest of the run is that of the undisturbed one, for ZeRO 0 to 3."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from mgcda_dist.errors import CheckpointError
from mgcda_dist.training.engine import to_universal
from tests.support.distributed import run_distributed
from tests.support.engine import micro_batches, tiny_engine
from tests.support.tiny import QueueLayout, tiny_mgcda

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STEPS, HALF, BATCH = 10, 5, 12  # divides by 1, 2, 3 and 4
Case = tuple[str, int, QueueLayout]
CASES: list[Case] = [
    ("fp32", 0, "replicated"),
    ("fp32", 1, "sharded"),
    ("bf16", 2, "replicated"),
    ("fp32", 2, "sharded"),
    ("fp32", 3, "sharded"),
]
"""(precision, ZeRO stage, layout of the memory); always AdamW."""
_DECAY = {0: 0.7, 1: None, 2: None, 3: 0.7}
"""Of a teacher, by ZeRO stage; None: there is none."""


def _begin(folder: str, whole: bool) -> list[list[float]]:
    """On every rank: the first half of the steps and a save, or all of them; the losses of each case."""
    return [_run(case, None if whole else _place(folder, case), None, 0, STEPS if whole else HALF) for case in CASES]


def _go_on(folder: str) -> list[list[float]]:
    """On every rank: the second half, at another world size."""
    return [_run(case, None, _loadable(folder, case), HALF, STEPS) for case in CASES]


def _place(folder: str, case: Case) -> Path:
    return Path(folder) / "-".join(map(str, case))


def _loadable(folder: str, case: Case) -> Path:
    """The folder that another world size can load a case from."""
    place = _place(folder, case)
    return place if case[1] == 0 else place.with_name(f"{place.name}-universal")


def _convert(folder: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda case: to_universal(_place(folder, case), _loadable(folder, case)), CASES[1:]))


def _run(case: Case, save: Path | None, load: Path | None, first: int, last: int) -> list[float]:
    precision, zero_stage, layout = case
    model = tiny_mgcda(
        dtype=torch.float32, queue_layout=layout, seed=0 if load is None else 1, teacher_decay=_DECAY[zero_stage]
    )
    groups: list[dict[str, Any]] = [
        {"params": list(model.segmenter.parameters()), "name": "a", "lr": 1e-2, "base_lr": 1e-2, "weight_decay": 0.1},
        {"params": [p for n, p in model.named_parameters() if not n.startswith("segmenter")], "name": "b", "lr": 5e-3,
         "base_lr": 5e-3, "weight_decay": 0.0},
    ]  # fmt: skip
    engine = tiny_engine(
        model,
        torch.optim.AdamW(groups),
        batch=BATCH,
        precision=precision,
        zero_stage=zero_stage,
        load_universal=load is not None and zero_stage > 0,
    )
    if load is not None:
        assert engine.model.cacl is not None
        engine.model.cacl.seed = 0
        engine.load(load)
    losses: list[float] = []
    for step in range(first, last):
        (batch,) = micro_batches(step, BATCH)
        outcome = engine.forward(batch, step / STEPS)
        totals = engine.model.total([outcome])
        losses.append(totals.scalars()["loss/total"])
        engine.backward(outcome.loss)
        engine.step(1.0)
        engine.commit([outcome], totals)
    if save is not None:
        engine.save(save)
    return losses


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[list[float]]:
    return run_distributed(_begin, 1, str(tmp_path_factory.mktemp("whole")), True, timeout_s=280)[0]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], str]:
    def folder(size: int) -> str:
        """Of the first half at so many ranks."""
        path = str(tmp_path_factory.mktemp(f"begun-{size}"))
        run_distributed(_begin, size, path, False, timeout_s=280)
        _convert(path)
        return path

    return cache(folder)


MORE = [pytest.param(*change, marks=pytest.mark.extended) for change in ((1, 3), (4, 3), (2, 4))]


@pytest.mark.parametrize(("before", "after"), [(2, 1), *MORE])
def test_the_rest_is_that_of_the_undisturbed_run(
    undisturbed: list[list[float]], begun: Callable[[int], str], before: int, after: int
) -> None:
    everyone = run_distributed(_go_on, after, begun(before), timeout_s=280)
    assert all(losses == everyone[0] for losses in everyone)
    for case, losses, expected in zip(CASES, everyone[0], undisturbed, strict=True):
        # bf16: see test_engine.py
        assert losses == pytest.approx(expected[HALF:], rel=2e-2 if case[0] == "bf16" else 1e-4), case


def test_a_checkpoint_that_cannot_be_converted_is_refused(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    with pytest.raises(CheckpointError, match="cannot be converted for another number of workers"):
        to_universal(tmp_path, tmp_path / "out")

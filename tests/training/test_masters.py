"""With bf16, what is exported has the optimiser's float32 on every rank, and training goes on with what it had."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.support.distributed import run_distributed
from tests.support.engine import micro_batches, tiny_engine
from tests.support.tiny import tiny_mgcda

_BATCH, _STEPS = 8, 3
_Found = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]


def _exported(stage: int, *, masters: bool) -> _Found:
    """Exported before another step and after it, each with the parameters of the forward pass at that time."""
    engine = tiny_engine(
        tiny_mgcda(dtype=torch.float32), batch=_BATCH, precision="bf16", zero_stage=stage, export_masters=masters
    )
    found: list[dict[str, Tensor]] = []
    for step in range(_STEPS):
        batches = micro_batches(step, _BATCH)
        engine.backward(engine.forward(batches[0], 0.5, engine.model.count(batches)).loss)
        engine.step(1.0)
        if step >= _STEPS - 2:
            with engine.exported("student") as network:
                found.append({name: x.clone() for name, x in network.state_dict().items()})
            with engine.whole_parameters() as model:
                found.append({name: x.clone() for name, x in model.segmenter.state_dict().items()})
    return found[0], found[1], found[2], found[3]


def _all() -> dict[tuple[int, bool], _Found]:
    return {(stage, masters): _exported(stage, masters=masters) for stage in range(4) for masters in (True, False)}


@pytest.fixture(scope="module")
def found() -> list[dict[tuple[int, bool], _Found]]:
    return run_distributed(_all, 2)


@pytest.mark.parametrize("stage", range(4))
def test_masters_are_exported_and_the_parameters_stay(found: list[dict[tuple[int, bool], _Found]], stage: int) -> None:
    plain = found[0][stage, False]
    for of_rank in found:
        for masters, rounded in (of_rank[stage, True][:2], of_rank[stage, True][2:]):
            assert all(x.dtype == torch.float32 for x in masters.values())
            assert all(torch.equal(x.bfloat16(), rounded[name]) for name, x in masters.items()), "of the same step"
            assert any(not torch.equal(x, rounded[name].float()) for name, x in masters.items()), "with more bits"
        for name, x in of_rank[stage, True][0].items():
            assert torch.equal(x, found[0][stage, True][0][name]), "the same on every rank"
        for name, x in of_rank[stage, True][3].items():
            assert torch.equal(x, plain[3][name]), "exporting does not change the training"
    assert all(torch.equal(x, plain[1][name]) for name, x in plain[0].items()), "not asked for: as it was"

"""With bf16, the optimiser's float32 begins with the weights that were given, and is exported on every rank."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from tests.support.distributed import run_distributed
from tests.support.engine import micro_batches, tiny_engine
from tests.support.tiny import tiny_mgcda

_BATCH, _STEPS = 8, 3
_State = dict[str, Tensor]


class _Found(NamedTuple):
    """The export at the beginning, after the first step, and after the last two, there beside what the pass reads."""

    begun: _State
    first: _State
    exported: _State
    rounded: _State
    exported_next: _State
    rounded_next: _State


def _exported(stage: int, *, masters: bool) -> _Found:
    engine = tiny_engine(
        tiny_mgcda(dtype=torch.float32), batch=_BATCH, precision="bf16", zero_stage=stage, export_masters=masters
    )
    found, first = list[dict[str, Tensor]](), dict[str, Tensor]()
    with engine.exported("student") as network:
        begun = {name: x.clone() for name, x in network.state_dict().items()}
    for step in range(_STEPS):
        batches = micro_batches(step, _BATCH)
        engine.backward(engine.forward(batches[0], 0.5, engine.model.count(batches)).loss)
        engine.step(1.0)
        if step == 0:
            with engine.exported("student") as network:
                first = {name: x.clone() for name, x in network.state_dict().items()}
        if step >= _STEPS - 2:
            with engine.exported("student") as network:
                found.append({name: x.clone() for name, x in network.state_dict().items()})
            with engine.whole_parameters() as model:
                found.append({name: x.clone() for name, x in model.segmenter.state_dict().items()})
    return _Found(begun, first, *found)


def _all() -> dict[tuple[int, bool], _Found]:
    return {(stage, masters): _exported(stage, masters=masters) for stage in range(4) for masters in (True, False)}


@pytest.fixture(scope="module")
def found() -> list[dict[tuple[int, bool], _Found]]:
    return run_distributed(_all, 2)


@pytest.mark.parametrize("stage", range(4))
def test_masters_begin_with_the_weights_that_were_given(
    found: list[dict[tuple[int, bool], _Found]], stage: int
) -> None:
    """Pretrained weights would lose sixteen bits for good."""
    given = tiny_mgcda(dtype=torch.float32).segmenter.state_dict()
    for of_rank in found:
        exported = of_rank[stage, True].begun
        assert exported.keys() == given.keys() and all(torch.equal(exported[name], x) for name, x in given.items())
        assert all(torch.equal(x, given[name].bfloat16()) for name, x in of_rank[stage, False].begun.items())


@pytest.mark.parametrize("stage", range(4))
def test_masters_are_exported_and_the_parameters_stay(found: list[dict[tuple[int, bool], _Found]], stage: int) -> None:
    for of_rank in found:
        seen, first = of_rank[stage, True], found[0][stage, True]
        for masters, rounded in ((seen.exported, seen.rounded), (seen.exported_next, seen.rounded_next)):
            assert all(x.dtype == torch.float32 for x in masters.values())
            assert all(torch.equal(x.bfloat16(), rounded[name]) for name, x in masters.items()), "of the same step"
            assert any(not torch.equal(x, rounded[name].float()) for name, x in masters.items()), "with more bits"
        assert all(torch.equal(x, first.exported_next[name]) for name, x in seen.exported_next.items()), "on every rank"
        plain = of_rank[stage, False]
        assert all(torch.equal(x, plain.rounded[name]) for name, x in plain.exported.items()), (
            "not asked for: as it was"
        )


def test_every_stage_makes_the_same_first_step(found: list[dict[tuple[int, bool], _Found]]) -> None:
    """Of Adam, whose first step is about the rate long; DeepSpeed has made one of zeros before with ZeRO 0."""
    of_rank = found[0]
    for name, begun in of_rank[0, True].begun.items():
        if not begun.is_floating_point() or name not in of_rank[0, True].first:
            continue
        steps = [(of_rank[stage, True].first[name] - begun).abs().mean() for stage in range(4)]
        torch.testing.assert_close(steps[0], steps[1], rtol=0.02, atol=1e-6, msg=name)
        torch.testing.assert_close(steps[3], steps[1], rtol=0.02, atol=1e-6, msg=name)

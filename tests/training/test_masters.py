"""With bf16, the optimiser's float32 begins with the weights that were given, and is exported on every rank.

The step of ZeRO 0 is DeepSpeed's own, and asks once whether its gradients are finite.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from mgcda_dist.training.unfused import OneLookStep
from tests.support.distributed import run_distributed
from tests.support.engine import micro_batches, tiny_engine
from tests.support.tiny import tiny_mgcda

_BATCH, _STEPS = 8, 3
_CLIP = 0.5
_SCALES = (1.0, 1e-3, math.nan, 1.0, math.inf, 1e-3)
"""Of the gradients of each step: above and below what clips, and not finite."""
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


class _Steps(NamedTuple):
    """Parameters and their float32; of each step whether it was refused, the norm, the number; looks of the host."""

    tensors: list[Tensor]
    said: list[tuple[bool, float, int]]
    looks: int


def _stepped(*, own: bool) -> _Steps:
    """Of DeepSpeed's optimiser for ZeRO 0, with its own step or ours."""
    from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer

    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4)).bfloat16()
    groups: Any = [{"params": layer.parameters(), "lr": 0.01 * (i + 1)} for i, layer in enumerate(network)]
    optimizer: Any = FP16_UnfusedOptimizer(
        torch.optim.AdamW(groups), low_precision_dtype=torch.bfloat16, clip_grad=_CLIP
    )
    step, looks, said = OneLookStep(optimizer, _CLIP) if own else None, list[Tensor](), list[tuple[bool, float, int]]()
    parameters, masters = list(network.parameters()), [master for group in optimizer.fp32_groups for master in group]
    generator = torch.Generator().manual_seed(1)

    def read(norm: Tensor) -> float:
        looks.append(norm)
        return float(norm)

    for scale in _SCALES:
        for parameter in parameters[:-1]:  # no loss depends on the last
            parameter.grad = torch.randn(parameter.shape, generator=generator).bfloat16() * min(scale, 1.0)
        parameters[1].grad = parameters[1].grad.mul(scale)  # pyright: ignore[reportOptionalMemberAccess]
        norm = step.look(read) if step is not None else None
        said.append((optimizer.step(), optimizer._global_grad_norm, optimizer.loss_scale_config.cur_iter))
        assert norm is None or norm == said[-1][1]
        assert all(master.grad is None for master in masters)
        optimizer.zero_grad()
    return _Steps([*parameters, *masters], said, len(looks))


class _All(NamedTuple):
    exported: dict[tuple[int, bool], _Found]
    steps: tuple[_Steps, _Steps]


def _all() -> _All:
    cases = [(stage, masters) for stage in range(4) for masters in (True, False)]
    exported = {(stage, masters): _exported(stage, masters=masters) for stage, masters in cases}
    return _All(exported, (_stepped(own=True), _stepped(own=False)))


@pytest.fixture(scope="module")
def all_of_it() -> list[_All]:
    return run_distributed(_all, 2)


@pytest.fixture(scope="module")
def found(all_of_it: list[_All]) -> list[dict[tuple[int, bool], _Found]]:
    return [of_rank.exported for of_rank in all_of_it]


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


def test_the_step_of_zero_0_is_that_of_deepspeed(all_of_it: list[_All]) -> None:
    own, theirs = all_of_it[0].steps
    assert own.looks == len(_SCALES), "one a step, of any number of parameters and groups"
    assert [refused for refused, *_ in own.said] == [not math.isfinite(scale) for scale in _SCALES]
    for one, other in zip(own.said, theirs.said, strict=True):
        assert one[::2] == other[::2] and math.isclose(one[1], other[1], rel_tol=1e-6)
    for x, y in zip(own.tensors, theirs.tensors, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-8)

"""Training in fp16: steps whose gradients overflow are left out on all ranks, the loss scale falls, the rest trains.

Where it cannot fall any more, the run ends as with any gradient that is not finite.

DeepSpeed refuses fp16 on processors; torch computes in it there all the same, so the refusal is switched off.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from mgcda_dist import checks
from mgcda_dist.errors import ConfigError, MgcdaError
from mgcda_dist.training.progress import Progress, StopRequest
from mgcda_dist.training.state import TrainState
from tests.support.configs import plain_config
from tests.support.distributed import run_distributed
from tests.support.engine import micro_batches, tiny_engine
from tests.support.tiny import tiny_mgcda

_BATCH, _STEPS, _FACTOR = 8, 9, 256.0
_AT_THE_FLOOR = 3
_STAGES = (1, 2, 3)


class _Found(NamedTuple):
    norms: list[float]
    scales: list[float]
    moved: list[bool]
    said: list[str]
    skipped_in_a_row: int
    masters_differ: bool
    at_the_floor: list[str]


def _train(stage: int, folder: Path) -> _Found:
    from mgcda_dist.training.loop import Hooks, fit

    model = tiny_mgcda(dtype=torch.float32)
    engine = tiny_engine(model, batch=_BATCH, precision="fp16", zero_stage=stage, export_masters=True)
    model.segmentation_weight = _FACTOR  # times 2¹⁶, too much for its gradients
    norms, scales, moved, said = list[float](), list[float](), list[bool](), list[str]()

    def exported() -> torch.Tensor:
        with engine.exported("student") as network:
            return torch.cat([x.flatten().clone() for x in network.parameters()])

    before = exported()

    def log(step: int, metrics: dict[str, float]) -> None:
        norms.append(metrics["train/gradient_norm"])

    def stepped(step: int, metrics: dict[str, float], numbers: dict[str, float]) -> None:
        nonlocal before
        now, scale = exported(), engine.loss_scale()
        assert scale is not None
        scales.append(scale)
        moved.append(not torch.equal(now, before))
        before = now

    hooks = Hooks(
        log=log,
        say=said.append,
        say_everywhere=said.append,
        alarm=lambda name, text: None,
        stop_request=lambda: StopRequest.STOP if state.step == _STEPS - 1 else StopRequest.NONE,
        local_sums=dict,
        summed=lambda sums: None,
        validate=dict,
        checkpoint=lambda numbers: None,
        last_good=lambda: "",
        progress=Progress(),
        stepped=stepped,
    )
    state = TrainState()
    config = plain_config(
        optim={"steps": _STEPS + _AT_THE_FLOOR, "max_skipped_in_a_row": 2},
        tracking={"log_every_steps": 1},
        checkpoint={"every_steps": 99},
    )
    batches = (batch for step in range(_STEPS + _AT_THE_FLOOR) for batch in micro_batches(step, _BATCH))
    fit(engine, batches, state, config, hooks)
    with engine.whole_parameters() as whole:
        rounded = torch.cat([x.flatten().float() for x in whole.segmenter.parameters()])
    seen = _Found(
        norms, scales.copy(), moved.copy(), said.copy(), state.skipped_in_a_row, not torch.equal(before, rounded), []
    )
    optimizer: Any = engine._engine.optimizer
    scaler = optimizer.loss_scaler
    scaler.cur_scale, scaler.raise_error_at_min_scale = 2.0, True  # as in checkpoints of DeepSpeed's own
    engine.save(folder / str(stage))
    engine.load(folder / str(stage))
    model.segmentation_weight = 1e9  # too much at any scale
    said.clear()
    try:
        fit(engine, batches, state, config, hooks)
    except MgcdaError as error:
        said.append(str(error))
    assert not any(moved[_STEPS:]) and scales[_STEPS:] == [1.0, 1.0], "one that was refused, and the last ended the run"
    return seen._replace(at_the_floor=said)


def _all(folder: Path) -> list[_Found]:
    from deepspeed.accelerator import get_accelerator

    accelerator = get_accelerator()
    assert accelerator is not None
    accelerator.is_fp16_supported = lambda: True
    return [_train(stage, folder) for stage in _STAGES]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[list[_Found]]:
    return run_distributed(_all, 2, tmp_path_factory.mktemp("checkpoints"), timeout_s=280)


@pytest.mark.slow
@pytest.mark.parametrize("stage", range(len(_STAGES)))
def test_steps_that_overflow_are_left_out_until_the_scale_fits(found: list[list[_Found]], stage: int) -> None:
    for of_rank in found:
        one = of_rank[stage]
        assert one.moved.index(True) > 2, "more in a row than optim.max_skipped_in_a_row, which is about faults"
        assert one.moved[-1] and one.skipped_in_a_row == 0
        earlier = [2.0**16, *one.scales[:-1]]
        assert [now / before for now, before in zip(one.scales, earlier, strict=True)] == [
            1.0 if moved else 0.5 for moved in one.moved
        ]
        assert len(one.norms) == sum(one.moved) and all(map(math.isfinite, one.norms))
        told = [text for text in one.said if "left the range of fp16" in text]
        assert len(told) == _STEPS - sum(one.moved)
        assert one.masters_differ and one.norms == found[0][stage].norms


@pytest.mark.slow
def test_the_norm_is_that_of_the_gradients_without_their_scale(found: list[list[_Found]]) -> None:
    last = [one.norms[-1] for one in found[0]]
    assert max(last) < 1.05 * min(last), "alike under every stage of ZeRO"


@pytest.mark.slow
@pytest.mark.parametrize("stage", range(len(_STAGES)))
def test_at_the_least_scale_they_end_the_run(found: list[list[_Found]], stage: int) -> None:
    for of_rank in found:
        overflown, skipped, ended = of_rank[stage].at_the_floor
        assert "the loss scale is 1 now" in overflown, "that was at 2, and counts as no fault"
        assert "the gradient is not finite, the step is skipped on all ranks (rank 0: d/" in skipped
        assert "the gradient is not finite, 2 steps in a row (optim.max_skipped_in_a_row)" in ended


def test_fp16_with_zero_0_is_refused() -> None:
    with pytest.raises(ValueError, match="with 0 DeepSpeed does not scale the loss of fp16"):
        plain_config(engine={"precision": "fp16", "zero_stage": 0})


def test_fp16_without_a_gpu_is_refused() -> None:
    config = plain_config(engine={"precision": "fp16", "zero_stage": 1}, model={"backbone": "test_resnet"})
    with pytest.raises(ConfigError, match=r"engine.precision: 'fp16' trains on GPUs only"):
        checks.check_model(config)

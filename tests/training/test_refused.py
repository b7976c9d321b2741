"""A loss or gradient that is not finite, on one rank: all ranks refuse the step, and nothing has moved."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mgcda_dist.config.schema import Config
from mgcda_dist.errors import MgcdaError
from mgcda_dist.method.batch import Batch, Prediction
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.method.terms import LossContext, Term
from mgcda_dist.models.segmentation_loss import SegmentationLoss
from mgcda_dist.training.loop import Hooks, fit, terms_not_finite
from mgcda_dist.training.progress import Progress, StopRequest
from mgcda_dist.training.state import TrainState
from tests.support.configs import plain_config
from tests.support.distributed import run_distributed
from tests.support.engine import micro_batches, tiny_engine
from tests.support.tiny import NUM_CLASSES, PlainSegmentationLoss, tiny_mgcda

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SIZES = (1, 2)
STEPS, _BATCH = 6, 8
CASES: list[tuple[str, int, int, str, int]] = [
    ("fp32", 0, 1, "gradient", 2),
    ("fp32", 0, 2, "loss", 2),
    ("fp32", 1, 2, "gradient", 2),
    ("fp32", 1, 1, "loss", 0),
    ("fp32", 2, 1, "infinite gradient", 2),
    ("fp32", 2, 2, "loss", 0),
    ("fp32", 3, 2, "gradient", 2),
    ("fp32", 3, 1, "loss", 2),
    ("bf16", 2, 1, "gradient", 2),
    ("bf16", 0, 1, "loss", 2),
]
"""(precision, ZeRO stage, accumulation, what is not finite, at which step)."""


class _Poison(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs[0] * ctx.factor, None


class _PoisonedLoss(PlainSegmentationLoss):
    def __init__(self) -> None:
        self.queue: deque[str] = deque()  # what is not finite, per micro-batch; all of a step are read before the first

    def __call__(self, prediction: Prediction, label: Tensor, context: LossContext) -> dict[str, Tensor]:
        what = self.queue.popleft()
        if what.endswith("gradient"):
            logits = _Poison.apply(prediction.logits, math.inf if what == "infinite gradient" else math.nan)
            prediction = prediction._replace(logits=logits)
        found = super().__call__(prediction, label, context)
        return {name: x * math.nan for name, x in found.items()} if what == "loss" else found


class _Run:
    """One run; `fit` goes on from `state.step`."""

    def __init__(self, precision: str, zero_stage: int, accumulation: int) -> None:
        self.world, self.loss = Collectives(), _PoisonedLoss()
        model = tiny_mgcda(dtype=torch.float32, queue_layout="sharded" if zero_stage % 2 else "replicated")
        model.segmentation_loss = self.loss
        self.engine = tiny_engine(
            model, batch=_BATCH, precision=precision, zero_stage=zero_stage, accumulation=accumulation
        )
        self.accumulation, self.state = accumulation, TrainState()
        self.said: list[str] = []
        self.logged: dict[int, dict[str, float]] = {}
        self.stop_after = STEPS
        self.damaged: tuple[str, ...] = ()  # samples of every micro-batch of the last rank

    def fit(self, what: str = "", bad_steps: tuple[int, ...] = ()) -> None:
        hooks = Hooks(
            log=lambda step, metrics: self.logged.update({step: metrics}),
            say=self.said.append,
            say_everywhere=self.said.append,
            alarm=lambda name, text: self.said.append(text),
            stop_request=lambda: StopRequest.STOP if self.state.step == self.stop_after else StopRequest.NONE,
            local_sums=dict,
            summed=lambda sums: None,
            validate=dict,
            checkpoint=lambda numbers: None,
            last_good=lambda: "The last good checkpoint is there",
            progress=Progress(),
        )
        fit(self.engine, self._batches(what, bad_steps), self.state, _config(self.accumulation), hooks)

    def _batches(self, what: str, bad_steps: tuple[int, ...]) -> Iterator[Batch]:
        last_rank = self.world.rank == self.world.size - 1
        for step in range(self.state.step, STEPS):
            for micro, batch in enumerate(micro_batches(step, _BATCH, self.accumulation)):
                # One rank, and of several micro-batches the first: the others are good.
                self.loss.queue.append(what if step in bad_steps and last_rank and micro == 0 else "")
                yield replace(batch, bad=self.damaged if last_rank else ())

    def tensors(self) -> dict[str, Tensor]:
        """All state of this rank: parameters, optimiser, buffers, its part of the memory."""
        files = self.engine.snapshot()
        own = {f"/model/{name}": value.detach() for name, value in self.engine.model.state_dict().items()}
        return own | dict(_leaves({name: copied.state for name, copied in files.items()}))


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, dict | list | tuple):
        for key, below in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(below, f"{path}/{key}")


def _refuse_all() -> list[dict[str, Any]]:
    """On every rank, per case: the run with a refused step compared with the one without it."""
    return [_compare(*case) for case in CASES]


def _compare(precision: str, stage: int, accumulation: int, what: str, bad_step: int) -> dict[str, Any]:
    refused, without = _Run(precision, stage, accumulation), _Run(precision, stage, accumulation)
    refused.fit(what, (bad_step,))
    if bad_step > 0:
        without.stop_after = bad_step - 1
        without.fit()
        assert without.state.step == bad_step
    without.state.step = bad_step + 1
    without.stop_after = STEPS
    without.fit()
    found, wanted = refused.tensors(), without.tensors()
    return {
        "names": sorted(found),
        "differing": sorted(found.keys() ^ wanted.keys())
        + [name for name, tensor in found.items() if name in wanted and not torch.equal(tensor, wanted[name])],
        "finite": all(bool(torch.isfinite(t).all()) for t in found.values() if t.is_floating_point()),
        "steps": sorted(refused.logged),
        "skipped": (refused.state.skipped_steps, refused.state.skipped_in_a_row),
        "said": refused.said,
        "losses": [refused.logged[step]["loss/total"] for step in sorted(refused.logged)],
    }


def _end() -> list[str]:
    """On every rank: the messages of runs that end with refused steps in a row, and with damaged samples."""
    refused, spoiled = _Run("fp32", 2, 1), _Run("fp32", 0, 1)
    refused.state.skipped_in_a_row = 1  # one before a restart
    spoiled.damaged = ("shard: key", "shard: other")
    messages: list[str] = []
    for run in (refused, spoiled):
        with pytest.raises(MgcdaError) as error:
            run.fit("loss", (0, 1))
        messages.append(str(error.value))
    return [*messages, *spoiled.said]


def _config(accumulation: int) -> Config:
    return plain_config(
        {"a": 3, "b": 3, "c": 2},
        data={"max_bad_samples": 1},
        optim={"steps": STEPS, "max_skipped_in_a_row": 3},
        engine={"accumulation": accumulation},
        tracking={"log_every_steps": 1},
    )


@pytest.fixture(scope="module")
def seen() -> dict[int, list[list[dict[str, Any]]]]:
    return {size: run_distributed(_refuse_all, size, timeout_s=280) for size in SIZES}


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
        terms = f"Not finite: loss/outlier, loss/seg on rank {size - 1})"
        assert (terms in sentence) if what == "loss" else "Not finite:" not in sentence
        # The samples of all ranks are named, on every rank.
        assert all(f"d/{bad_step}-{slot}" in sentence for slot in range(8))


@pytest.mark.parametrize("case", range(len(CASES)), ids=["-".join(map(str, case)) for case in CASES])
def test_it_is_refused_at_every_world_size_alike(seen: dict[int, list[list[dict[str, Any]]]], case: int) -> None:
    alone, two = (seen[size][0][case]["losses"] for size in SIZES)
    assert two == pytest.approx(alone, rel=2e-2 if CASES[case][0] == "bf16" else 1e-4)


@pytest.mark.parametrize("broken", [[], ["far"], ["far", "classification"]])
def test_the_term_of_a_loss_of_ones_own_is_named(broken: list[str]) -> None:
    class Own:
        terms: Mapping[str, Term] = {"near": Term("anomaly"), "far": Term("inlier"), "classification": Term("inlier")}

        def __call__(self, prediction: Prediction, label: Tensor, context: LossContext) -> dict[str, Tensor]:
            return {name: prediction.logits.sum() * (math.nan if name in broken else 1) for name in self.terms}

    model = tiny_mgcda(dtype=torch.float32)
    model.segmentation_loss = SegmentationLoss(Own(), NUM_CLASSES)
    batches = micro_batches(0, _BATCH, 2)
    counts = model.count(batches)
    found = terms_not_finite([model(batch, 0.5, counts) for batch in batches], "python:mine:Own")
    assert found == {
        0: [], 1: ["outlier/far of python:mine:Own"], 2: ["outlier/far of python:mine:Own", "loss/seg"],
    }[len(broken)]  # fmt: skip


def test_the_run_ends_on_all_ranks_after_several_in_a_row_and_with_too_many_damaged_samples() -> None:
    (refused, spoiled), (other, same, *said) = run_distributed(_end, 2, timeout_s=280)
    assert refused == other and spoiled == same
    for words in ("3 steps in a row (optim.max_skipped_in_a_row)", "rank 0: d/1-0", "rank 1: d/1-4", "d/1-7",
                  "Not finite: loss/outlier, loss/seg on rank 1", "The last good checkpoint is there",
                  "`override_config`"):  # fmt: skip
        assert words in refused
    assert "2 damaged samples, over data.max_bad_samples=1" in spoiled
    assert said == ["another sample stands in: shard: key", "another sample stands in: shard: other"]

"""Runs of the tiny network through the loop in which one rank's loss or gradient is not finite: run by every rank."""

from __future__ import annotations

import math
import os
import warnings
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mgcda_dist.config.schema import Config
from mgcda_dist.data.plan import slots_of
from mgcda_dist.errors import MgcdaError
from mgcda_dist.method.batch import Batch
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.training.engine import DeepSpeedEngine, deepspeed_config
from mgcda_dist.training.loop import Hooks, fit
from mgcda_dist.training.progress import Progress, StopRequest
from mgcda_dist.training.state import TrainState
from tests.support.tiny import PlainSegmentationLoss, tiny_batch, tiny_mgcda

__all__ = ["CASES", "STEPS", "refuse_all", "stop_after_three"]

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

    def __call__(self, logits: Tensor, label: Tensor) -> dict[str, Tensor]:
        what = self.queue.popleft()
        if what.endswith("gradient"):
            logits = _Poison.apply(logits, math.inf if what == "infinite gradient" else math.nan)
        found = super().__call__(logits, label)
        return {name: x * math.nan for name, x in found.items()} if what == "loss" else found


class _Run:
    """One run; `fit` goes on from `state.step`."""

    def __init__(self, precision: str, zero_stage: int, accumulation: int) -> None:
        self.world, self.loss = Collectives(), _PoisonedLoss()
        model = tiny_mgcda(dtype=torch.float32, queue_layout="sharded" if zero_stage % 2 else "replicated")
        model.segmentation_loss = self.loss
        groups: list[dict[str, Any]] = [
            {"params": list(model.parameters()), "name": "all", "lr": 1e-2, "base_lr": 1e-2}
        ]
        settings = deepspeed_config(
            micro_batch=_BATCH // self.world.size // accumulation,
            accumulation=accumulation,
            zero_stage=zero_stage,
            precision=precision,  # pyright: ignore[reportArgumentType]
            clip_norm=5.0,
        )
        self.engine = DeepSpeedEngine(model, torch.optim.AdamW(groups), settings, torch.device("cpu"))
        self.accumulation, self.state = accumulation, TrainState()
        self.said: list[str] = []
        self.logged: dict[int, dict[str, float]] = {}
        self.stop_after = STEPS

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
        rank, size = self.world.rank, self.world.size
        for step in range(self.state.step, STEPS):
            whole = tiny_batch(step, _BATCH)
            for micro in range(self.accumulation):
                slots = slots_of(rank, size, self.accumulation, micro, _BATCH)
                own = slice(slots.start, slots.stop)
                # One rank, and of several micro-batches the first: the others are good.
                bad = step in bad_steps and rank == size - 1 and micro == 0
                self.loss.queue.append(what if bad else "")
                keys = tuple(f"d/{step}-{slot}" for slot in slots)
                yield Batch(whole.image[own], whole.label[own], whole.domain[own], whole.slot[own], step, keys)

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


def refuse_all() -> list[dict[str, Any]]:
    """Per case: whether the run with a refused step ends as the one without it, and what it said and logged."""
    _prepare_process()
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


def stop_after_three() -> str:
    """The message of a run that stops after three refused steps in a row."""
    _prepare_process()
    run = _Run("fp32", 2, 1)
    run.state.skipped_in_a_row = 1  # one before a restart
    try:
        run.fit("loss", (0, 1))
    except MgcdaError as error:
        return str(error)
    return ""


def _prepare_process() -> None:
    # DeepSpeed's and torch's own deprecations; the suite's filters do not reach spawned processes.
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(Collectives().rank)


def _config(accumulation: int) -> Config:
    domains = [
        {"name": name, "shards": "none", "per_step": count} for name, count in zip("abc", (3, 3, 2), strict=True)
    ]
    return Config.model_validate(
        {
            "name": "refused",
            "data": {"class_space": "road8", "crop_px": (16, 24), "domains": domains},
            "model": {"backbone": "none"},
            "optim": {"steps": STEPS, "max_skipped_in_a_row": 3},
            "engine": {"accumulation": accumulation},
            "tracking": {"log_every_steps": 1},
        }
    )

"""A training step: under the whole stack against a bare loop, with the method against without it, and their memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from statistics import median
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.bench.ratios import CLOCKS, Ratio, note
from benchmarks.bench.setting import BASELINE, BareLoop, Setting, Spent, apart, in_blocks, join
from benchmarks.sections import Findings
from mgcda_dist.method import Batch

__all__ = ["memory", "price", "stack"]

_WARM_UP, _BLOCK = 5, 5
"""Steps; a block is as long as the way from one log line to the next, so that each has one."""
_SAME_LOSS = 1e-6
"""Relative, up to the warm-up: the engine sums the gradient's norm in another order, and after some more steps one
rounding decides which pixel is contrasted."""


class _EnoughError(Exception):
    """All steps are measured."""


class _Between:
    """Batches of a loader; before each is handed to the stack, the bare loop takes a step of it.

    Attributes:
        stack, bare: seconds of the steps of either; of the stack with the wait for its batch, and with what its other
            threads compute while the bare loop has its turn.
    """

    def __init__(self, batches: Any, bare: BareLoop, steps: int, seconds: float) -> None:
        self._batches, self._bare, self._steps = iter(batches), bare, steps
        self._last = time.perf_counter() + seconds
        self.stack, self.bare, self.losses = list[Spent](), list[Spent](), list[float]()
        self._began: Spent | None = None
        self._beside = 0.0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        number = len(self.losses)
        if number == self._steps or (number > _WARM_UP + 2 * _BLOCK and time.perf_counter() > self._last):
            self._end()
            raise _EnoughError
        batch = next(self._batches)
        self._end()
        before = Spent.now()
        self.losses.append(self._bare.step(batch, number / (self._steps + 1)))
        after = Spent.now()
        spent = after.since(before)
        self.bare.append(spent)
        self._beside, self._began = spent.process - spent.thread, after
        return batch

    def _end(self) -> None:
        """The stack has done its step, and has the batch of the next one."""
        if self._began is not None:
            spent = Spent.now().since(self._began)
            self.stack.append(Spent(spent.wall, spent.process + self._beside, spent.thread))


def stack(setting: Setting, found: Findings) -> None:
    """A whole worker (engine, loop, loader processes, record) step by step beside a bare loop on the same batches."""
    from mgcda_dist import build
    from mgcda_dist.runs.folder import RunFolder
    from mgcda_dist.tracking.jsonl import read_history
    from mgcda_dist.training import worker

    join(setting.folder / "store-stack", 0, 1)
    steps = _WARM_UP + _BLOCK * (2 if setting.tiny else 12)
    # One more than are measured: it is not taken, since there is no batch for it.
    config = setting.config("stack", "scaling.workers=1", f"optim.steps={steps + 1}")
    run = RunFolder(config)
    run.prepare(config, build.run_inputs(config))
    made: list[_Between] = []

    def between(*arguments: Any, **options: Any) -> _Between:
        made.append(_Between(training_stream(*arguments, **options), BareLoop(config), steps, 200.0))
        return made[0]

    training_stream = build.training_stream
    try:
        with patch.object(build, "training_stream", between):
            worker.train(config)
    except _EnoughError:
        pass
    (turns,) = made
    for clock, part in CLOCKS.items():
        sides = [
            in_blocks([getattr(spent, part) for spent in side[_WARM_UP:]], _BLOCK) for side in (turns.stack, turns.bare)
        ]
        ratios = [ours / bare for ours, bare in zip(*sides, strict=True)]
        note(found, Ratio.over(f"step under the whole stack / bare loop, {clock}", ratios, clock, at_most=1.03))
    found.fact("steps of a turn", _BLOCK)
    found.fact("bare step, s of processor time", median(s.process for s in turns.bare[_WARM_UP:]))
    numbers, losses = read_history(run.metrics)["loss/total"]
    differences = [abs(turns.losses[n] - loss) / abs(loss) for n, loss in zip(numbers, losses, strict=True)]
    begun = [difference for n, difference in zip(numbers, differences, strict=True) if n <= _WARM_UP]
    found.fact(f"largest relative difference of the two losses up to step {_WARM_UP}", max(begun))
    found.fact("… in all steps", max(differences))
    found.bounded("the bare loop does not compute the same: its loss differs", max(begun), _SAME_LOSS)


def price(setting: Setting, found: Findings) -> None:
    """Bare steps of the whole method and of the baseline in turns, on the same batches."""
    from mgcda_dist import build

    torch.set_num_threads(1)
    config = setting.config("price", "scaling.workers=1")
    loops = {"full": BareLoop(config), "baseline": BareLoop(setting.config("price", "scaling.workers=1", *BASELINE))}
    batches = list(build.global_batches(config, 2 if setting.tiny else 6))
    turns: list[dict[str, Spent]] = []
    for number in setting.turns(_WARM_UP + 40, 150.0):
        spent: dict[str, Spent] = {}
        for name in loops if number % 2 else reversed(loops):
            before = Spent.now()
            loops[name].step(batches[number % len(batches)], 0.5)
            spent[name] = Spent.now().since(before)
        turns.append(spent)
    warm_up = min(_WARM_UP, len(turns) - 1)
    for clock, part in CLOCKS.items():
        ratios = [getattr(turn["full"], part) / getattr(turn["baseline"], part) for turn in turns[warm_up:]]
        target = {"at_most": 1.10} if part == "process" else {}
        note(found, Ratio.over(f"step of the whole method / baseline, {clock}", ratios, clock, **target))
    seconds = median(turn["baseline"].process for turn in turns[warm_up:])
    found.fact("baseline step, s of processor time", seconds)


def memory(setting: Setting, found: Findings) -> None:
    """Peak of a process that trains some bare steps with the whole method, and of one that trains the baseline."""
    turns: list[dict[str, tuple[float, float]]] = []
    for number in setting.turns(3, 90.0):
        names = {"full": (), "baseline": BASELINE}
        order = names if number % 2 else reversed(names)
        turns.append({name: apart(_peak_mib, setting, names[name]) for name in order})
    ratios = [turn["full"][1] / turn["baseline"][1] for turn in turns]
    note(found, Ratio.over("peak memory of the whole method / baseline", ratios, "bytes", at_most=1.15))
    for name in ("full", "baseline"):
        before, peak = turns[-1][name]
        found.row("MiB of a process", model=name, **{"before a step": before, "peak": peak})


def _peak_mib(setting: Setting, changes: tuple[str, ...]) -> tuple[float, float]:
    from mgcda_dist import build

    torch.set_num_threads(1)
    config = setting.config("memory", "scaling.workers=1", *changes)
    batches = list(build.global_batches(config, 2))
    loop = BareLoop(config)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for step in range(4):
        loop.step(batches[step % 2], 0.5)
    return before / 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

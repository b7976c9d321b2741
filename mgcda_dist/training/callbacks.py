"""Calls the user's callbacks at the seams of a run; the step's second sum takes their errors and requests to all ranks.

No step has a further collective for them: a rank adds `callbacks/failed`, `callbacks/stop` and `callbacks/checkpoint`
to the sum that every step has anyway, so that all ranks end at the same step. Before and after the steps `settle` does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from mgcda_dist import build
from mgcda_dist.callbacks import Callback, Context, StopTraining
from mgcda_dist.config.schema import Config
from mgcda_dist.errors import MgcdaError
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.runs.folder import RunFolder
from mgcda_dist.training.progress import Progress
from mgcda_dist.training.state import EarlyEnd

__all__ = ["Callbacks"]

_FAILED, _STOP, _CHECKPOINT = "callbacks/failed", "callbacks/stop", "callbacks/checkpoint"
_MAY_STOP = ("on_step", "on_validation")
_SHARE, _FEWEST_STEPS, _LEAST_S = 0.1, 10, 1.0
"""A callback is called slow when it has taken this share of the time, of so many steps, and so many seconds."""
_LOG = logging.getLogger(__name__)


class _Failure(NamedTuple):
    where: str
    problem: str
    remedy: str


class Callbacks:
    """The callbacks of a run on this rank; without any, nothing is done and nothing is sent.

    Args:
        progress: where this rank is, for hang detection.
        network: gives a copy of the bare network with the present weights.
        is_sliced: true while the weights lie sliced over the ranks, which may differ between phases.
        log: records numbers of a step.
        committed: gives the step of a checkpoint that was committed since it was asked last, on rank 0; None: none.
        start_step: first step of this attempt.
    """

    def __init__(
        self,
        config: Config,
        run: RunFolder,
        world: Collectives,
        progress: Progress,
        *,
        network: Callable[[], nn.Module],
        is_sliced: Callable[[], bool],
        log: Callable[[dict[str, float], int], None],
        committed: Callable[[], int | None],
        start_step: int,
    ) -> None:
        self._config, self._run, self._world, self._progress = config, run, world, progress
        self._committed, self._step = committed, start_step
        self._network, self._is_sliced = network, is_sliced
        self._parts: list[_Part] = []
        self._failure: _Failure | None = None
        self._asked: EarlyEnd | None = None
        self._agreed: EarlyEnd | None = None
        self._due_checkpoint = 0
        self._began, self._num_steps, self._read_steps, self._read_s = time.perf_counter(), 0, 0, 0.0
        if not config.callbacks:
            return
        content = config.model_dump(mode="json")
        try:
            for index, made in enumerate(build.callbacks(config)):
                part = _Part(index, config.callbacks[index].use, made)
                part.context = Context(
                    rank=world.rank,
                    world_size=world.size,
                    folder=run.root,
                    config=content,
                    start_step=start_step,
                    say=partial(self._say, part),
                    log=log if world.rank == 0 else _ignore,
                    segmenter=partial(self._segmenter, part),
                )
                self._parts.append(part)
        except MgcdaError as error:  # the other ranks wait in `start`
            self._failure = _Failure(error.where, error.problem, error.remedy)
        except Exception as error:
            _LOG.exception("the callbacks could not be made")
            self._failure = _Failure("callbacks", f"{type(error).__name__}: {error}", self._see_log())

    @property
    def are_there(self) -> bool:
        """True where the configuration names any; the same on every rank."""
        return bool(self._config.callbacks)

    def start(self) -> None:
        """Call `on_start`; a collective. Raises `MgcdaError`, on all ranks, what was raised on one."""
        self._each("on_start", self._step)
        self._progress.enter("", self._step)
        self.settle()
        self._began, self._read_s = time.perf_counter(), self._seconds()
        for part in self._parts:
            part.seconds_at_start = part.seconds

    def _segmenter(self, part: _Part) -> nn.Module:
        if self._is_sliced() and not part.on_all:
            raise MgcdaError(
                part.where,
                "context.segmenter: with engine.zero_stage 3 the weights lie sliced over the ranks",
                'give the callback ranks = "all" and call it on every rank, or read the model of a checkpoint in '
                "on_checkpoint",
            )
        return self._network()

    def local_sums(self) -> dict[str, float]:
        """State of this rank, to be summed over ranks once a step; nothing where there are no callbacks."""
        if not self.are_there:
            return {}
        step = self._committed()
        return {
            _FAILED: float(self._failure is not None),
            _STOP: float(self._asked is not None),
            _CHECKPOINT: float(step or 0),
        }

    def summed(self, sums: dict[str, int]) -> None:
        """Take the sums over ranks of `local_sums`. Raises `MgcdaError`, on all ranks, what was raised on one."""
        if not self.are_there:
            return
        if sums[_FAILED]:
            self.settle()
        if sums[_STOP]:
            asked: list[EarlyEnd | None] = self._world.gather_objects(self._asked, "callbacks")
            self._agreed = next(filter(None, asked))
        self._due_checkpoint = sums[_CHECKPOINT]

    def early_end(self) -> EarlyEnd | None:
        """The request to end after this step that all ranks have agreed on."""
        return self._agreed

    def stepped(self, step: int, metrics: dict[str, float], validation: dict[str, float]) -> None:
        """Call `on_step`, and what else is due after the step."""
        self._step, self._num_steps = step, self._num_steps + 1
        self._each("on_step", step, step, metrics)
        if validation:
            self._each("on_validation", step, step, validation)
        if self._due_checkpoint:
            self._checkpoint(self._due_checkpoint)
            self._due_checkpoint = 0

    def checkpoints(self) -> None:
        """Call `on_checkpoint` for those that are committed and not told yet; a collective, after a flush.

        Raises:
            MgcdaError: on all ranks, what was raised on one.
        """
        if not self.are_there:
            return
        own: list[int] = []
        while (step := self._committed()) is not None:
            own.append(step)
        told: list[int] = self._world.gather_objects(own, "callbacks")[0]
        for step in told:
            self._checkpoint(step)
        self._progress.enter("", self._step)
        self.settle()

    def end(self, status: str, results: dict[str, float]) -> None:
        """Call `on_end`; never raises: `settle` does it where all ranks come to it."""
        failed = self._failure
        self._each("on_end", self._step, status, results)
        self._progress.enter("", self._step)
        if self._failure is not failed and self._failure is not None:
            self._run.say("callback", f"{self._failure.where}: {self._failure.problem}")

    def shared(self, results: dict[str, float]) -> dict[str, float]:
        """The results of rank 0, on every rank; a collective."""
        return self._world.gather_objects(results, "callbacks")[0] if self.are_there else results

    def settle(self) -> None:
        """Raise on all ranks, as `MgcdaError`, what was raised on one; a collective."""
        if not self.are_there:
            return
        failures: list[_Failure | None] = self._world.gather_objects(self._failure, "callbacks")
        if first := next(filter(None, failures), None):
            self._failure = None  # so that the end does not tell it again
            raise MgcdaError(*first)

    def times(self) -> dict[str, float]:
        """`time/callbacks_s`: seconds per step on this rank since the last call; an event names one that is slow."""
        if not self.are_there:
            return {}
        seconds, steps = self._seconds(), max(self._num_steps - self._read_steps, 1)
        taken_s = (seconds - self._read_s) / steps
        self._read_steps, self._read_s = self._num_steps, seconds
        elapsed_s = max(time.perf_counter() - self._began, 1e-9)
        for part in self._parts:
            spent_s = part.seconds - part.seconds_at_start
            if part.is_slow or self._num_steps < _FEWEST_STEPS or spent_s < max(_SHARE * elapsed_s, _LEAST_S):
                continue
            part.is_slow = True
            self._tell(part, f"takes {spent_s / elapsed_s:.0%} of the time of training")
        return {"time/callbacks_s": taken_s}

    # ------------------------------------------------------------------------------------------------------- calling

    def _checkpoint(self, step: int) -> None:
        self._each("on_checkpoint", self._step, step, self._run.checkpoints / f"step-{step:08d}")

    def _each(self, hook: str, step: int, *arguments: Any) -> None:
        """Call one method of all callbacks that have it; `step`: where the training is."""
        for part in self._parts:
            if hook not in part.methods:
                continue
            # On every rank, so that ranks in lockstep count alike (`Report.moves`).
            self._progress.enter(f"callback {part.name}.{hook}", step)
            if not part.is_off and (part.on_all or self._world.rank == 0):
                self._call(part, hook, step, [dict(x) if isinstance(x, dict) else x for x in arguments])

    def _call(self, part: _Part, hook: str, step: int, arguments: list[Any]) -> None:
        started = time.perf_counter()
        try:
            part.methods[hook](part.context, *arguments)
        except StopTraining as request:
            if hook not in _MAY_STOP:
                self._failed(part, hook, step, request)
            elif self._asked is None:
                self._asked = EarlyEnd(part.use, f"{part.name}: {request.reason}" if request.reason else part.name)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also an exit: the other ranks would wait
            self._failed(part, hook, step, error)
        taken_s, limit_s = time.perf_counter() - started, self._config.scaling.hang_timeout_s
        part.seconds += taken_s
        if taken_s > limit_s / 2 and hook not in part.long:
            part.long.add(hook)
            self._tell(
                part,
                f"took {taken_s:.0f} s in {hook} of step {step}: after {limit_s:g} s (scaling.hang_timeout_s) a rank "
                "that does not move is killed",
            )

    def _failed(self, part: _Part, hook: str, step: int, error: BaseException) -> None:
        """Count an exception: the first one ends the run, or it is an event, up to a bound."""
        part.num_errors += 1
        on_rank = f" on rank {self._world.rank}" if self._world.size > 1 else ""
        what = f"{hook} of step {step} raised {type(error).__name__}{on_rank}" + (f": {error}" if str(error) else "")
        if isinstance(error, StopTraining):
            what += f"; it is for {' and '.join(_MAY_STOP)}"
        _LOG.error("%s: %s", part.where, what, exc_info=error)
        if part.warns:
            part.is_off = part.num_errors >= part.max_errors
            off = f"; after {part.num_errors} errors it is switched off" if part.is_off else ""
            self._tell(part, f"{what}{off}", errors=part.num_errors)
        elif self._failure is None:
            remedy = f'{self._see_log()}; with on_error = "warn" in the callback the run goes on without it'
            self._failure = _Failure(part.where, what, remedy)

    def _tell(self, part: _Part, text: str, **facts: Any) -> None:
        self._event(part, f"{part.where}: {text}", **facts)

    def _say(self, part: _Part, text: str) -> None:
        self._event(part, f"{part.name}: {text}")

    def _event(self, part: _Part, text: str, **facts: Any) -> None:
        self._run.say("callback", text, callback=part.use, rank=self._world.rank, step=self._step, **facts)

    def _seconds(self) -> float:
        return sum(part.seconds for part in self._parts)

    def _see_log(self) -> str:
        return f"its traceback is in {self._run.logs / f'worker-{self._world.rank}.log'}"


class _Part:
    """One callback, with what is counted of it on this rank."""

    def __init__(self, index: int, use: str, callback: Any) -> None:
        self.where, self.use = f"callbacks.{index} ({use})", use
        self.name = type(callback).__name__
        self.methods = build.methods_of(callback)
        self.on_all = getattr(callback, "ranks", Callback.ranks) == "all"
        self.warns = getattr(callback, "on_error", Callback.on_error) == "warn"
        self.max_errors = int(getattr(callback, "max_errors", Callback.max_errors))
        self.context: Context | None = None
        self.num_errors, self.is_off = 0, False
        self.seconds, self.seconds_at_start, self.is_slow = 0.0, 0.0, False
        self.long: set[str] = set()


def _ignore(metrics: dict[str, float], step: int) -> None:
    """Numbers of ranks other than 0 are not recorded."""

"""Callbacks of a training: the base class, the context its methods are given, and the request to end early.

    class Patience(Callback):
        def on_validation(self, context, step, metrics):
            if metrics["validation/road/ap"] < 0.1:
                raise StopTraining("it learns nothing")

A configuration names them (`callbacks: [python:MODULE:NAME]`). Everything here works without torch, in tests and
notebooks; `mgcda_dist.training.callbacks` calls them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["HOOKS", "Callback", "Context", "StopTraining"]

HOOKS = {"on_start": 1, "on_step": 3, "on_validation": 3, "on_checkpoint": 3, "on_end": 3}
"""Methods that are called, with the number of their arguments."""


class StopTraining(Exception):
    """Raised in `on_step` or `on_validation`, on any rank: end the training early, as if its last step were reached.

    All ranks end together after the step that follows: it is validated and written as a checkpoint, then the run is
    evaluated and finished. A restart does not train on, unless the callback was taken out of the configuration.

    Args:
        reason: for the events of the run.
    """

    def __init__(self, reason: str = "") -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True)
class Context:
    """Surroundings of a callback on one rank.

    Attributes:
        rank, world_size: this process, 0 … world_size-1.
        folder: of the run.
        config: the whole configuration, as JSON has it.
        start_step: first step of this attempt; greater than 0 where a run goes on from a checkpoint.
        say: records a sentence as an event of the run, which `mgcda train` and the report show.
        log: records numbers by name for a step, beside those of the run; on ranks other than 0 it does nothing.
        segmenter: gives a copy of the bare network (`torch.nn.Module`, evaluation mode, on the device of this rank)
            with the weights that a checkpoint would export now. Changing it changes nothing in training; the next call
            overwrites it. It holds memory for a second network from the first call on. With `engine.zero_stage: 3` the
            weights lie sliced over the ranks and the call is a collective: only for callbacks with `ranks = "all"`,
            and on every rank at the same step.
    """

    rank: int
    world_size: int
    folder: Path
    config: dict[str, Any]
    start_step: int
    say: Callable[[str], None]
    log: Callable[[dict[str, float], int], None]
    segmenter: Callable[[], Any]


class Callback:
    """Base of callbacks: every method does nothing and may be left out.

    The object is made on every rank, its methods are called on those that `ranks` says; open files in `on_start`. A
    callback watches: it changes neither gradients nor batches. Collectives of torch.distributed are for `ranks = "all"`
    alone, where every rank must make the same ones; elsewhere they would wait for ranks that do not come.

    Metrics are numbers by name, the same on every rank but for times, in a dict of the callback's own. The time that
    callbacks take is recorded as `time/callbacks_s`; one that does not return for `scaling.hang_timeout_s` counts as a
    hang.

    Attributes:
        ranks: called on rank 0 alone, or on all.
        on_error: the first exception ends the run on all ranks, with an error that names callback, method and step; or
            each is an event, and after `max_errors` of them on a rank the callback is switched off there.
        max_errors: for `warn`.
    """

    ranks: Literal["first", "all"] = "first"
    on_error: Literal["raise", "warn"] = "raise"
    max_errors: int = 3

    def on_start(self, context: Context) -> None:
        """Before the first step of each attempt of the run, after a checkpoint was loaded."""

    def on_step(self, context: Context, step: int, metrics: dict[str, float]) -> None:
        """After every step (numbered from 0), also one that was refused: its loss or gradient is not finite.

        Args:
            metrics: the terms of the loss, `train/gradient_norm`, `train/skipped_steps` and `data/bad_samples`; every
                `tracking.log_every_steps` all that is logged.
        """

    def on_validation(self, context: Context, step: int, metrics: dict[str, float]) -> None:
        """After each validation of `checkpoint.best`.

        Args:
            metrics: `validation/SET/METRIC`, fractions.
        """

    def on_checkpoint(self, context: Context, step: int, folder: Path) -> None:
        """After a checkpoint was committed, which may be some steps after its own; not if the attempt ends before.

        Args:
            step: steps done when it was taken.
            folder: complete, with the bare network in `model/`; newer ones will replace it (`checkpoint.keep`).
        """

    def on_end(self, context: Context, status: str, results: dict[str, float]) -> None:
        """At the end of each attempt, unless the process is killed.

        Args:
            status: FINISHED; KILLED: stopped, and can go on; FAILED.
            results: `eval/SET/METRIC` as fractions, of a run that has finished.
        """

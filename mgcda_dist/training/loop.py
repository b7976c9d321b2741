"""The training loop: read, forward, backward, step, accept or refuse, log, checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch

from mgcda_dist.config.schema import Config
from mgcda_dist.errors import MgcdaError
from mgcda_dist.method.batch import Batch
from mgcda_dist.method.mgcda import Outcome
from mgcda_dist.method.reduce import NamedSum
from mgcda_dist.training.ahead import CopiedAhead
from mgcda_dist.training.clock import Clock, Meter
from mgcda_dist.training.engine import DeepSpeedEngine
from mgcda_dist.training.health import HealthWatch
from mgcda_dist.training.progress import Progress, StopRequest, agreed
from mgcda_dist.training.schedule import group_factor
from mgcda_dist.training.state import EarlyEnd, TrainState

__all__ = ["Hooks", "fit", "terms_not_finite"]

_STOP, _LEAVE, _BAD = "trainer/stop", "trainer/leave", "trainer/bad_samples"
_LEAST_SCALE = 1.0
"""Loss scale of fp16 at which gradients that overflow are no matter of the scale."""
_CALMER = "lower optim.lr_heads and optim.lr_backbone, or optim.clip_norm, with `override_config` or another name=…"


@dataclass
class Hooks:
    """Connections of the loop to its surroundings: logging, checkpoints, validation, requests to stop.

    Attributes:
        log: metrics of a step; called on every rank with equal losses.
        say: a sentence for the user.
        say_everywhere: the same, from any rank.
        alarm: name and sentence of a health alarm.
        stop_request: of this rank.
        local_sums: more numbers of this rank that are summed over ranks once a step; always the same names.
        summed: receives the sums, which are equal on every rank.
        validate: numbers on the validation set, for the step just done; a collective.
        checkpoint: begin to write one that carries these numbers; a collective.
        last_good: which checkpoint to go back to, in words; a collective.
        progress: where this rank is, for hang detection.
        early_end: the request to end after the step that was summed, the same on every rank.
        stepped: told each step with its metrics and those of its validation; None: nobody listens.
        meters: of this rank's steps.
        part: around each part of a step, by name: marks it in a profile.
    """

    log: Callable[[int, dict[str, float]], None]
    say: Callable[[str], None]
    say_everywhere: Callable[[str], None]
    alarm: Callable[[str, str], None]
    stop_request: Callable[[], StopRequest]
    local_sums: Callable[[], dict[str, float]]
    summed: Callable[[dict[str, int]], None]
    validate: Callable[[], dict[str, float]]
    checkpoint: Callable[[dict[str, float]], None]
    last_good: Callable[[], str]
    progress: Progress
    early_end: Callable[[], EarlyEnd | None] = lambda: None
    stepped: Callable[[int, dict[str, float], dict[str, float]], None] | None = None
    meters: Sequence[Meter] = ()
    part: Callable[[str], AbstractContextManager[object]] = lambda name: nullcontext()


def fit(
    engine: DeepSpeedEngine,
    batches: Iterator[Batch],
    state: TrainState,
    config: Config,
    hooks: Hooks,
    *,
    first_step: int = 0,
) -> StopRequest:
    """Train from `state.step` to the last step.

    Args:
        batches: this rank's micro-batches, starting with those of `state.step`.
        state: advanced in place.
        first_step: of the phase that the configuration is of, at which progress is 0.

    Returns:
        The request that ended it, on which all ranks have agreed; `StopRequest.NONE`: the last step was reached, or
        the one after which it was to end early.
    """
    optim, model, clock = config.optim, engine.model, Clock(config.data.global_batch, hooks.meters)
    watch = HealthWatch(config, state.alarms, first_step=first_step, peak_accuracy=state.peak_accuracy)
    ahead = CopiedAhead(batches, engine.device)
    while state.step < optim.steps and state.early_end is None:
        step, progress = state.step, (state.step - first_step) / (optim.steps - first_step)
        micro_batches = _read(ahead, config.engine.accumulation, step, hooks, clock)
        own = _trainer_sums(micro_batches, hooks)
        fetch, used_scale = partial(_fetch, ahead, step, hooks, clock), engine.loss_scale()
        outcomes, totals = _forward_and_backward(engine, micro_batches, progress, own, config, hooks, fetch)
        # Sums over ranks: every rank sees the same numbers and takes the same branch.
        values = totals.scalars()
        hooks.summed({name: round(values[name]) for name in own})
        _count_bad_samples(state, round(values[_BAD]), config)
        state.early_end = hooks.early_end()
        last = step + 1 == optim.steps or state.early_end is not None
        due = (step + 1) % config.checkpoint.every_steps == 0
        norm = engine.gradient_norm()
        accepted = math.isfinite(norm)
        if accepted:
            engine.commit(outcomes, totals)
        is_scaled = used_scale is not None and used_scale > _LEAST_SCALE
        overflown = not accepted and math.isfinite(values["loss/total"]) and is_scaled
        state.count(accepted, is_fault=not overflown)
        clock.tick()
        if overflown:
            scale = f"the loss scale is {engine.loss_scale():g} now"
            hooks.say(f"step {step}: gradients left the range of fp16, the step is left out; {scale}")
        elif not accepted:
            samples = [key for batch in micro_batches for key in batch.keys]
            terms = terms_not_finite(outcomes, config.loss.outlier)
            _refuse(engine, values["loss/total"], samples, terms, state, config, hooks)
        watch.see(step, values["loss/total"], norm)
        hooks.progress.enter("validation", step)
        numbers = hooks.validate() if due or last else {}
        logged = accepted and (numbers or last or step % config.tracking.log_every_steps == 0)
        metrics = dict[str, float]()
        if logged or hooks.stepped is not None:
            metrics = {name: values[name] for name in outcomes[0].sums if name in values}
            metrics |= {"train/gradient_norm": norm, "train/skipped_steps": float(state.skipped_steps)}
            metrics |= {"data/bad_samples": float(state.bad_samples)}
        if logged:
            metrics |= model.health(outcomes, totals, progress) | engine.learning_rates() | numbers | clock.read()
            hooks.log(step, metrics)
            for name, sentence in watch.read(step, metrics).items():
                state.alarms.append(name)
                hooks.alarm(name, sentence)
        if hooks.stepped is not None:
            hooks.stepped(step, metrics, numbers)
        request = agreed(values[_STOP], values[_LEAVE])
        if request or due or last:
            hooks.progress.enter("checkpoint", step)
            hooks.checkpoint(numbers)
        if request:
            return request
    return StopRequest.NONE


def _read(ahead: CopiedAhead, number: int, step: int, hooks: Hooks, clock: Clock) -> list[Batch]:
    """The micro-batches of a step, on the engine's device."""
    with _part("loader", step, hooks), clock.waiting():
        micro_batches = [next(ahead) for _ in range(number)]
    for sentence in (sentence for batch in micro_batches for sentence in batch.bad):
        hooks.say_everywhere(f"another sample stands in: {sentence}")
    return micro_batches


def _fetch(ahead: CopiedAhead, step: int, hooks: Hooks, clock: Clock) -> None:
    """Let a GPU have a micro-batch of the next step while it computes this one."""
    with _part("loader", step, hooks), clock.waiting():
        ahead.fetch()


def _trainer_sums(micro_batches: list[Batch], hooks: Hooks) -> dict[str, float]:
    """Numbers of this rank that the trainer sums over ranks beside the values of the method, by name."""
    request = hooks.stop_request()
    return {
        _STOP: float(request is StopRequest.STOP),
        _LEAVE: float(request is StopRequest.LEAVE),
        _BAD: float(sum(len(batch.bad) for batch in micro_batches)),
        **hooks.local_sums(),
    }


def _forward_and_backward(
    engine: DeepSpeedEngine,
    micro_batches: list[Batch],
    progress: float,
    own: dict[str, float],
    config: Config,
    hooks: Hooks,
    fetch: Callable[[], None],
) -> tuple[list[Outcome], NamedSum]:
    """Accumulate the gradient of a step; the engine applies it or refuses it.

    Args:
        fetch: called for each micro-batch before the host waits for the device: when its work is handed over, or as
            much of it as the engine lets the host hand over.

    Returns:
        Outcomes of the micro-batches, and the sums over ranks of their values and of the trainer's `own`.
    """
    step, model = micro_batches[0].step, engine.model
    with _part("forward", step, hooks):
        counts, outcomes, totals = model.count(micro_batches), list[Outcome](), None
    for batch in micro_batches:
        with _part("forward", step, hooks):
            outcome = engine.forward(batch, progress, counts)
            outcomes.append(outcome)
            loss = outcome.loss
            if len(outcomes) == len(micro_batches):
                totals = model.total(outcomes, own)
                # A loss that is not finite may have a gradient that is: make sure that the engine refuses the step.
                # Without a look at it: a GPU would have nothing to do while the host waits for the number.
                loss = loss * torch.where(totals.wait()["loss/total"].isfinite(), 1.0, math.nan).to(loss.dtype)
        if engine.waits_after_backward:
            fetch()
        with _part("backward", step, hooks):
            engine.backward(loss)
        if not engine.waits_after_backward:
            fetch()
        with _part("optimizer", step, hooks):
            engine.step(partial(group_factor, progress, config.optim.schedule, config.optim.warmup), totals)
    assert totals is not None
    return outcomes, totals


@contextmanager
def _part(name: str, step: int, hooks: Hooks) -> Generator[None]:
    """A part of a step, for hang detection and in a profile."""
    hooks.progress.enter(name, step)
    with hooks.part(name):
        yield


def _count_bad_samples(state: TrainState, found: int, config: Config) -> None:
    """Add up over the run; the count is a sum over ranks, so all of them stop together."""
    state.bad_samples += found
    if state.bad_samples > config.data.max_bad_samples:
        raise MgcdaError(
            f"step {state.step}",
            f"{state.bad_samples} damaged samples, over data.max_bad_samples={config.data.max_bad_samples}; "
            "each is named in the run's events.jsonl",
            "run `mgcda shards verify` on the shards of the streams, and write them again; mend the items of Datasets",
        )


def terms_not_finite(outcomes: Sequence[Outcome], outlier: str) -> list[str]:
    """Names of the loss terms that are not finite on this rank, as they are logged.

    Args:
        outcomes: of the step's micro-batches.
        outlier: name of, or reference to, the outlier loss, which is named with the terms that are its own.
    """
    found = {
        name
        for outcome in outcomes
        for name, value in outcome.sums.items()
        if name.startswith(("loss/", "outlier/")) and not bool(value.isfinite().all())
    } - {"loss/total"}
    own = sorted(name for name in found if name.startswith("outlier/"))
    others = found.difference(own, ["loss/outlier"] if own else [])
    return [*(f"{name} of {outlier}" for name in own), *sorted(others)]


def _refuse(
    engine: DeepSpeedEngine,
    loss: float,
    samples: list[str],
    terms: list[str],
    state: TrainState,
    config: Config,
    hooks: Hooks,
) -> None:
    """Report the samples of a step that was refused on all ranks, and the terms; stop after several in a row."""
    what = "gradient" if math.isfinite(loss) else "loss"
    of_ranks = engine.model.collectives.gather_objects((samples, terms), "refused")
    listing = "; ".join(f"rank {rank}: {', '.join(keys) or 'unknown'}" for rank, (keys, _) in enumerate(of_ranks))
    named = [f"{', '.join(names)} on rank {rank}" for rank, (_, names) in enumerate(of_ranks) if names]
    listing += f". Not finite: {'; '.join(named)}" if named else ""
    if state.skipped_in_a_row < config.optim.max_skipped_in_a_row:
        hooks.say(f"step {state.step - 1}: the {what} is not finite, the step is skipped on all ranks ({listing})")
        return
    raise MgcdaError(
        f"step {state.step - 1}",
        f"the {what} is not finite, {state.skipped_in_a_row} steps in a row (optim.max_skipped_in_a_row). "
        f"Samples: {listing}. {hooks.last_good()}",
        f"look at these samples; {_CALMER}",
    )

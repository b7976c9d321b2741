"""The training loop, on one page: read, forward, agree, backward, step, commit, log, checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mgcda_dist.batch import Batch
from mgcda_dist.config.schema import Config
from mgcda_dist.errors import MgcdaError
from mgcda_dist.mgcda import Outcome
from mgcda_dist.training.engine import DeepSpeedEngine
from mgcda_dist.training.health import HealthWatch
from mgcda_dist.training.schedule import rate_factor
from mgcda_dist.training.state import TrainState
from mgcda_dist.training.watchdog import Progress, Wish, agreed

__all__ = ["Hooks", "fit"]

_MAX_SKIPPED_IN_A_ROW = 5
_CALMER = "lower optim.lr_heads and optim.lr_backbone, or optim.clip_norm, in a run of another name=…"


@dataclass
class Hooks:
    """What the loop tells the outside.

    Attributes:
        log: metrics of a step; called on every rank with equal losses.
        say: a sentence for the user.
        say_everywhere: the same, from any rank.
        checkpoint: write one now; a collective.
        wish: what was asked of this rank.
        progress: where this rank is, for the watchdog.
    """

    log: Callable[[int, dict[str, float]], None]
    say: Callable[[str], None]
    say_everywhere: Callable[[str], None]
    checkpoint: Callable[[], None]
    wish: Callable[[], Wish]
    progress: Progress


def fit(engine: DeepSpeedEngine, batches: Iterator[Batch], state: TrainState, config: Config, hooks: Hooks) -> Wish:
    """Train from `state.step` to the last step.

    Args:
        engine: the engine.
        batches: this rank's micro-batches, starting with those of `state.step`.
        state: advanced in place.
        config: the run's configuration.
        hooks: logging, checkpoints and the wish to stop.

    Returns:
        The wish that ended it, on which all ranks have agreed; `Wish.NONE`: the last step was reached.
    """
    optim, watch, clock = config.optim, HealthWatch(config), _Clock(config.data.global_batch)
    skipped_in_a_row = 0
    while state.step < optim.steps:
        step, progress = state.step, state.step / optim.steps
        log_now = step % config.tracking.log_every_steps == 0 or step == optim.steps - 1
        outcomes: list[Outcome] = []
        samples: tuple[str, ...] = ()
        finite, wish = True, Wish.NONE
        for _ in range(config.engine.accumulation):
            hooks.progress.enter("loader", step)
            with clock.waiting():
                batch = next(batches)
            samples = batch.keys
            for sentence in batch.bad:
                hooks.say_everywhere(f"another sample stands in: {sentence}")
            hooks.progress.enter("forward", step)
            outcome = engine.forward(batch, progress, signal=hooks.wish().signal)
            # The values are sums over ranks: every rank sees the same numbers and takes the same branch.
            terms = outcome.terms()
            wish = max(wish, agreed(terms["signal"]))
            _count_bad_samples(state, int(terms["data/bad_samples"]), config)
            finite = finite and math.isfinite(terms["loss/total"])
            if not finite:
                break
            hooks.progress.enter("backward", step)
            engine.backward(outcome.loss)
            hooks.progress.enter("optimizer", step)
            engine.step(rate_factor(progress, optim.schedule, optim.warmup))
            engine.model.commit(outcome)
            outcomes.append(outcome)
        state.step += 1
        skipped_in_a_row = 0 if finite else _refuse(state, samples, skipped_in_a_row, config, hooks)
        clock.tick()
        norm = engine.gradient_norm() if finite else None
        if norm is not None and not math.isfinite(norm):
            # The parameters have taken this gradient already; a checkpoint of them must not be sealed.
            raise MgcdaError(f"step {step}", "the gradient is not finite", _CALMER)
        if finite and log_now:
            metrics = _mean_terms(outcomes) | engine.model.health(outcomes[-1], progress) | engine.learning_rates()
            metrics |= {
                "train/skipped_steps": state.skipped_steps,
                "data/bad_samples": state.bad_samples,
            } | clock.read()
            metrics |= {} if norm is None else {"train/gradient_norm": norm}
            hooks.log(step, metrics)
            for sentence in watch.read(step, metrics):
                hooks.say(sentence)
        if wish or (state.step % config.checkpoint.every_steps == 0 and state.step < optim.steps):
            hooks.progress.enter("checkpoint", step)
            hooks.checkpoint()
        if wish:
            return wish
    return Wish.NONE


def _count_bad_samples(state: TrainState, found: int, config: Config) -> None:
    """Add up over the run; the count is a sum over ranks, so all of them stop together."""
    state.bad_samples += found
    if state.bad_samples > config.data.max_bad_samples:
        raise MgcdaError(
            f"step {state.step}",
            f"{state.bad_samples} damaged samples, over data.max_bad_samples={config.data.max_bad_samples}; "
            "each is named in the run's events.jsonl",
            "run `mgcda shards verify` on the shards of the domains, and write them again",
        )


def _refuse(state: TrainState, keys: tuple[str, ...], in_a_row: int, config: Config, hooks: Hooks) -> int:
    """Count a step whose loss is not finite; stop after several in a row."""
    state.skipped_steps += 1
    samples = ", ".join(keys) or "unknown"
    if in_a_row + 1 >= _MAX_SKIPPED_IN_A_ROW or config.engine.accumulation > 1:
        raise MgcdaError(
            f"step {state.step - 1}",
            f"the loss is not finite ({in_a_row + 1} steps in a row); this rank's samples: {samples}",
            _CALMER,
        )
    hooks.say(f"step {state.step - 1}: the loss is not finite, the step is skipped (samples: {samples})")
    return in_a_row + 1


def _mean_terms(outcomes: list[Outcome]) -> dict[str, float]:
    """Terms of the step: the mean over its micro-batches."""
    all_terms = [outcome.terms() for outcome in outcomes]
    names = [name for name in all_terms[0] if name not in ("signal", "data/bad_samples")]
    return {name: sum(terms[name] for terms in all_terms) / len(all_terms) for name in names}


class _Clock:
    """Images per second and the share of time spent waiting for data, since the last reading."""

    def __init__(self, images_per_step: int) -> None:
        self._images_per_step = images_per_step
        self._reset()

    def _reset(self) -> None:
        self._start, self._waited_s, self._steps = time.perf_counter(), 0.0, 0

    def waiting(self) -> _Stopwatch:
        return _Stopwatch(self)

    def add_wait(self, seconds: float) -> None:
        self._waited_s += seconds

    def tick(self) -> None:
        self._steps += 1

    def read(self) -> dict[str, float]:
        seconds = max(time.perf_counter() - self._start, 1e-9)
        metrics = {
            "time/images_per_s": self._steps * self._images_per_step / seconds,
            "time/step_s": seconds / max(self._steps, 1),
            "time/data_wait_share": self._waited_s / seconds,
        }
        self._reset()
        return metrics


class _Stopwatch:
    def __init__(self, clock: _Clock) -> None:
        self._clock = clock

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *exc: object) -> None:
        self._clock.add_wait(time.perf_counter() - self._start)

"""The border between two phases of a training: the model of the one is written, and the next begins with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from mgcda_dist import build
from mgcda_dist.config.phases import Phase
from mgcda_dist.config.schema import Config
from mgcda_dist.errors import ConfigError
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.method.mgcda import MGCDA
from mgcda_dist.runs.folder import RunFolder
from mgcda_dist.runs.room import needed
from mgcda_dist.training.engine import DeepSpeedEngine
from mgcda_dist.training.state import TrainState

__all__ = ["keep_phase", "keep_width", "phase_of", "started"]


def phase_of(phases: list[Phase], state: TrainState) -> Phase:
    """The phase that goes on at a state.

    Raises:
        ConfigError: the phases have been changed so that the state lies in none of them.
    """
    phase = phases[min(state.phase, len(phases) - 1)]
    if phase.index != state.phase or not phase.first_step <= state.step <= phase.end_step:
        shown = f"phase {phase.name}, " if phase.name else ""
        raise ConfigError(
            "phases",
            f"the checkpoint is at step {state.step} of phase {state.phase + 1}, which is not within {shown}steps "
            f"{phase.first_step} to {phase.end_step}",
            "bring the steps of the phases before back, or choose another name=…",
        )
    return phase


def started(phase: Phase, before: Phase | None, run: RunFolder) -> Config:
    """The configuration that the network of a phase is built from: it starts with that of the phase before."""
    if before is None:
        return phase.config
    place = _folder(run, before)
    weights = f"run:{place}" if place.is_dir() else "none"  # gone, but a checkpoint has all
    model = phase.config.model.model_copy(update={"weights": weights, "weights_sha256": None})
    return phase.config.model_copy(update={"model": model})


def keep_width(model: MGCDA, state: TrainState, *, goes_on: bool) -> None:
    """Note the width of MDAT's masks in the state; where the phase goes on from a checkpoint, take it from there."""
    if model.mdat is None:
        state.reach_px = None
    elif goes_on and state.reach_px is not None:
        model.mdat.reach_px = state.reach_px
    else:
        state.reach_px = None if model.mdat.reach_px is None else list(model.mdat.reach_px)


def keep_phase(phase: Phase, run: RunFolder, engine: DeepSpeedEngine, world: Collectives) -> None:
    """Write the network at the end of a phase to `phases/NAME`, where it can be evaluated; a collective.

    Raises:
        CheckpointError: on rank 0, there was no room for it.
    """
    config, folder = phase.config, _folder(run, phase)
    with engine.exported(config.model.export) as network:
        if world.rank == 0:
            say: Callable[[str], None] = partial(run.say, "storage")
            write = partial(build.save_model, config, network, folder)
            needed(f"the model of phase {phase.name}", write, folder, say, config.checkpoint.room_wait_s)
    world.meet("model of a phase")


def _folder(run: RunFolder, phase: Phase) -> Path:
    return run.phases / phase.name

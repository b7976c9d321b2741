"""The content of a checkpoint: gathered from the engine, the network and the loop, and restored to them."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path

from torch import nn

from mgcda_dist import __version__, build
from mgcda_dist.choices import RunFile
from mgcda_dist.config.run import CheckpointConfig
from mgcda_dist.config.schema import Config
from mgcda_dist.errors import CheckpointError
from mgcda_dist.evaluation.results import Selection
from mgcda_dist.files import write_atomically
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.runs.folder import RunFolder
from mgcda_dist.runs.room import needed
from mgcda_dist.tracking.jsonl import read_lines
from mgcda_dist.training.checkpoint.snapshot import HostCopy, write_tensors
from mgcda_dist.training.checkpoint.store import CheckpointManifest, CheckpointStore
from mgcda_dist.training.checkpoint.writer import CheckpointWriter
from mgcda_dist.training.engine import DeepSpeedEngine, to_universal
from mgcda_dist.training.state import TrainState
from mgcda_dist.training.validation import measured

__all__ = ["Found", "Saver", "find", "keep_model", "resume"]


class Saver:
    """Starts checkpoints of the present state.

    Args:
        config: of the phase of the training that the engine is for.
        of_run: with all its phases; what a later launch is compared with.
    """

    def __init__(
        self, engine: DeepSpeedEngine, writer: CheckpointWriter, config: Config, of_run: Config, world: Collectives
    ) -> None:
        self._engine, self._writer, self._config, self._world = engine, writer, config, world
        self._of_run = of_run
        self._earlier: dict[str, HostCopy] = {}
        self._numbers: dict[str, float] = {}

    def start(self, state: TrainState, numbers: dict[str, float]) -> None:
        """Copy the state to the host and start to write it; a collective. Not `asynchronous`: wait for the commit.

        Args:
            numbers: from `Validation.measure`.
        """
        self._numbers = numbers
        self._writer.wait()  # the copies of the previous checkpoint are reused
        copies = self._engine.snapshot(self._earlier)
        with self._engine.exported(self._config.model.export) as network:
            if self._world.rank == 0:
                name = "model/model.safetensors"
                copies[name] = HostCopy(write_tensors, network.state_dict(), self._earlier.get(name))
        self._earlier = copies
        files: dict[str, Callable[[Path], object]] = {**copies}
        if self._world.rank == 0:
            files["model/model.json"] = _text(build.model_text(self._config))
            files["state.json"] = _text(state.as_json())
        self._writer.start(files, self._manifest(state, numbers))
        if not self._config.checkpoint.asynchronous:
            self._writer.flush()

    def repeat(self, state: TrainState) -> None:
        """`start` with the numbers of the last one, which could not be written."""
        self.start(state, self._numbers)

    def _manifest(self, state: TrainState, numbers: dict[str, float]) -> CheckpointManifest:
        packages = {name: version(name) for name in ("torch", "deepspeed")}
        return CheckpointManifest(
            step=state.step,
            world_size=self._world.size,
            zero_stage=self._config.engine.zero_stage,
            versions={"mgcda_dist": __version__, "python": platform.python_version(), **packages},
            config=self._of_run.model_dump(mode="json"),
            validation=measured(self._config, numbers),
        )


class Found:
    """The checkpoint to resume from, the same on every rank.

    Attributes:
        convert: true where another number of ranks has written slices of the optimiser's state.
    """

    def __init__(self, path: Path, manifest: CheckpointManifest, num_ranks: int) -> None:
        self.path = path
        self.convert = manifest.zero_stage > 0 and manifest.world_size != num_ranks

    @cached_property
    def state(self) -> TrainState:
        """That of the loop."""
        return TrainState.load(self.path / "state.json")


def find(
    store: CheckpointStore, world: Collectives, config: CheckpointConfig, run: RunFolder, *, start_over: bool
) -> Found | None:
    """The newest intact checkpoint; a collective: rank 0 chooses, so that all ranks load the same one.

    What is done again, because a checkpoint is damaged or gone, is an event.

    Args:
        start_over: begin at step 0 however much is done again, where no checkpoint is intact.

    Raises:
        CheckpointError: on every rank, none is intact and the user has to be asked.
    """
    own: tuple[tuple[Path, CheckpointManifest] | None, CheckpointError | None] | None = None
    if world.rank == 0:
        damaged: list[CheckpointError] = []
        newest = store.newest(damaged.append)
        refusal = None if newest else _refusal(config, run, damaged, start_over=start_over)
        if refusal is None:
            _say_what_is_done_again(run, newest, damaged)
        own = None if newest is None else (newest, CheckpointManifest.load(newest)), refusal
    of_rank_0: tuple[tuple[Path, CheckpointManifest] | None, CheckpointError | None]
    of_rank_0 = world.gather_objects(own, "checkpoint")[0]
    chosen, refused = of_rank_0
    if refused is not None:
        raise refused
    return None if chosen is None else Found(*chosen, world.size)


def _refusal(
    config: CheckpointConfig, run: RunFolder, damaged: list[CheckpointError], *, start_over: bool
) -> CheckpointError | None:
    """The error in the place of a new start from step 0; None: the run may start."""
    where, back = str(run.checkpoints), "bring the checkpoints back"
    if config.resume == "must":
        problem = "no checkpoint is intact, and checkpoint.resume is `must`"
        return CheckpointError(where, problem, f"{back}, or checkpoint.resume=auto")
    lost = _steps_done(run, damaged)
    # Without a trace of a checkpoint the run may have been killed before its first one.
    limit = config.start_over_steps if damaged else max(config.start_over_steps, 2 * config.every_steps)
    if lost < limit or start_over:
        return None
    why = _in_words(damaged) if damaged else "they are gone"
    return CheckpointError(
        where,
        f"no checkpoint is intact ({why}): {lost} steps would be done again from step 0, which is not begun unasked "
        f"from {limit} on (checkpoint.start_over_steps)",
        f"{back}, or choose `start_over` to begin again",
    )


def _say_what_is_done_again(run: RunFolder, newest: Path | None, damaged: list[CheckpointError]) -> None:
    if newest is None and (done := _steps_done(run, damaged)):
        why = _in_words(damaged) if damaged else "there is no checkpoint"
        run.say("damaged", f"the run starts over at step 0: {why}. Its first {done} steps are done again")
    elif newest is not None and damaged:
        again = f"it goes on from {newest.name}, and what came after is done again"
        run.say("damaged", f"a checkpoint of the run is damaged ({_in_words(damaged)}): {again}")


def _steps_done(run: RunFolder, damaged: list[CheckpointError]) -> int:
    """Steps that the run has done so far, by its record and by the names of its damaged checkpoints."""
    of_folders = [int(Path(error.where).name.removeprefix("step-")) for error in damaged]
    return max([*of_folders, *(step + 1 for step, _, _ in read_lines(run.metrics))], default=0)


def _in_words(damaged: list[CheckpointError]) -> str:
    return "; ".join(f"{Path(error.where).name}: {error.problem}" for error in damaged)


def resume(engine: DeepSpeedEngine, found: Found, world: Collectives, say: Callable[[str], None]) -> None:
    """Load a checkpoint, converted where another number of ranks wrote it; a collective."""
    source, state = found.path, found.state
    if found.convert:
        source = found.path.with_name(f".converted-{state.step:08d}")
        if world.rank == 0:
            say(f"converting the checkpoint of step {state.step} for {world.size} workers")
            shutil.rmtree(source, ignore_errors=True)
            to_universal(found.path, source)
        world.meet("checkpoint converted")
    engine.load(source)
    if found.convert:
        world.meet("checkpoint loaded")
        if world.rank == 0:
            shutil.rmtree(source, ignore_errors=True)
    if world.rank == 0:
        say(f"resuming at step {state.step} from {found.path}")


def keep_model(
    config: Config, run: RunFolder, store: CheckpointStore, network: nn.Module, world: Collectives
) -> Selection | None:
    """Write the bare segmenter of the run: the last one, or the best by validation where configured; a collective.

    Args:
        network: from `DeepSpeedEngine.exported`, as it is after the last step.

    Returns:
        On rank 0 the validation that chose it; None for the last one, and on other ranks.

    Raises:
        CheckpointError: on rank 0, there was no room for it.
    """
    chosen: Selection | None = None
    if world.rank == 0:
        say: Callable[[str], None] = partial(run.say, "storage")
        write = partial(needed, "the model", folder=run.model, say=say, limit_s=config.checkpoint.room_wait_s)
        best = store.best() if config.checkpoint.best is not None else None
        if best is None:
            write(lambda: build.save_model(config, network, run.model))
        else:
            step, validation = best
            chosen = Selection(step, **asdict(validation))
            for name in (RunFile.WEIGHTS, RunFile.METADATA):
                copy = partial(shutil.copyfile, store.path(step) / "model" / name)
                write(partial(write_atomically, run.model / name, copy))
            how = f"{chosen.metric} {chosen.value:.4f} on {chosen.set}"
            run.say("note", f"the model is that of step {step}, the best by validation: {how}")
    world.meet("model")
    return chosen


def _text(text: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    return write

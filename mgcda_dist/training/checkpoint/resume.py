"""The content of a checkpoint: gathered from the engine, the network and the loop, and restored to them."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch.distributed as dist

from mgcda_dist import __version__, build
from mgcda_dist.choices import RunFile
from mgcda_dist.config.schema import Config
from mgcda_dist.evaluation.results import Selection
from mgcda_dist.files import write_atomically
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.method.mgcda import MGCDA
from mgcda_dist.runs.folder import RunFolder
from mgcda_dist.training.checkpoint.snapshot import HostCopy, write_tensors
from mgcda_dist.training.checkpoint.store import CheckpointManifest, CheckpointStore
from mgcda_dist.training.checkpoint.writer import CheckpointWriter
from mgcda_dist.training.engine import DeepSpeedEngine, to_universal
from mgcda_dist.training.state import TrainState
from mgcda_dist.training.validation import measured

__all__ = ["Found", "Saver", "find", "keep_model", "resume"]


class Saver:
    """Starts checkpoints of the present state."""

    def __init__(self, engine: DeepSpeedEngine, writer: CheckpointWriter, config: Config, world: Collectives) -> None:
        self._engine, self._writer, self._config, self._world = engine, writer, config, world
        self._earlier: dict[str, HostCopy] = {}

    def start(self, state: TrainState, numbers: dict[str, float]) -> None:
        """Copy the state to the host and start to write it; a collective. Not `asynchronous`: wait for the commit.

        Args:
            numbers: from `Validation.measure`.
        """
        self._writer.wait()  # the copies of the previous checkpoint are reused
        copies = self._engine.snapshot(self._earlier)
        with self._engine.whole_parameters() as model:
            if self._world.rank == 0:
                name, exported = "model/model.safetensors", model.network(self._config.model.export)
                copies[name] = HostCopy(write_tensors, exported.state_dict(), self._earlier.get(name))
        self._earlier = copies
        files: dict[str, Callable[[Path], object]] = {**copies}
        if self._world.rank == 0:
            files["model/model.json"] = _text(build.model_text(self._config))
            files["state.json"] = _text(state.as_json())
        self._writer.start(files, self._manifest(state, numbers))
        if not self._config.checkpoint.asynchronous:
            self._writer.flush()

    def _manifest(self, state: TrainState, numbers: dict[str, float]) -> CheckpointManifest:
        config = self._config.model_dump(mode="json")
        packages = {name: version(name) for name in ("torch", "deepspeed")}
        return CheckpointManifest(
            step=state.step,
            world_size=self._world.size,
            zero_stage=self._config.engine.zero_stage,
            versions={"mgcda_dist": __version__, "python": platform.python_version(), **packages},
            config_hash=hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16],
            config=config,
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


def find(store: CheckpointStore, world: Collectives) -> Found | None:
    """The newest intact checkpoint; a collective: rank 0 chooses, so that all ranks load the same one."""
    newest = store.newest() if world.rank == 0 else None
    own = None if newest is None else (newest, CheckpointManifest.load(newest))
    chosen: tuple[Path, CheckpointManifest] | None = world.gather_objects(own, "checkpoint")[0]
    return None if chosen is None else Found(*chosen, world.size)


def resume(engine: DeepSpeedEngine, found: Found, world: Collectives, say: Callable[[str], None]) -> TrainState:
    """Load a checkpoint, converted where another number of ranks wrote it; a collective."""
    source, state = found.path, TrainState.load(found.path / "state.json")
    if found.convert:
        source = found.path.with_name(f".converted-{state.step:08d}")
        if world.rank == 0:
            say(f"converting the checkpoint of step {state.step} for {world.size} workers")
            shutil.rmtree(source, ignore_errors=True)
            to_universal(found.path, source)
        _barrier()
    engine.load(source)
    if found.convert:
        _barrier()
        if world.rank == 0:
            shutil.rmtree(source, ignore_errors=True)
    if world.rank == 0:
        say(f"resuming at step {state.step} from {found.path}")
    return state


def keep_model(
    config: Config, run: RunFolder, store: CheckpointStore, model: MGCDA, world: Collectives
) -> Selection | None:
    """Write the bare segmenter of the run: the last one, or the best by validation where configured; a collective.

    Args:
        model: the whole model as it is after the last step.

    Returns:
        On rank 0 the validation that chose it; None for the last one, and on other ranks.
    """
    chosen: Selection | None = None
    if world.rank == 0:
        best = store.best() if config.checkpoint.best is not None else None
        if best is None:
            build.save_model(config, model.network(config.model.export), run.model)
        else:
            step, validation = best
            chosen = Selection(step, **asdict(validation))
            for name in (RunFile.WEIGHTS, RunFile.METADATA):
                write_atomically(run.model / name, partial(shutil.copyfile, store.path(step) / "model" / name))
            how = f"{chosen.metric} {chosen.value:.4f} on {chosen.set}"
            run.say("note", f"the model is that of step {step}, the best by validation: {how}")
    _barrier()
    return chosen


def _text(text: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    return write


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()

"""Content of a checkpoint of a run, collected from engine, network and loop, and restored."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import nn

from mgcda_dist import __version__, build
from mgcda_dist.config.schema import Config
from mgcda_dist.files import write_atomically
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.runs.folder import RunFolder
from mgcda_dist.training.checkpoint.snapshot import HostCopy, write_tensors
from mgcda_dist.training.checkpoint.store import CheckpointStore, verify
from mgcda_dist.training.checkpoint.writer import CheckpointWriter
from mgcda_dist.training.engine import DeepSpeedEngine, to_universal
from mgcda_dist.training.state import TrainState
from mgcda_dist.training.validation import choice

__all__ = ["Found", "Saver", "find", "keep_model", "resume"]


class Saver:
    """Starts checkpoints of the present state.

    Args:
        engine: has model and optimiser.
        writer: writes.
        config: of the run.
        world: the ranks.
    """

    def __init__(self, engine: DeepSpeedEngine, writer: CheckpointWriter, config: Config, world: Collectives) -> None:
        self._engine, self._writer, self._config, self._world = engine, writer, config, world
        self._earlier: dict[str, HostCopy] = {}

    def start(self, state: TrainState, numbers: dict[str, float]) -> None:
        """Copy the state and begin to write it; a collective. Not asynchronous: until it is sealed.

        Args:
            state: of the loop.
            numbers: from `Validation.measure`.
        """
        self._writer.wait()  # for the memory of the one before
        copies = self._engine.snapshot(self._earlier)
        with self._engine.whole_parameters() as model:
            if self._world.rank == 0:
                name = "model/model.safetensors"
                copies[name] = HostCopy(write_tensors, _segmenter(model).state_dict(), self._earlier.get(name))
        self._earlier = copies
        files: dict[str, Callable[[Path], object]] = {**copies}
        if self._world.rank == 0:
            files["model/model.json"] = _text(build.model_text(self._config))
            files["state.json"] = _text(state.as_json())
        self._writer.start(files, self._facts(state, numbers))
        if not self._config.checkpoint.asynchronous:
            self._writer.flush()

    def _facts(self, state: TrainState, numbers: dict[str, float]) -> dict[str, Any]:
        config = self._config.model_dump(mode="json")
        packages = {name: version(name) for name in ("torch", "deepspeed")}
        validation = choice(self._config, numbers)
        return {
            "step": state.step,
            "world_size": self._world.size,
            "zero_stage": self._config.engine.zero_stage,
            "versions": {"mgcda_dist": __version__, "python": platform.python_version(), **packages},
            "config_hash": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16],
            "config": config,
        } | ({"validation": validation} if validation else {})


class Found:
    """The checkpoint to go on from, the same on every rank.

    Attributes:
        path: its folder.
        facts: its manifest.
        convert: whether another number of ranks has written slices of the optimiser's state.
    """

    def __init__(self, path: Path, facts: dict[str, Any], num_ranks: int) -> None:
        self.path, self.facts = path, facts
        self.convert = facts["zero_stage"] > 0 and facts["world_size"] != num_ranks


def find(store: CheckpointStore, world: Collectives) -> Found | None:
    """The newest whole checkpoint; a collective: rank 0 reads and chooses, so that all ranks load the same one."""
    chosen: list[Any] = [None]
    if world.rank == 0:
        newest = store.newest()
        chosen = [newest and (str(newest), verify(newest, files=False))]
    if dist.is_initialized():
        dist.broadcast_object_list(chosen, src=0)
    return None if chosen[0] is None else Found(Path(chosen[0][0]), chosen[0][1], world.size)


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
    config: Config, run: RunFolder, store: CheckpointStore, model: nn.Module, world: Collectives
) -> dict[str, Any] | None:
    """Write the run's bare segmenter: the last, or the best checkpoint's where a validation chooses; a collective.

    Args:
        config: of the run.
        run: its folder.
        store: its checkpoints.
        model: the whole model as it is after the last step.
        world: the ranks.

    Returns:
        The step, set, metric and value that chose it; None when it is the last one's.
    """
    chosen: dict[str, Any] | None = None
    if world.rank == 0:
        best = store.best() if config.checkpoint.best is not None else None
        if best is None:
            build.save_model(config, _segmenter(model), run.model)
        else:
            chosen = {"step": best[0], **best[1]}
            for name in ("model.safetensors", "model.json"):
                write_atomically(run.model / name, partial(shutil.copyfile, store.path(best[0]) / "model" / name))
            how = f"{chosen['metric']} {chosen['value']:.4f} on {chosen['set']}"
            run.say("note", f"the model is that of step {chosen['step']}, the best by validation: {how}")
    _barrier()
    return chosen


def _segmenter(model: nn.Module) -> nn.Module:
    return model.segmenter  # pyright: ignore[reportReturnType]


def _text(text: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    return write


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()

"""The run folder: its files, its lock, its events, and the decision to continue an existing run."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mgcda_dist.choices import DATABASE, RunFile
from mgcda_dist.config.fields import FREE, OVERRIDE
from mgcda_dist.config.keys import on_resume
from mgcda_dist.config.load import as_of_today, dump_config, stored_config
from mgcda_dist.config.schema import Config
from mgcda_dist.data.inputs import RunInput, read_inputs
from mgcda_dist.errors import ConfigError, MgcdaError
from mgcda_dist.files import prepare_folder, write_atomically
from mgcda_dist.runs.events import EVENTS, append_event, read_events
from mgcda_dist.trust import open_lock

__all__ = ["RunFolder", "changes_in_words", "differing_keys", "flatten", "locked", "mlflow_uri", "prepare_runs"]


class RunFolder:
    """`RUNS/NAME/`: all files of a run; only the MLflow database is shared and lies outside."""

    def __init__(self, config: Config) -> None:
        self.root = Path(config.runs) / config.name
        self.config_file = self.root / RunFile.CONFIG
        self.manifests = self.root / RunFile.MANIFESTS
        self.provenance = self.root / RunFile.PROVENANCE
        self.checkpoints = self.root / RunFile.CHECKPOINTS
        self.metrics = self.root / RunFile.METRICS
        self.record = self.root / RunFile.CALLS
        self.events = self.root / EVENTS
        self.model = self.root / "model"
        self.phases = self.root / "phases"
        self.pictures = self.root / "pictures"
        self.profile = self.root / "profile"
        self.report = self.root / "report.html"
        self.evaluation = self.root / "evaluation"
        self.results = self.root / RunFile.RESULTS
        self.logs = self.root / "logs"
        self.tensorboard = self.root / "tensorboard"
        self.wandb_id_file = self.root / "wandb" / "run_id"
        self.stop_file = self.root / "stop"
        self.run_id_file = self.root / RunFile.RUN_ID

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder: two launches of one run would overwrite each other's checkpoints.

        Raises:
            ConfigError: another process holds it, or it cannot be written to.
        """
        prepare_runs(self.root)
        with locked(self.root, "the run is going on already", "wait for it, or choose another name=…"):
            yield

    def prepare(self, config: Config, inputs: Sequence[RunInput] = (), *, override_config: bool = False) -> None:
        """Create the folder, or check that the run in it may be continued.

        Args:
            inputs: from `build.run_inputs`; compared with those of an earlier launch.
            override_config: continue with another configuration if every state fits it; recorded as an event.

        Raises:
            ConfigError: `checkpoint.resume` forbids or requires a continuation, or the configuration or the training
                data changed in a way that makes a different run.
        """
        has_checkpoint = any(self.checkpoints.glob(RunFile.COMMITTED))
        if config.checkpoint.resume == "must" and not has_checkpoint:
            problem = f"is `must`, but {self.checkpoints} holds no checkpoint"
            raise ConfigError("checkpoint.resume", problem, "checkpoint.resume=auto starts the run")
        if has_checkpoint and config.checkpoint.resume == "never":
            raise ConfigError(
                "checkpoint.resume",
                f"is `never`, but {self.root} holds a run already",
                "choose another name=…, or checkpoint.resume=auto to continue it",
            )
        before, now = self._config_so_far(), config.model_dump(mode="json")
        if has_checkpoint and before is not None:
            self._compare(before, now, override=override_config)
        other = self._changed_input(inputs)
        if has_checkpoint and other:
            raise ConfigError(
                other.folder,
                f"the {'shards' if other.shards else 'items'} of {other.key} are not those the run started with",
                "choose another name=… to train on the new data, or bring the old back",
            )
        for folder in (self.root, self.checkpoints, self.pictures, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        self.stop_file.unlink(missing_ok=True)
        is_another = before is None or other is not None or bool(differing_keys(before, now))
        if not has_checkpoint and is_another:
            # Another run without a checkpoint had this name: its record is not continued. A run that was killed before
            # its first checkpoint and starts over stays the same run.
            ledger = self.record.with_name(RunFile.LEDGER)
            for file in (self.run_id_file, self.wandb_id_file, self.metrics, self.record, ledger):
                file.unlink(missing_ok=True)
            shutil.rmtree(self.tensorboard, ignore_errors=True)
        write_atomically(self.config_file, dump_config(config))

    def _changed_input(self, inputs: Sequence[RunInput]) -> RunInput | None:
        """The first training input whose content is not that of an earlier launch; None: all are the same."""
        earlier = {each.key: each.digest for each in read_inputs(self.manifests)}
        changed = (e for e in inputs if e.role.is_training and earlier.get(e.key, e.digest) != e.digest)
        return next(changed, None)

    def _config_so_far(self) -> dict[str, Any] | None:
        """Configuration of the newest checkpoint as JSON, else of the launch; None: this is a new run."""
        for path in sorted(self.checkpoints.glob(RunFile.COMMITTED), reverse=True):
            try:
                config = json.loads(path.read_text(encoding="utf-8")).get("config")
            except (OSError, ValueError, AttributeError):
                continue  # damaged: the worker reports it and takes the one before
            if isinstance(config, dict):
                return as_of_today(config)
        if not self.config_file.is_file():
            return None
        return stored_config(self.config_file)

    def _compare(self, before: dict[str, Any], now: dict[str, Any], *, override: bool) -> None:
        differing = differing_keys(before, now)
        if not differing:
            return
        where = str(self.config_file)
        refused = {key: change for key, change in differing.items() if on_resume(key) is not OVERRIDE}
        if override and refused:
            raise ConfigError(
                where,
                f"`override_config` cannot change {changes_in_words(refused)}: the checkpoint's state would not fit, "
                "or would mean something else",
                "choose another name=… for the new configuration",
            )
        if not override:
            way_on = "" if refused else ", or choose `override_config` to resume with the new one"
            raise ConfigError(
                where,
                f"the run was started with another configuration ({changes_in_words(differing)})",
                f"choose another name=… for the new configuration, or remove the folder to start over{way_on}",
            )
        changes = {key: list(change) for key, change in sorted(differing.items())}
        self.say("override", f"goes on with another configuration: {changes_in_words(differing)}", changes=changes)

    def say(self, kind: str, text: str, **facts: Any) -> None:
        """Append an event for the user, which `mgcda train` and the report show; the fields are written as JSON."""
        append_event(self.events, kind, text, **facts)

    def command(self) -> str:
        """The command of the newest launch; empty if there was none."""
        launches = [event for event in read_events(self.events) if event.get("kind") == "launch"]
        return str(launches[-1]["command"]) if launches else ""


def changes_in_words(differing: dict[str, tuple[Any, Any]]) -> str:
    """The keys of `differing_keys` with both values, as `key: before → now; …`."""
    return "; ".join(f"{key}: {old!r} → {new!r}" for key, (old, new) in sorted(differing.items()))


def prepare_runs(folder: Path) -> None:
    """Make the folder of a run, or the one above it, and try to write into it, before time is spent on the run.

    Raises:
        ConfigError: it cannot be written to; the key `runs` is named.
    """
    try:
        prepare_folder(folder)
    except MgcdaError as error:
        raise ConfigError("runs", f"{error.where} {error.problem}", f"{error.remedy}: runs=FOLDER") from None


@contextmanager
def locked(folder: Path, problem: str, remedy: str) -> Iterator[None]:
    """Lock a folder, which is made, for this process.

    Raises:
        ConfigError: with these words: another process holds it.
        MgcdaError: the folder cannot be written to.
    """
    prepare_folder(folder)
    with open_lock(folder / ".lock") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(str(folder), f"{problem} ({file.read().strip()})", remedy) from None
        file.truncate(0)
        file.write(f"host {platform.node()}, process {os.getpid()}\n")
        file.flush()
        yield


def differing_keys(before: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys with different values that affect training, with (before, now); sections as JSON."""
    old, new = flatten(before), flatten(now)
    off = tuple(
        f"{name}."
        for name in ("mdat", "cacl", "teacher")
        if old.get(f"{name}.enabled") is new.get(f"{name}.enabled") is False
    )
    return {
        key: (old.get(key), new.get(key))
        for key in old.keys() | new.keys()
        if old.get(key) != new.get(key) and on_resume(key) is not FREE and not key.startswith(off)
    }


def mlflow_uri(config: Config) -> str | None:
    """MLflow server of a run: the configured one, else an sqlite database beside all runs; None: switched off."""
    uri = config.tracking.mlflow_uri
    if uri == "none":
        return None
    return uri or f"sqlite:///{Path(config.runs).absolute() / DATABASE}"


def flatten(data: Any, prefix: str = "") -> dict[str, Any]:
    """Nested sections and lists as one level of dotted keys."""
    if isinstance(data, dict):
        items = data.items()
    elif isinstance(data, list):
        items = enumerate(data)
    else:
        return {prefix: data}
    flat: dict[str, Any] = {}
    for key, value in items:
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat

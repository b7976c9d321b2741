"""Sweep runner: one `mgcda train` process per run, as many at a time as resources allow.

The run folders are the only state of a sweep: a run with results is finished, one with a checkpoint is continued, any
other is started. So the same command continues a sweep that was stopped in any way.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mgcda_dist.choices import ExitCode, RunFile
from mgcda_dist.cluster.scaling import is_open
from mgcda_dist.config.load import dump_config, stored_config
from mgcda_dist.config.schema import Config
from mgcda_dist.config.sweep import PlannedRun
from mgcda_dist.errors import ConfigError
from mgcda_dist.runs.events import Tail
from mgcda_dist.runs.folder import RunFolder, changes_in_words, differing_keys, flatten

__all__ = ["Ended", "Resources", "Runner", "Running", "is_finished"]


@dataclass(frozen=True)
class Resources:
    """Resources that the runs share.

    Attributes:
        local: True if they are of this machine: then each run sees only its own GPUs.
    """

    cpus: float
    gpus: int
    local: bool = True


@dataclass
class Running:
    """A run in progress."""

    run: PlannedRun
    process: subprocess.Popen[bytes]
    tail: Tail
    log: Path
    gpus: tuple[int, ...]


@dataclass(frozen=True)
class Ended:
    """End of a run: `reason` is the error of a failed one, `log` its whole output."""

    run: PlannedRun
    state: Literal["finished", "failed", "stopped"]
    reason: str
    log: Path


def is_finished(run: PlannedRun) -> bool:
    """True if the folder of a run holds its results.

    Raises:
        ConfigError: the folder holds a run of another configuration.
    """
    folder = RunFolder(run.config)
    started = any(folder.checkpoints.glob(RunFile.COMMITTED))
    if not folder.config_file.is_file() or not (started or folder.results.is_file()):
        return False
    before = stored_config(folder.config_file)
    now = run.config.model_dump(mode="json")
    differing = differing_keys(before, now)
    if differing:
        raise ConfigError(
            str(folder.config_file),
            f"the sweep holds this run with another configuration ({changes_in_words(differing)})",
            "choose another `name` for the new sweep, or remove the folder to start this run over",
        )
    # With other evaluation sets the trained network is evaluated again.
    return folder.results.is_file() and flatten(before.get("evaluation")) == flatten(now["evaluation"])


class Runner:
    """Starts runs in their order as soon as there is room, and returns those that have ended.

    Args:
        runs: to do, in order.
        folder: of the sweep; receives each run's configuration and what it printed.
        resources: to share. A run that asks for more runs alone, and reports itself what it lacks.
        at_once: most runs at a time; None: as many as there is room for.
        parent_run: MLflow run that the runs appear under.
        command: trains; its further arguments are a configuration file and changes.
    """

    def __init__(
        self,
        runs: Sequence[PlannedRun],
        folder: Path,
        resources: Resources,
        *,
        at_once: int | None = None,
        parent_run: str | None = None,
        command: Sequence[str] = (sys.executable, "-m", "mgcda_dist", "train"),
    ) -> None:
        self.waiting = list(runs)
        self.running: list[Running] = []
        self.stopping = False
        self._folder, self._resources, self._at_once, self._parent = folder, resources, at_once, parent_run
        self._command = command
        for name in ("configs", "logs"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    @property
    def is_done(self) -> bool:
        """True if no run is in progress and none will be started."""
        return not self.running and (self.stopping or not self.waiting)

    def step(self) -> tuple[list[Running], list[Ended]]:
        """Collect the runs that have ended, start what there is room for; returns (started, ended)."""
        ended = [_ended(one) for one in self.running if one.process.poll() is not None]
        self.running = [one for one in self.running if one.process.poll() is None]
        started: list[Running] = []
        while self.waiting and not self.stopping and self._has_room_for(self.waiting[0].config):
            started.append(self._start(self.waiting.pop(0)))
            self.running.append(started[-1])
        return started, ended

    def stop(self) -> None:
        """Start no further run, and interrupt those in progress: once to stop with a checkpoint, twice to give up."""
        self.stopping = True
        for one in self.running:
            if one.process.poll() is None:
                one.process.send_signal(signal.SIGINT)

    def _has_room_for(self, config: Config) -> bool:
        if not self.running:
            return True
        if self._at_once is not None and len(self.running) >= self._at_once:
            return False
        cpus, gpus = (sum(need) for need in zip(*(self._needs(one.run.config) for one in self.running), strict=True))
        more_cpus, more_gpus = self._needs(config)
        return cpus + more_cpus <= self._resources.cpus and gpus + more_gpus <= self._resources.gpus

    def _start(self, run: PlannedRun) -> Running:
        file, log = self._folder / "configs" / f"{run.name}.yaml", self._folder / "logs" / f"{run.name}.log"
        file.write_text(dump_config(run.config), encoding="utf-8")
        command = [*self._command, str(file)]
        command += [f"tracking.parent_run={self._parent}"] if self._parent else []
        command += self._share(run.config)
        gpus = self._free_gpus(run.config)
        shown = {"CUDA_VISIBLE_DEVICES": ",".join(_visible_gpus()[i] for i in gpus)} if gpus else {}
        folder = RunFolder(run.config)
        tail = Tail(folder.metrics, folder.events)
        with log.open("ab") as output:
            # A session of its own: Ctrl-C in the terminal reaches the sweep, and the sweep asks its runs to stop.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | shown,
                start_new_session=True,
            )
        return Running(run, process, tail, log, gpus)

    def _free_gpus(self, config: Config) -> tuple[int, ...]:
        if not self._resources.local:
            return ()
        taken = {gpu for one in self.running for gpu in one.gpus}
        free = [gpu for gpu in range(self._resources.gpus) if gpu not in taken]
        return tuple(free[: self._needs(config)[1]])

    def _needs(self, config: Config) -> tuple[float, int]:
        if self._share(config):
            return self._resources.cpus / (self._at_once or 1), 0
        if is_open(config):
            return math.inf, sys.maxsize  # it takes what there is, so nothing else runs beside it
        scaling = config.scaling
        return scaling.num_workers * scaling.num_cpus, scaling.num_workers * scaling.num_gpus

    def _share(self, config: Config) -> list[str]:
        """Change of a run that would take all processors, and shares them with the others that run at once."""
        scaling = config.scaling
        gpus = self._resources.gpus if scaling.gpus_per_worker == "auto" else scaling.gpus_per_worker
        if scaling.cpus_per_worker != "auto" or gpus or scaling.elastic is not None:
            return []
        if not self._resources.local or not self._at_once:
            return []
        workers = 1 if scaling.workers == "auto" else scaling.workers
        cpus = max(1, int(self._resources.cpus) // self._at_once // workers)
        return [f"scaling.workers={workers}", f"scaling.cpus_per_worker={cpus}"]


def _visible_gpus() -> list[str]:
    import torch

    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    return names.split(",") if names else [str(index) for index in range(torch.cuda.device_count())]


def _ended(one: Running) -> Ended:
    code = one.process.returncode
    if code == 0:
        return Ended(one.run, "finished", "", one.log)
    # Asked to stop while it was still importing, it has no handler yet, and nothing to lose.
    if code in (ExitCode.STOPPED, ExitCode.INTERRUPTED, -signal.SIGINT):
        return Ended(one.run, "stopped", "", one.log)
    lines = [line for line in one.log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [index for index, line in enumerate(lines) if line.startswith("error: ")]
    reason = "\n".join(lines[errors[-1] :]).removeprefix("error: ") if errors else "".join(lines[-1:])
    return Ended(one.run, "failed", reason or f"ended with code {code}", one.log)

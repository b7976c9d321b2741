"""`mgcda train` from the command to its first step, and from a worker that is killed to the next step, item by item."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.bench.ratios import Ratio, note
from benchmarks.bench.setting import Setting
from benchmarks.sections import Findings
from mgcda_dist.choices import RunFile
from mgcda_dist.runs.events import read_events
from mgcda_dist.tracking.jsonl import read_lines

__all__ = ["items", "starts"]

_STEPS, _KILLED_AFTER, _SHOWN_LINES = 400, 4, 3
_WALL = "wall time"
_POLL_S, _END_S, _LONGEST_S = 0.02, 120.0, 200.0


def starts(setting: Setting, found: Findings) -> None:
    """Some runs, each with one worker killed; all with two workers, as configs/demo.yaml has them."""
    first, again = list[dict[str, float]](), list[dict[str, float]]()
    for number in setting.turns(3, _LONGEST_S):
        try:
            start, recovery = _run(setting, f"start-{number}")
        except RuntimeError as error:
            found.problem(str(error))
            break
        first.append(start)
        again.append(recovery)
    if not first:
        return
    totals = [sum(parts.values()) for parts in first]
    note(found, Ratio.over("first step after mgcda train", totals, _WALL, at_most=15.0, in_seconds=True))
    totals = [sum(parts.values()) for parts in again]
    note(found, Ratio.over("next step after a worker is killed", totals, _WALL, in_seconds=True))
    for title, runs in (("first step, s", first), ("next step after a worker is killed, s", again)):
        for name in runs[0]:
            found.row(title, item=name, median=median(parts[name] for parts in runs))


@dataclass(frozen=True)
class _Command:
    """`mgcda train` in a process of its own."""

    root: Path
    process: subprocess.Popen[bytes]
    log: Path

    def wait_for(self, find: Callable[[], Any]) -> Any:
        """The answer of `find`, once it is not None; the section's limit of time holds.

        Raises:
            RuntimeError: the command ended.
        """
        while (answer := find()) is None:
            if self.process.poll() is not None:
                last = " ".join(self.log.read_text(errors="replace").strip().splitlines()[-_SHOWN_LINES:])
                raise RuntimeError(f"mgcda train ended with {self.process.returncode}; it said last: {last}")
            time.sleep(_POLL_S)
        return answer

    def events(self) -> list[dict[str, Any]]:
        """All events so far, and what the record was told."""
        record = [{"kind": "", "text": "", **line} for line in read_events(self.root / RunFile.CALLS)]
        return [*read_events(self.root / RunFile.EVENTS), *record]

    def starts_of_workers(self) -> list[dict[str, Any]]:
        """Events with which workers begin to build, one each time that they start."""
        return [event for event in self.events() if "workers" in event]

    def step_after(self, moment: float, least: int = 0) -> tuple[int, float] | None:
        """The first step from `least` on that was logged after a moment, and when."""
        lines = read_lines(self.root / RunFile.METRICS)
        return next(((step, at) for step, at, _ in lines if at > moment and step >= least), None)


def _run(setting: Setting, name: str) -> tuple[dict[str, float], dict[str, float]]:
    changes = setting.changes(
        name, "scaling.workers=2", f"optim.steps={_STEPS}", "checkpoint.every_steps=2", "tracking.log_every_steps=1",
        f"runs={setting.folder / name}",
    )  # fmt: skip
    log = setting.folder / f"{name}.log"
    # As a user's shell has it, without what this benchmark sets for its own processes.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "OMP_", "RAY_"))}
    with log.open("wb") as output:
        began = time.time()
        process = subprocess.Popen(
            [sys.executable, "-m", "mgcda_dist", "train", str(setting.file()), *changes],
            stdout=output, stderr=subprocess.STDOUT, env=environment,
        )  # fmt: skip
    command = _Command(setting.folder / name / name, process, log)
    try:
        command.wait_for(lambda: command.step_after(began))
        start = items(command.events(), began, command.step_after(began), "Ray and the workers")
        command.wait_for(lambda: command.step_after(began, _KILLED_AFTER))
        workers = command.starts_of_workers()
        killed = time.time()
        os.kill(workers[-1]["workers"][1]["process"], signal.SIGKILL)
        command.wait_for(lambda: True if len(command.starts_of_workers()) > len(workers) else None)
        again = command.starts_of_workers()[-1]["time"]
        command.wait_for(lambda: command.step_after(again))
        recovery = items(command.events(), killed, command.step_after(again), "a new group of workers")
        (command.root / "stop").touch()
        process.wait(_END_S)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    return start, recovery


def items(events: list[dict[str, Any]], began: float, step: tuple[int, float] | None, group: str) -> dict[str, float]:
    """Seconds from one moment of the record to the next, up to the step; they add up to the whole.

    Args:
        began: when the command was given, or the worker killed.
        step: number and time of the first step after it.
        group: words for what lies between the launch, or the fault's report, and the workers' first word.
    """
    assert step is not None
    moments: dict[str, float] = {}
    for event in events:
        if event["time"] <= began:
            continue
        for name, is_it in _MOMENTS.items():
            if name not in moments and is_it(event):
                moments[name] = event["time"]
    names = {
        "launch": "the command: imports, checks, the run's folder",
        "restart": "the fault is found",
        "workers": group,
        "built": "the network",
        "record": "the engine",
        "step": "record, loader, first step",
    }
    found, last = dict[str, float](), began
    for name, moment in sorted([*moments.items(), ("step", step[1])], key=lambda each: each[1]):
        if moment > step[1]:
            break
        found[names[name]], last = moment - last, moment
    return found


_MOMENTS: Mapping[str, Callable[[dict[str, Any]], bool]] = {
    "launch": lambda event: event["kind"] == "launch",
    "restart": lambda event: event["kind"] == "restart",
    "workers": lambda event: "workers" in event,
    "built": lambda event: event["text"].startswith("learning: "),
    "record": lambda event: event.get("call") == "start",
}

"""The chaos run: a run without faults, the same run with faults, and the cost of each fault."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from mgcda_dist.chaos.compare import differences
from mgcda_dist.chaos.inject import inject
from mgcda_dist.chaos.schedule import STORAGE_KINDS, PlannedFault
from mgcda_dist.chaos.storage import full_disk, read_only
from mgcda_dist.choices import ExitCode
from mgcda_dist.config.schema import Config
from mgcda_dist.errors import MgcdaError
from mgcda_dist.runs.events import read_events
from mgcda_dist.runs.folder import RunFolder, mlflow_uri
from mgcda_dist.tracking.jsonl import read_lines

__all__ = ["ChaosResult", "InjectedFault", "run_chaos"]

_POLL_S = 0.05
_DETECTION_EVENTS = ("hang", "restart", "preemption", "storage")
_DRIVER_FAULTS = ("kill-driver", "interrupt")
_LEAST_HOLD_S, _CHECKPOINTS_HELD = 8.0, 1.5


@dataclass
class InjectedFault:
    """An injected fault and the run's recovery from it.

    Attributes:
        kind, done: the fault, and a description of the action.
        step: last step logged before it.
        detected_s: time until the controller reported it, or the driver had ended.
        recovered_s: time until the first step of the new attempt was logged; after a fault of storage, which starts
            none, until the lines that had waited were written.
        resumed_at: first step of the new attempt, or the first one that had waited.
        repeated: number of steps that were computed twice.
    """

    kind: str
    done: str
    step: int
    detected_s: float | None = None
    recovered_s: float | None = None
    resumed_at: int | None = None
    repeated: int | None = None


@dataclass
class ChaosResult:
    """Result of a chaos run, as `chaos.json` holds it.

    Attributes:
        calm_s, disturbed_s: duration of the run without and with faults.
        step_s: median time of the undisturbed run's steps without a checkpoint.
        checkpoint_s: additional median time of a step with a checkpoint.
        differences: differences between the final states; empty: none.
    """

    seed: int
    num_workers: int
    num_steps: int
    faults: list[InjectedFault] = field(default_factory=list)
    calm_s: float = 0.0
    disturbed_s: float = 0.0
    step_s: float = 0.0
    checkpoint_s: float = 0.0
    differences: list[str] = field(default_factory=list)

    @property
    def survived(self) -> bool:
        """True if all faults were injected and the final states are equal."""
        return not self.differences and all(fault.recovered_s is not None for fault in self.faults)

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self) | {"survived": self.survived}, indent=1) + "\n", encoding="utf-8")


def run_chaos(
    undisturbed: tuple[Config, Sequence[str]],
    disturbed: tuple[Config, Sequence[str]],
    plan: Sequence[PlannedFault],
    seed: int,
    report: Callable[[str], None],
) -> ChaosResult:
    """Train without faults, train with faults, and compare the final states.

    Args:
        undisturbed, disturbed: configuration of each run, and the arguments of `mgcda train` that give it.
        report: receives a line per fault.

    Raises:
        MgcdaError: a run ended for another reason than a fault of the plan, or did not recover in time.
    """
    config = undisturbed[0]
    result = ChaosResult(seed, config.scaling.num_workers, config.optim.steps)
    begun = time.monotonic()
    driver = _Driver(*undisturbed)
    code = driver.process.wait()
    if code != 0:
        raise driver.failure(f"ended with {code}, without any fault")
    result.calm_s = time.monotonic() - begun
    result.step_s, result.checkpoint_s = _step_times(driver.run, config.checkpoint.every_steps)
    report(f"undisturbed: {result.calm_s:.0f} s")
    begun = time.monotonic()
    # Long enough for a checkpoint to fail.
    hold_s = max(_LEAST_HOLD_S, _CHECKPOINTS_HELD * config.checkpoint.every_steps * result.step_s)
    _inject_all(_Driver(*disturbed, hold_s), plan, result, report)
    result.disturbed_s = time.monotonic() - begun
    result.differences = differences(driver.run, RunFolder(disturbed[0]), mlflow_uri(config))
    return result


def _step_times(run: RunFolder, checkpoint_every: int) -> tuple[float, float]:
    """Median time of a step, and the time that a checkpoint adds to it, from the times at which steps were logged."""
    logged = [(step, at) for step, at, metrics in read_lines(run.metrics) if "loss/total" in metrics]
    plain: list[float] = []
    with_checkpoint: list[float] = []
    # The first steps warm up. A checkpoint after step s delays the log line of step s + 1.
    for (before, started), (_, ended) in pairwise(logged[3:]):
        (with_checkpoint if (before + 1) % checkpoint_every == 0 else plain).append(ended - started)
    if not (plain and with_checkpoint):
        return statistics.median(plain or with_checkpoint or [0.0]), 0.0
    return statistics.median(plain), statistics.median(with_checkpoint) - statistics.median(plain)


def _inject_all(
    driver: _Driver, plan: Sequence[PlannedFault], result: ChaosResult, report: Callable[[str], None]
) -> None:
    try:
        for planned in plan:
            driver.wait_for(lambda at=planned.at_step: driver.step() >= at, f"step {planned.at_step}")
            time.sleep(planned.delay_s)
            fault = driver.inject(planned)
            result.faults.append(fault)
            report(_description(fault))
        driver.wait_for(lambda: driver.process.poll() is not None, "the end")
        if driver.process.returncode != 0:
            raise driver.failure(f"ended with {driver.process.returncode} after the last fault")
    finally:
        driver.end()


def _description(fault: InjectedFault) -> str:
    if fault.recovered_s is None:
        return f"{fault.kind} after step {fault.step}: not injected, the run had ended before"
    return (
        f"{fault.kind} after step {fault.step} ({fault.done}): detected after {fault.detected_s:.1f} s, resumed at "
        f"step {fault.resumed_at} after {fault.recovered_s:.1f} s, {fault.repeated} steps repeated"
    )


class _Driver:
    """The process of `mgcda train`, which can be started again."""

    def __init__(self, config: Config, arguments: Sequence[str], hold_s: float = _LEAST_HOLD_S) -> None:
        self.run, self._arguments, self._hold_s = RunFolder(config), list(arguments), hold_s
        self._last_step = config.optim.steps - 1
        self._timeout_s = 60.0 + config.scaling.hang_timeout_s + 240.0
        self.log = self.run.root / "logs" / "chaos.log"
        self.start()

    def start(self) -> None:
        """Start the command, for the first time or again."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mgcda_dist", "train", *self._arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
            )

    def end(self) -> None:
        """End the process, if it still runs."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def inject(self, planned: PlannedFault) -> InjectedFault:
        """Inject the fault, and wait until the run has recovered."""
        attempts = len(self._attempts())
        workers = [worker["process"] for worker in self._attempts()[-1]["workers"]]
        step, begun = self.step(), time.time()
        if planned.kind in STORAGE_KINDS:
            processes = [self.process.pid, *workers]
            hindered = full_disk(processes) if planned.kind == "fill-disk" else read_only(self.run.root)
            return self._inject_for_a_while(planned.kind, hindered)
        fault = InjectedFault(planned.kind, inject(planned, self.process, workers, self.run.checkpoints), step)
        if not fault.done:
            return fault
        last = step
        if planned.kind in _DRIVER_FAULTS:
            code = self.process.wait(timeout=self._timeout_s)
            if planned.kind == "interrupt" and code != ExitCode.STOPPED:
                raise self.failure(f"ended with {code} after Ctrl-C, and not with {ExitCode.STOPPED}")
            fault.detected_s, last = time.time() - begun, self.step()
            self.start()
        while len(self._attempts()) == attempts:
            # The attempt that was hit may log more steps before it ends.
            last = max(last, self.step())
            self._check(begun, "a new attempt")
            time.sleep(_POLL_S)
        new = self._attempts()[attempts]
        self.wait_for(lambda: self._first_after(new["time"]) is not None, "a step of the new attempt")
        first = self._first_after(new["time"])
        assert first is not None
        if fault.detected_s is None:
            fault.detected_s = self._detected_s(begun)
        fault.resumed_at, fault.recovered_s = first[0], first[1] - begun
        fault.repeated = max(0, last + 1 - first[0])
        return fault

    def _inject_for_a_while(self, kind: str, hindered: AbstractContextManager[str]) -> InjectedFault:
        """Hinder writing for a while, and wait until the record is written again; the workers stay."""
        attempts, begun = len(self._attempts()), time.time()
        fault = InjectedFault(kind, "", self.step())
        if fault.step >= self._last_step:
            return fault  # nothing is left that would have to wait
        with hindered as fault.done:
            while time.time() - begun < self._hold_s:
                self._check(begun, "the end of the fault")
                time.sleep(_POLL_S)
            before = len(list(read_lines(self.run.metrics)))
        self.wait_for(lambda: len(list(read_lines(self.run.metrics))) > before, "the lines that had to wait")
        fault.recovered_s = time.time() - begun
        self.wait_for(lambda: self._detected_s(begun) is not None, "a word about the fault")
        fault.detected_s = self._detected_s(begun)
        fault.resumed_at, fault.repeated = [step for step, _, _ in read_lines(self.run.metrics)][before], 0
        if len(self._attempts()) > attempts:
            raise self.failure(f"{kind} ended a worker")
        return fault

    def _detected_s(self, begun: float) -> float | None:
        times = [e["time"] for e in self._events() if e["kind"] in _DETECTION_EVENTS and e["time"] >= begun]
        return times[0] - begun if times else None

    def step(self) -> int:
        """The last logged step; -1: none."""
        return max((step for step, _, _ in read_lines(self.run.metrics)), default=-1)

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition; an error if the process ends or the timeout passes."""
        begun = time.time()
        while not condition():
            self._check(begun, what)
            time.sleep(_POLL_S)

    def failure(self, problem: str) -> MgcdaError:
        """An error with the last line of the command's output."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return MgcdaError(str(self.run.root), f"{problem}: {lines[-1] if lines else '…'}", f"full output: {self.log}")

    def _check(self, begun: float, what: str) -> None:
        if self.process.poll() not in (None, 0):
            raise self.failure(f"ended with {self.process.returncode} while waiting for {what}")
        if self.process.poll() == 0 and what != "the end":
            raise self.failure(f"finished while waiting for {what}")
        if time.time() - begun > self._timeout_s:
            raise self.failure(f"timeout: waited {self._timeout_s:.0f} s for {what}")

    def _events(self) -> list[dict[str, Any]]:
        """The run's events: JSON objects whose keys depend on their kind."""
        return read_events(self.run.events)

    def _attempts(self) -> list[dict[str, Any]]:
        """Events that announce a new attempt, with the process of each worker."""
        return [event for event in self._events() if "workers" in event]

    def _first_after(self, moment: float) -> tuple[int, float] | None:
        """Step and time of the first logged step after `moment`."""
        return next(((step, at) for step, at, _ in read_lines(self.run.metrics) if at > moment), None)

"""The chaos run: a run without faults, the same run with them, and what each fault has cost."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from mgcda_dist.chaos.compare import differences
from mgcda_dist.chaos.inject import inject
from mgcda_dist.chaos.schedule import PlannedFault
from mgcda_dist.config.schema import Config
from mgcda_dist.errors import MgcdaError
from mgcda_dist.runs.folder import RunFolder, mlflow_uri
from mgcda_dist.tracking.jsonl import read_lines

__all__ = ["ChaosResult", "Struck", "run_chaos"]

_POLL_S = 0.05
_EXIT_STOPPED = 3
_NOTICES = ("hang", "restart", "preemption")
_OF_THE_DRIVER = ("kill-driver", "interrupt")


@dataclass
class Struck:
    """A fault that has happened.

    Attributes:
        kind, done: which, and what exactly was done.
        step: last step that was logged before.
        detected_s: until the run noticed: the controller said so, or the command had ended.
        recovered_s: until the first step after it was logged.
        resumed_at: first step of the new attempt.
        repeated: steps that were done twice.
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
    """What came out.

    Attributes:
        calm_s, disturbed_s: duration of the two runs.
        step_s: median time of a step of the undisturbed run that no checkpoint followed.
        checkpoint_s: by how much longer the median step is that one followed.
        differences: in what they differ; empty: in nothing.
    """

    seed: int
    num_workers: int
    num_steps: int
    faults: list[Struck] = field(default_factory=list)
    calm_s: float = 0.0
    disturbed_s: float = 0.0
    step_s: float = 0.0
    checkpoint_s: float = 0.0
    differences: list[str] = field(default_factory=list)

    @property
    def survived(self) -> bool:
        """Whether all faults happened and nothing differs."""
        return not self.differences and all(fault.recovered_s is not None for fault in self.faults)

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self) | {"survived": self.survived}, indent=1) + "\n", encoding="utf-8")


def run_chaos(
    calm: tuple[Config, Sequence[str]],
    disturbed: tuple[Config, Sequence[str]],
    plan: Sequence[PlannedFault],
    seed: int,
    say: Callable[[str], None],
) -> ChaosResult:
    """Train twice, disturb the second run, compare.

    Args:
        calm, disturbed: configuration, and the arguments of `mgcda train` that lead to it.
        plan: the faults.
        seed: of the plan, for the record.
        say: told what happens.

    Raises:
        MgcdaError: a run ended in a way that no fault of the plan explains, or did not go on.
    """
    result = ChaosResult(seed, calm[0].scaling.num_workers, calm[0].optim.steps)
    begun = time.monotonic()
    undisturbed = _Command(calm[0], calm[1])
    code = undisturbed.process.wait()
    if code != 0:
        raise undisturbed.failure(f"ended with {code}, without any fault")
    result.calm_s = time.monotonic() - begun
    result.step_s, result.checkpoint_s = _pace(undisturbed.run, calm[0].checkpoint.every_steps)
    say(f"undisturbed: {result.calm_s:.0f} s")
    begun = time.monotonic()
    _disturb(_Command(*disturbed), plan, result, say)
    result.disturbed_s = time.monotonic() - begun
    result.differences = differences(undisturbed.run, RunFolder(disturbed[0]), mlflow_uri(calm[0]))
    return result


def _pace(run: RunFolder, checkpoint_every: int) -> tuple[float, float]:
    """Median time of a step, and what a checkpoint adds to it, from the times at which steps were logged."""
    logged = [(step, at) for step, at, metrics in read_lines(run.metrics) if "loss/total" in metrics]
    plain: list[float] = []
    sealed: list[float] = []
    # The first steps warm up. What follows step s is waited for before step s + 1 is logged.
    for (before, started), (_, ended) in pairwise(logged[3:]):
        (sealed if (before + 1) % checkpoint_every == 0 else plain).append(ended - started)
    if not (plain and sealed):
        return statistics.median(plain or sealed or [0.0]), 0.0
    return statistics.median(plain), statistics.median(sealed) - statistics.median(plain)


def _disturb(command: _Command, plan: Sequence[PlannedFault], result: ChaosResult, say: Callable[[str], None]) -> None:
    try:
        for fault in plan:
            command.wait_for(lambda at=fault.at_step: command.step() >= at, f"step {fault.at_step}")
            time.sleep(fault.delay_s)
            struck = command.strike(fault)
            result.faults.append(struck)
            say(_in_words(struck))
        command.wait_for(lambda: command.process.poll() is not None, "the end")
        if command.process.returncode != 0:
            raise command.failure(f"ended with {command.process.returncode} after the last fault")
    finally:
        command.end()


def _in_words(fault: Struck) -> str:
    if fault.recovered_s is None:
        return f"{fault.kind} after step {fault.step}: the run had ended before it could strike"
    return (
        f"{fault.kind} after step {fault.step} ({fault.done}): detected after {fault.detected_s:.1f} s, on at step "
        f"{fault.resumed_at} after {fault.recovered_s:.1f} s, {fault.repeated} steps repeated"
    )


class _Command:
    """`mgcda train`, started and started again."""

    def __init__(self, config: Config, arguments: Sequence[str]) -> None:
        self.run, self._arguments = RunFolder(config), list(arguments)
        self._patience_s = 60.0 + config.scaling.hang_timeout_s + 240.0
        self.log = self.run.root / "logs" / "chaos.log"
        self.start()

    def start(self) -> None:
        """The same command (again)."""
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
        """Leave no process behind, whatever happened."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def strike(self, fault: PlannedFault) -> Struck:
        """Let the fault happen, and wait until the run goes on."""
        groups = len(self._groups())
        workers = [worker["process"] for worker in self._groups()[-1]["workers"]]
        step, begun = self.step(), time.time()
        struck = Struck(fault.kind, inject(fault, self.process, workers, self.run.checkpoints), step)
        if not struck.done:
            return struck
        last = step
        if fault.kind in _OF_THE_DRIVER:
            code = self.process.wait(timeout=self._patience_s)
            if fault.kind == "interrupt" and code != _EXIT_STOPPED:
                raise self.failure(f"ended with {code} after Ctrl-C, and not with {_EXIT_STOPPED}")
            struck.detected_s, last = time.time() - begun, self.step()
            self.start()
        while len(self._groups()) == groups:
            # The attempt that was hit may have logged some more steps before it ended.
            last = max(last, self.step())
            self._check(begun, "a new attempt")
            time.sleep(_POLL_S)
        new = self._groups()[groups]
        self.wait_for(lambda: self._first_after(new["time"]) is not None, "a step of the new attempt")
        first = self._first_after(new["time"])
        assert first is not None
        if struck.detected_s is None:
            notices = [e["time"] for e in self._events() if e["kind"] in _NOTICES and e["time"] >= begun]
            struck.detected_s = notices[0] - begun if notices else None
        struck.resumed_at, struck.recovered_s = first[0], first[1] - begun
        struck.repeated = max(0, last + 1 - first[0])
        return struck

    def step(self) -> int:
        """The last step that was logged; -1: none."""
        return max((step for step, _, _ in read_lines(self.run.metrics)), default=-1)

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition, as long as the command lives and time allows."""
        begun = time.time()
        while not condition():
            self._check(begun, what)
            time.sleep(_POLL_S)

    def failure(self, problem: str) -> MgcdaError:
        """With the last words of the command."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return MgcdaError(str(self.run.root), f"{problem}: {lines[-1] if lines else '…'}", f"all it said: {self.log}")

    def _check(self, begun: float, what: str) -> None:
        if self.process.poll() not in (None, 0):
            raise self.failure(f"ended with {self.process.returncode} while {what} was waited for")
        if self.process.poll() == 0 and what != "the end":
            raise self.failure(f"came to its end while {what} was waited for")
        if time.time() - begun > self._patience_s:
            raise self.failure(f"{what} did not come within {self._patience_s:.0f} s")

    def _events(self) -> list[dict[str, Any]]:
        if not self.run.events.is_file():
            return []
        lines = self.run.events.read_text(encoding="utf-8").split("\n")[:-1]  # the last one may be half written
        return [json.loads(line) for line in lines]

    def _groups(self) -> list[dict[str, Any]]:
        return [event for event in self._events() if "workers" in event]

    def _first_after(self, moment: float) -> tuple[int, float] | None:
        """Step and time of the first line of metrics after a moment."""
        return next(((step, at) for step, at, _ in read_lines(self.run.metrics) if at > moment), None)

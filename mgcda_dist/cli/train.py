"""`mgcda train`: launch of the workers, their progress, and a summary of the results."""

from __future__ import annotations

import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import Progress

from mgcda_dist.choices import ExitCode
from mgcda_dist.cli.console import Console
from mgcda_dist.cli.evaluate import show_results
from mgcda_dist.cli.progress import bars
from mgcda_dist.cluster.scaling import is_open, resolve, worker_needs
from mgcda_dist.config.schema import Config
from mgcda_dist.errors import MgcdaError, NodesLostError, StoppedError
from mgcda_dist.evaluation.results import EvaluationResults
from mgcda_dist.runs.events import Tail
from mgcda_dist.runs.folder import RunFolder, mlflow_uri
from mgcda_dist.runs.room import trouble

__all__ = ["run_training"]

_POLL_S = 0.25
_PLAIN_LINE_EVERY_S = 10.0
_LONG_WAIT_S = 90.0
_LOOK_AT_DISK_S = 2.0


def run_training(config: Config, *, override_config: bool = False, start_over: bool = False) -> int:
    """Train; returns the exit code.

    Args:
        override_config: resume with a changed configuration if the state fits it.
        start_over: begin at step 0 without asking, where all checkpoints are damaged.
    """
    from mgcda_dist import build, checks

    console = Console()
    if is_open(config):
        from mgcda_dist.cluster.connect import node_resources

        config = resolve(config, node_resources())
    run = RunFolder(config)
    with run.locked():
        checks.check_model(config)
        run.prepare(config, build.run_inputs(config), override_config=override_config)
        command = shlex.join(["mgcda", *sys.argv[1:]])
        run.say("launch", f"launched: {command}", command=command)
        return _run_training(config, run, console, start_over=start_over)


def _run_training(config: Config, run: RunFolder, console: Console, *, start_over: bool) -> int:
    from mgcda_dist.cluster.trainer import launch

    run.results.unlink(missing_ok=True)
    tracking = mlflow_uri(config)
    numbers = worker_needs(config).numbers
    workers = " or ".join(map(str, numbers))
    console.print(f"{config.name}  {workers} Ray Train workers, DeepSpeed ZeRO "
                  f"{config.engine.zero_stage}, {config.engine.precision}, {config.optim.steps} steps of "
                  f"{config.data.global_batch} images  →  {run.root}", soft_wrap=True)  # fmt: skip
    try:
        _watch(
            lambda: launch(config.scaling, numbers, run.root, "train", {"config": config, "start_over": start_over}),
            run,
            config.optim.steps,
            console,
        )
    except BaseException as error:
        from mgcda_dist.tracking.mlflow_sync import end_run

        failed = isinstance(error, Exception) and not isinstance(error, NodesLostError | StoppedError)
        end_run(run.root, tracking, "FAILED" if failed else "KILLED", partial(_say_last, run, console))
        if isinstance(error, NodesLostError):
            console.print(f"stopped: {error}", soft_wrap=True)
            return ExitCode.NODES_LOST
        if not isinstance(error, StoppedError):
            raise
    if not run.results.is_file():
        console.print(
            f"stopped; the checkpoint is in {run.checkpoints}. The same command resumes from it.", soft_wrap=True
        )
        return ExitCode.STOPPED
    show_results([EvaluationResults.load(run.root)], console)
    console.print(f"\npictures   {run.pictures}", soft_wrap=True)
    findings = [run.pictures / f"findings_{entry.name}.png" for entry in config.evaluation.sets]
    for path in [each for each in findings if each.is_file()][:1]:
        console.print(f"look at    {path}", soft_wrap=True)
    if run.report.is_file():
        console.print(f"report     {run.report}", soft_wrap=True)
    console.print(f"model      {run.model}", soft_wrap=True)
    if tracking is not None:
        console.print(f"MLflow     {_mlflow_command(tracking)}", soft_wrap=True)
    return 0


def _say_last(run: RunFolder, console: Console, text: str) -> None:
    """An event after the display of events has ended."""
    run.say("note", text)
    console.print(text, soft_wrap=True)


def _mlflow_command(uri: str) -> str:
    """The address of a tracking server, or the command that opens a database."""
    if uri.startswith(("http:", "https:")):
        return uri
    # Without an activated environment the command is not on PATH.
    beside = Path(sys.executable).with_name("mlflow")
    command = "mlflow" if shutil.which("mlflow") or not beside.is_file() else str(beside)
    return f"{command} ui --backend-store-uri {uri}"


def _watch(work: Callable[[], None], run: RunFolder, num_steps: int, console: Console) -> None:
    """Run `work` in a thread and show its progress; on Ctrl-C ask the workers to stop with a checkpoint."""
    failure: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failure.append(error)

    interrupts = 0

    def interrupt(signum: int, frame: Any) -> None:
        nonlocal interrupts
        interrupts += 1
        with suppress(OSError):  # a full disk; a second time aborts at once
            run.stop_file.touch()

    # Ray installs its own SIGINT handler, but only from the main thread.
    thread = threading.Thread(target=guarded, name="ray-train", daemon=True)
    previous = {s: signal.signal(s, interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        thread.start()
        with bars(console) as progress:
            display = _Display(run, num_steps, progress)
            while thread.is_alive():
                thread.join(_POLL_S)
                # At its start Ray installs a SIGTERM handler in C that dumps a stack and aborts: replace it.
                for s in previous:
                    signal.signal(s, interrupt)
                if interrupts:
                    display.note_stop()
                if interrupts > 1:
                    raise KeyboardInterrupt
                display.update()
            display.update()
    finally:
        for s, handler in previous.items():
            signal.signal(s, handler)
    if failure:
        if isinstance(failure[0], MgcdaError) or not isinstance(failure[0], Exception):
            raise failure[0]
        raise MgcdaError("training", f"{type(failure[0]).__name__}: {failure[0]}", f"logs: {run.logs}") from failure[0]


class _Display:
    """Progress and events of a run: a bar on a terminal, and a line now and then in a log."""

    def __init__(self, run: RunFolder, num_steps: int, progress: Progress) -> None:
        self._run, self._trouble, self._looked_s = run, "", 0.0
        self._tail, self._num_steps, self._progress = Tail(run.metrics, run.events), num_steps, progress
        self._task = progress.add_task("starting the workers", total=num_steps)
        self._stop_noted = self._wait_noted = False
        self._last_line_s, self._started_s = 0.0, time.monotonic()

    def note_stop(self) -> None:
        """Announce, once, that the run is stopping."""
        if not self._stop_noted:
            self._print("stopping after this step, with a checkpoint (Ctrl-C again to abort at once)")
        self._stop_noted = True

    def update(self) -> None:
        """Show the metrics and events since the last call."""
        waited_s = time.monotonic() - self._started_s
        if not self._wait_noted and not self._tail.has_moved and waited_s > _LONG_WAIT_S:
            self._print("no worker has started yet: does the cluster have the requested resources? `ray status`")
            self._wait_noted = True
        line = self._tail.metrics()  # before the events: a phase begins after its last step
        events = self._tail.events()
        if line is not None:
            self._show_step(line["step"] + 1, line["metrics"])
        for event in events:
            self._show_event(event)
        if time.monotonic() - self._looked_s > _LOOK_AT_DISK_S:
            self._looked_s = time.monotonic()
            self._show_trouble(trouble(self._run.root))

    def _show_trouble(self, found: str) -> None:
        """Show at once what the events will tell only when they can be written."""
        if found and not self._trouble:
            self._print(f"{found}: training goes on, and its record waits in memory")
        self._trouble = found

    def _show_step(self, done: int, metrics: dict[str, float]) -> None:
        text = _progress_line(metrics)
        self._progress.update(self._task, completed=done, description=text)
        due = time.monotonic() - self._last_line_s > _PLAIN_LINE_EVERY_S or done >= self._num_steps
        if due and not self._progress.console.is_terminal:
            self._last_line_s = time.monotonic()
            remaining_s = (self._num_steps - done) * metrics.get("time/step_s", 0.0)
            self._print(f"step {done}/{self._num_steps}  {text}  ETA {_duration(remaining_s)}")

    def _show_event(self, event: dict[str, Any]) -> None:
        """Show an event of events.jsonl, whose keys depend on its kind."""
        if event["kind"] == "progress" and self._progress.console.is_terminal:
            self._progress.update(self._task, completed=event["done"], total=event["total"], description=event["text"])
            return
        self._print(event["text"])
        if event["kind"] == "phase":
            self._progress.update(self._task, description=event["text"])

    def _print(self, text: str) -> None:
        with suppress(OSError):  # the output may go to the disk that is full
            self._progress.console.print(text, soft_wrap=True)


def _progress_line(metrics: dict[str, float]) -> str:
    # A metric that is not a number is kept as text in the record.
    metrics = {name: float(value) for name, value in metrics.items()}
    parts = [f"loss {metrics['loss/total']:.3f}"]
    parts += [
        f"{name} {metrics[f'loss/{name}']:.3f}"
        for name in ("seg", "outlier", "mdat", "cacl", "teacher")
        if f"loss/{name}" in metrics
    ]
    parts.append(f"{metrics.get('time/images_per_s', 0.0):.1f} images/s")
    parts.append(f"data wait {metrics.get('time/data_wait_share', 0.0):.0%}")
    return "  ".join(parts)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"

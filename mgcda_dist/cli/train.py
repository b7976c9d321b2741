"""`mgcda train`: progress of a run on the terminal, and a summary of the results."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from rich.progress import Progress

from mgcda_dist.api.launch import run_workers
from mgcda_dist.choices import ExitCode
from mgcda_dist.cli.console import Console
from mgcda_dist.cli.evaluate import show_results
from mgcda_dist.cli.options import program
from mgcda_dist.cli.progress import bars
from mgcda_dist.cluster.scaling import worker_needs
from mgcda_dist.config.schema import Config
from mgcda_dist.errors import NodesLostError, StoppedError
from mgcda_dist.evaluation.results import EvaluationResults
from mgcda_dist.runs.events import Tail
from mgcda_dist.runs.folder import RunFolder, mlflow_uri
from mgcda_dist.runs.room import trouble

__all__ = ["run_training"]

_PLAIN_LINE_EVERY_S = 10.0
_LONG_WAIT_S = 90.0
_LOOK_AT_DISK_S = 2.0


def run_training(config: Config, *, override_config: bool = False, start_over: bool = False) -> int:
    """Train; returns the exit code.

    Args:
        override_config: resume with a changed configuration if the state fits it.
        start_over: begin at step 0 without asking, where all checkpoints are damaged.
    """
    console, run = Console(), RunFolder(config)
    try:
        run_workers(
            config,
            _Shown(console),
            command=shlex.join(["mgcda", *sys.argv[1:]]),
            override_config=override_config,
            start_over=start_over,
            stop_on_interrupt=True,
        )
    except NodesLostError as error:
        console.print(f"stopped: {error}", soft_wrap=True)
        return ExitCode.NODES_LOST
    except StoppedError:
        pass  # its checkpoint is all there is to tell
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
    tracking = mlflow_uri(config)
    if tracking is not None:
        console.print(f"MLflow     {_mlflow_command(tracking)}", soft_wrap=True)
    return 0


class _Shown:
    """A `Watcher` that shows the run on the console."""

    def __init__(self, console: Console) -> None:
        self._console, self._bars = console, bars(console)
        self._display: _Display | None = None

    def begin(self, run: RunFolder, config: Config, doubts: Sequence[str]) -> None:
        del doubts  # which workers tell as events
        workers = " or ".join(map(str, worker_needs(config).numbers))
        noun = "Ray Train worker" if workers == "1" else "Ray Train workers"
        self._console.print(f"{config.name}  {workers} {noun}, {config.scaling.num_cpus:g} CPU each, DeepSpeed ZeRO "
                            f"{config.engine.zero_stage}, {config.engine.precision}, {config.optim.steps} steps of "
                            f"{config.data.global_batch} images  →  {run.root}", soft_wrap=True)  # fmt: skip
        self._bars.start()
        self._display = _Display(run, config.optim.steps, self._bars)

    def look(self, *, stopping: bool) -> None:
        if stopping and self._display is not None:
            self._display.note_stop()
        if self._display is not None:
            self._display.update()

    def end(self) -> None:
        self.look(stopping=False)
        self._bars.stop()

    def say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)


def _mlflow_command(uri: str) -> str:
    """The address of a tracking server, or the command that opens a database."""
    if uri.startswith(("http:", "https:")):
        return uri
    return f"{program('mlflow')} ui --backend-store-uri {uri}"


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
    of_gpu = {"time/mfu": "MFU {:.0%}", "time/busy_share": "GPU busy {:.0%}", "gpu/peak_memory_gib": "{:.1f} GiB"}
    of_gpu |= {"time/launches": "{:.0f} launches"}
    if "time/mfu" not in metrics:
        of_gpu = {"time/tflop_per_s": "{:.1f} TFLOP/s", **of_gpu}
    parts += [form.format(metrics[name]) for name, form in of_gpu.items() if name in metrics]
    return "  ".join(parts)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"

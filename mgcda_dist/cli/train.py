"""What `mgcda train` shows: progress while workers run, then the results and where pictures are."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mgcda_dist.choices import ExitCode
from mgcda_dist.cli.evaluate import show_results
from mgcda_dist.cluster.scaling import is_open, resolve, wanted
from mgcda_dist.config.schema import Config
from mgcda_dist.errors import MgcdaError, NodesLostError, StoppedError
from mgcda_dist.runs.folder import RunFolder, mlflow_uri
from mgcda_dist.runs.tail import Tail

__all__ = ["run_training"]

_POLL_S = 0.25
_PLAIN_LINE_EVERY_S = 10.0
_WAIT_WORTH_A_WORD_S = 90.0


def run_training(config: Config, *, override: bool = False) -> int:
    """Train; returns the exit code. `override`: go on with a configuration that differs, where the state fits it."""
    from mgcda_dist import build, checks

    console = Console(highlight=False, markup=False)
    if is_open(config):
        from mgcda_dist.cluster.connect import node_resources

        config = resolve(config, node_resources())
    run = RunFolder(config)
    with run.locked():
        checks.check_model(config)
        run.prepare(config, build.manifests(config), override=override)
        command = shlex.join(["mgcda", *sys.argv[1:]])
        run.say("launch", f"launched: {command}", command=command)
        return _run_training(config, run, console)


def _run_training(config: Config, run: RunFolder, console: Console) -> int:
    from mgcda_dist.cluster.trainer import launch

    run.results.unlink(missing_ok=True)
    tracking = mlflow_uri(config)
    workers = " or ".join(map(str, wanted(config).numbers))
    console.print(f"{config.name}  {workers} Ray Train workers, DeepSpeed ZeRO "
                  f"{config.engine.zero_stage}, {config.engine.precision}, {config.optim.steps} steps of "
                  f"{config.data.global_batch} images  →  {run.root}", soft_wrap=True)  # fmt: skip
    try:
        _watch(lambda: launch(config, run.root, "train"), run, config.optim.steps, console)
    except BaseException as error:
        from mgcda_dist.runs.records import end_record

        failed = isinstance(error, Exception) and not isinstance(error, NodesLostError | StoppedError)
        end_record(config, run, "FAILED" if failed else "KILLED")
        if isinstance(error, NodesLostError):
            console.print(f"stopped: {error}", soft_wrap=True)
            return ExitCode.NODES_LOST
        if not isinstance(error, StoppedError):
            raise
    if not run.results.is_file():
        console.print(
            f"stopped; the checkpoint is in {run.checkpoints}. The same command goes on from there.", soft_wrap=True
        )
        return ExitCode.STOPPED
    results = json.loads(run.results.read_text(encoding="utf-8"))
    show_results([results], console)
    console.print(f"\npictures   {run.pictures}", soft_wrap=True)
    if run.report.is_file():
        console.print(f"report     {run.report}", soft_wrap=True)
    console.print(f"model      {run.model}", soft_wrap=True)
    if tracking is not None:
        console.print(f"MLflow     {_mlflow_command(tracking)}", soft_wrap=True)
    return 0


def _mlflow_command(uri: str) -> str:
    """What shows the record: a server's address, or the command for a database."""
    if uri.startswith(("http:", "https:")):
        return uri
    # Without an activated environment the command is not on the path.
    beside = Path(sys.executable).with_name("mlflow")
    command = "mlflow" if shutil.which("mlflow") or not beside.is_file() else str(beside)
    return f"{command} ui --backend-store-uri {uri}"


def _watch(work: Callable[[], None], run: RunFolder, num_steps: int, console: Console) -> None:
    """Run `work` in a thread; show its progress; on Ctrl-C ask the workers to stop with a checkpoint."""
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
        run.stop_file.touch()

    # Ray installs its own SIGINT handler, but only from the main thread.
    thread = threading.Thread(target=guarded, name="ray-train", daemon=True)
    previous = {s: signal.signal(s, interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        thread.start()
        tail = Tail(run)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
            task = progress.add_task("starting the workers", total=num_steps)
            told_stop, told_wait, last_plain, started = False, False, 0.0, time.monotonic()
            while thread.is_alive():
                thread.join(_POLL_S)
                # While it starts, Ray puts a handler of its own in C on SIGTERM, which dumps a stack and aborts.
                for s in previous:
                    signal.signal(s, interrupt)
                if interrupts and not told_stop:
                    progress.console.print("stopping after this step, with a checkpoint (again to give up at once)")
                    told_stop = True
                if interrupts > 1:
                    raise KeyboardInterrupt
                if not told_wait and not tail.has_moved and time.monotonic() - started > _WAIT_WORTH_A_WORD_S:
                    progress.console.print(
                        "no worker has started yet: does the cluster have what scaling asks for? `ray status`"
                    )
                    told_wait = True
                line = tail.metrics()  # read and shown before the events: a phase begins after its last step
                events = tail.events()
                if line is not None:
                    progress.update(task, completed=line["step"] + 1, description=_progress_line(line["metrics"]))
                    if not console.is_terminal and (
                        time.monotonic() - last_plain > _PLAIN_LINE_EVERY_S or line["step"] + 1 >= num_steps
                    ):
                        last_plain = time.monotonic()
                        eta = (num_steps - line["step"] - 1) * line["metrics"].get("time/step_s", 0.0)
                        shown = f"step {line['step'] + 1}/{num_steps}  {_progress_line(line['metrics'])}"
                        console.print(f"{shown}  ETA {_duration(eta)}", soft_wrap=True)
                for event in events:
                    _show(event, progress, task)
            for event in tail.events():
                _show(event, progress, task)
    finally:
        for s, handler in previous.items():
            signal.signal(s, handler)
    if failure:
        if isinstance(failure[0], MgcdaError) or not isinstance(failure[0], Exception):
            raise failure[0]
        raise MgcdaError("training", f"{type(failure[0]).__name__}: {failure[0]}", f"logs: {run.logs}") from failure[0]


def _show(event: dict[str, Any], progress: Progress, task: TaskID) -> None:
    if event["kind"] == "progress" and progress.console.is_terminal:
        progress.update(task, completed=event["done"], total=event["total"], description=event["text"])
        return
    progress.console.print(event["text"], soft_wrap=True)
    if event["kind"] == "phase":
        progress.update(task, description=event["text"])


def _progress_line(metrics: dict[str, float]) -> str:
    # A metric that is not a number is kept as text in the record.
    metrics = {name: float(value) for name, value in metrics.items()}
    parts = [f"loss {metrics['loss/total']:.3f}"]
    parts += [
        f"{name} {metrics[f'loss/{name}']:.3f}"
        for name in ("seg", "outlier", "mdat", "cacl")
        if f"loss/{name}" in metrics
    ]
    parts.append(f"{metrics.get('time/images_per_s', 0.0):.1f} images/s")
    parts.append(f"data wait {metrics.get('time/data_wait_share', 0.0):.0%}")
    return "  ".join(parts)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"

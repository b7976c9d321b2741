"""`mgcda sweep`: the plan, the progress of the runs, and the ablation table at the end."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mgcda_dist.choices import ExitCode
from mgcda_dist.errors import ConfigError, MgcdaError
from mgcda_dist.files import write_json_atomically
from mgcda_dist.tracking.tags import Tag

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from mgcda_dist.cluster.sweep import Ended, Runner, Running
    from mgcda_dist.config.sweep import PlannedRun, Sweep
    from mgcda_dist.tracking.mlflow import MlflowTracker

__all__ = ["sweep"]

_POLL_S = 0.25


def sweep(
    words: Annotated[
        list[str],
        typer.Argument(metavar="SWEEP|CONFIG... [KEY=VALUE]...", help="a sweep file, or configurations; and changes"),
    ],
    seeds: Annotated[
        str | None, typer.Option(metavar="0,1,2", help="seeds of every row; default: the file's, or 0")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="of the sweep and its folder; default: the file's, or the rows'")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", min=1, help="most runs at a time; default: as processors and GPUs allow"),
    ] = None,
    reference: Annotated[
        str | None, typer.Option("--reference", "-r", help="row that the others are compared with; default: the first")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="show what would run, and stop")] = False,
) -> None:
    """Run configurations × seeds as one experiment; the same command goes on where it stopped."""
    from mgcda_dist.cli.console import Console
    from mgcda_dist.config.sweep import plan_runs
    from mgcda_dist.extras import TRAINING, need
    from mgcda_dist.runs.folder import locked, prepare_runs

    if not plan:
        need("mgcda sweep", *TRAINING)
    files, overrides = _split(words)
    wanted = _wanted(files, name, seeds)
    runs = plan_runs(wanted, overrides)
    if reference is not None and reference not in wanted.rows:
        raise ConfigError("--reference", f"no row is called {reference!r}", f"one of {', '.join(wanted.rows)}")
    console = Console()
    folder = Path(runs[0].config.runs)
    if not plan:
        prepare_runs(folder)
    left = _left(runs)
    console.print(
        f"{wanted.name}  {len(wanted.rows)} rows, {len(runs)} runs, {len(runs) - len(left)} finished  →  {folder}",
        soft_wrap=True,
    )
    if plan:
        for run in runs:
            console.print(f"  {run.name}  {'to do' if run in left else 'finished'}", soft_wrap=True)
        raise typer.Exit
    with locked(folder, "the sweep is going on already", "wait for it, or choose another --name"):
        raise typer.Exit(_run(wanted, runs, left, overrides, folder, console, jobs, reference))


def _left(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The runs that are not finished, checked: a misspelt backbone in the last must not wait for the first to end."""
    from mgcda_dist.cluster.sweep import is_finished

    left = [run for run in runs if not is_finished(run)]
    if left:
        from mgcda_dist import build, checks

        for run in left:
            checks.check_model(run.config)
            build.run_inputs(run.config)
    return left


def _run(
    wanted: Sweep,
    runs: list[PlannedRun],
    left: list[PlannedRun],
    overrides: list[str],
    folder: Path,
    console: Console,
    jobs: int | None,
    reference: str | None,
) -> int:
    from mgcda_dist.cluster.connect import available_resources
    from mgcda_dist.cluster.sweep import Runner

    with _parent_run(wanted, overrides, folder, runs[0], console) as tracker:
        runner = Runner(
            left, folder, available_resources(), at_once=jobs, parent_run=tracker.run_id if tracker else None
        )
        ended = _watch(runner, len(runs), console) if left else []
        status = {run.name: "finished" for run in runs if run not in left} | {one.run.name: one.state for one in ended}
        status |= {run.name: "not started" for run in runner.waiting}
        files = _conclude(wanted, runs, status, folder, reference, console)
        failed = [one for one in ended if one.state == "failed"]
        stopped = [run for run, state in status.items() if state in ("stopped", "not started")]
        if tracker is not None:
            for file in files:
                tracker.log_artifact(file)
            counts = {
                f"sweep/{state}": float(sum(s == state for s in status.values())) for state in set(status.values())
            }
            tracker.log_metrics(counts, 0)
            table = next((file.read_text(encoding="utf-8") for file in files if file.suffix == ".md"), "")
            tracker.set_tags({Tag.NOTE: _note(wanted, overrides, status, table)})
            tracker.close("FAILED" if failed else "KILLED" if stopped else "FINISHED")
    for one in failed:
        console.print(f"failed: {one.run.name}: {one.reason}\n  → {one.log}", style="red", soft_wrap=True)
    if stopped:
        console.print(f"{len(stopped)} runs are left; the same command goes on from here.", soft_wrap=True)
    elif failed:
        console.print("The same command tries the failed ones again.", soft_wrap=True)
    return ExitCode.STOPPED if stopped else ExitCode.FAILED if failed else ExitCode.OK


def _split(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Files and `key=value` changes."""
    changes = [word for word in words if "=" in word and not Path(word).is_file()]
    return [Path(word) for word in words if word not in changes], changes


def _wanted(files: list[Path], name: str | None, seeds: str | None) -> Sweep:
    from mgcda_dist.config.sweep import checked_sweep, is_sweep_file, load_sweep, sweep_of_configs

    if not files:
        raise ConfigError("sweep", "which configurations?", "mgcda sweep configs/a.yaml configs/b.yaml --seeds 0,1,2")
    sweeps = [file for file in files if is_sweep_file(file)]
    if sweeps and len(files) > 1:
        raise ConfigError(str(sweeps[0]), "is a sweep, and stands beside other files", "give it alone")
    wanted = load_sweep(files[0]) if sweeps else sweep_of_configs(files, name)
    changes: dict[str, Any] = {"name": name} if name else {}
    if seeds is not None:
        try:
            changes["seeds"] = [int(seed) for seed in seeds.split(",")]
        except ValueError:
            raise ConfigError(
                "--seeds", f"{seeds!r} is no list of whole numbers", "for example --seeds 0,1,2"
            ) from None
    return checked_sweep("sweep", wanted.model_dump() | changes)


def _watch(runner: Runner, num_runs: int, console: Console) -> list[Ended]:
    """Run all; show each run's progress; on Ctrl-C ask all to stop with a checkpoint. Returns how each ended."""
    from mgcda_dist.cli.progress import PLAIN_LINE_EVERY_S, bars

    interrupts = 0

    def interrupt(signum: int, frame: Any) -> None:
        nonlocal interrupts
        interrupts += 1

    ended: list[Ended] = []
    num_finished, heard, told_s = num_runs - len(runner.waiting), 0, time.monotonic()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {s: signal.signal(s, interrupt) for s in signals}
    try:
        with bars(console) as progress:
            overall = progress.add_task("runs", total=num_runs, completed=num_finished)
            tasks: dict[str, TaskID] = {}
            while not runner.is_done:
                started, now_ended = runner.step()
                for one in now_ended:
                    ended.append(one)
                    progress.remove_task(tasks.pop(one.run.name))
                    num_finished += one.state == "finished"
                    progress.update(overall, completed=num_finished)
                    text = f"{one.state:<9} {one.run.name}  {_summary(one)}".rstrip()
                    progress.console.print(f"{text}  ({num_finished} of {num_runs} finished)", soft_wrap=True)
                for one in started:
                    progress.console.print(f"started   {one.run.name}", soft_wrap=True)
                    tasks[one.run.name] = progress.add_task(one.run.name, total=one.run.config.optim.steps)
                plain = not console.is_terminal and time.monotonic() - told_s > PLAIN_LINE_EVERY_S
                told_s = time.monotonic() if plain else told_s
                for one in runner.running:
                    _show(one, progress, tasks[one.run.name], plain=plain)
                if interrupts > heard:
                    heard = interrupts
                    if heard == 1:
                        progress.console.print("stopping after this step, with checkpoints (again to give up at once)")
                    runner.stop()
                time.sleep(_POLL_S)
    finally:
        for s, handler in previous.items():
            signal.signal(s, handler)
        if not runner.is_done:
            runner.stop()
    return ended


def _show(one: Running, progress: Progress, task: TaskID, *, plain: bool) -> None:
    line = one.tail.metrics()
    for event in one.tail.events():
        if event["kind"] in ("phase", "progress"):
            progress.update(task, description=f"{one.run.name}  {event['text']}")
    if line is not None:
        loss = float(line["metrics"]["loss/total"])
        progress.update(task, completed=line["step"] + 1, description=f"{one.run.name}  loss {loss:.3f}")
    if plain:
        now = next(each for each in progress.tasks if each.id == task)
        step = f"step {now.completed:.0f}/{now.total:.0f}"
        progress.console.print(f"going on  {now.description}  {step}", soft_wrap=True)


def _summary(one: Ended) -> str:
    """The first set's AP, or mIoU; the reason of a failure."""
    from mgcda_dist.choices import METRICS
    from mgcda_dist.evaluation.results import EvaluationResults
    from mgcda_dist.runs.folder import RunFolder

    results = RunFolder(one.run.config).results
    if one.state != "finished" or not results.is_file():
        return one.reason.splitlines()[0] if one.reason else ""
    parts: list[str] = []
    for name, row in EvaluationResults.load(results.parent).sets.items():
        key = next((key for key in ("ap", "miou") if key in row.metrics), None)
        parts += [f"{name} {METRICS[key].title} {100 * row.metrics[key]:.2f}"] if key is not None else []
    return ", ".join(parts)


@contextmanager
def _parent_run(
    wanted: Sweep, overrides: list[str], folder: Path, first: PlannedRun, console: Console
) -> Iterator[MlflowTracker | None]:
    """The MLflow run that the sweep's runs appear under, continued by its id; ended whatever happens."""
    from mgcda_dist.runs.folder import mlflow_uri
    from mgcda_dist.tracking.jsonl import METRICS, JsonlTracker
    from mgcda_dist.tracking.mlflow import MlflowTracker
    from mgcda_dist.tracking.provenance import provenance_tags

    uri = mlflow_uri(first.config)
    if uri is None:
        yield None
        return
    tags = provenance_tags(Path(__file__).parent) | {Tag.SWEEP: wanted.name, Tag.RUN_FOLDER: str(folder)}
    tracker = MlflowTracker(
        JsonlTracker(folder / METRICS),
        uri,
        first.config.tracking.experiment,
        wanted.name,
        tags=tags | {Tag.NOTE: _note(wanted, overrides, {}, "")},
        warn=lambda text: console.print(text, soft_wrap=True),
    )
    tracker.log_params({"sweep": {"rows": list(wanted.rows), "seeds": wanted.seeds, "set": wanted.set | {}}})
    tracker.start()
    try:
        yield tracker
    except BaseException as error:
        tracker.close("FAILED" if isinstance(error, Exception) else "KILLED")
        raise


def _conclude(
    wanted: Sweep,
    runs: list[PlannedRun],
    status: dict[str, str],
    folder: Path,
    reference: str | None,
    console: Console,
) -> list[Path]:
    """The table over the finished runs, on the terminal and in files; returns the files."""
    from mgcda_dist.cli.compare import show_comparison, write_comparison
    from mgcda_dist.reports.compare import compare
    from mgcda_dist.reports.runs import find_runs

    write_json_atomically(folder / "sweep.json", {"name": wanted.name, "runs": status})
    files = [folder / "sweep.json"]
    finished = [run for run in runs if status.get(run.name) == "finished"]
    if not finished:
        return files
    order = list(wanted.rows)
    finished.sort(key=lambda run: order.index(run.row))
    base = next((run.name for run in finished if run.row == (reference or order[0])), None)
    records, _ = find_runs([str(folder / run.name) for run in finished], runs=folder)
    try:
        comparison = compare(records, reference=base)
    except MgcdaError as error:  # runs without evaluation sets have nothing to compare
        console.print(f"no table: {error}", soft_wrap=True)
        return files
    missing = [name for name, one in status.items() if one != "finished"]
    if missing:
        comparison.notes.append(f"Not in the table: {', '.join(missing)}.")
    show_comparison(comparison, console)
    files += write_comparison(comparison, folder)
    console.print(f"\ntable      {folder / 'comparison'}.md, .tex, .json", soft_wrap=True)
    return files


def _note(wanted: Sweep, overrides: list[str], status: dict[str, str], table: str) -> str:
    """Description of the parent run in MLflow, as Markdown."""
    lines = [f"Sweep **{wanted.name}**: {len(wanted.rows)} rows, seeds {', '.join(map(str, wanted.seeds))}.", ""]
    lines += [f"- `{name}`: {Path(row.config).name} {' '.join(f'{k}={v}' for k, v in row.set.items())}".rstrip()
              for name, row in wanted.rows.items()]  # fmt: skip
    changes = [f"{key}={value}" for key, value in wanted.set.items()] + overrides
    lines += ["", f"Changes to every row: {' '.join(f'`{change}`' for change in changes)}"] if changes else []
    unfinished = [f"{name} ({state})" for name, state in status.items() if state != "finished"]
    lines += ["", f"Not finished: {', '.join(unfinished)}"] if unfinished else []
    return "\n".join([*lines, "", table]).rstrip() + "\n"

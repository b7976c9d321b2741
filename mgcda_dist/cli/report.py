"""`mgcda report`: one HTML page about one or more runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mgcda_dist.cli.compare import Experiment, Mlflow, RunsFolder, Search, Words

__all__ = ["report"]


def report(
    words: Words = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="the HTML file to write")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="heading; default: the runs' names")] = "",
    max_mb: Annotated[
        float, typer.Option("--max-mb", min=0.1, help="megabytes of pictures; frames shrink, then fewer are shown")
    ] = 12.0,
    experiment: Experiment = None,
    search: Search = None,
    runs: RunsFolder = Path("runs"),
    mlflow: Mlflow = None,
) -> None:
    """Write one HTML page about runs that needs nothing else: numbers, curves, frames with a threshold slider."""
    from mgcda_dist.cli.console import Console
    from mgcda_dist.errors import MgcdaError, counted
    from mgcda_dist.files import prepare_file
    from mgcda_dist.reports.html import write_report
    from mgcda_dist.reports.runs import find_runs

    if not words and experiment is None and search is None:
        raise MgcdaError("report", "which runs?", "for example: mgcda report runs/baseline runs/full")
    prepare_file(out)
    console, errors = Console(), Console(stderr=True)
    with errors.status("reading runs"):
        records, notes = find_runs(words or [], runs=runs, mlflow_uri=mlflow, experiment=experiment, search=search)
        written = write_report(records, out, title=title, max_megabytes=max_mb)
    for sentence in [*notes, *written.missing]:
        errors.print(f"note: {sentence}", soft_wrap=True)
    counts = ((len(records), "run"), (written.num_sets, "set"), (written.num_frames, "frame"))
    told = ", ".join(counted(count, word) for count, word in counts)
    console.print(f"{written.path}   {written.num_bytes / 1e6:.1f} MB: {told}", soft_wrap=True)

"""`mgcda sync`: delivers to MLflow the parts of a run that it lacks, after an outage or for another server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from mgcda_dist.choices import ExitCode
from mgcda_dist.cli.options import refuse_password

__all__ = ["sync"]


def sync(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="run folders, sweeps, or folders that hold them")
    ],
    uri: Annotated[
        str | None,
        typer.Option("--mlflow-uri", "--mlflow", metavar="URI",
                     help="server or database; default: MLFLOW_TRACKING_URI, else the mlflow.db above the run"),
    ] = None,
    register: Annotated[
        bool, typer.Option("--register", help="also register models under the names that the records give")
    ] = False,
    wait: Annotated[float, typer.Option(min=1, help="how many seconds the server may take for an answer")] = 30.0,
) -> None:  # fmt: skip
    """Deliver to MLflow what it lacks of runs: metrics, parameters, tags, files, pictures, status."""
    from mgcda_dist.cli.console import Console
    from mgcda_dist.errors import MgcdaError
    from mgcda_dist.extras import need
    from mgcda_dist.runs.folder import locked
    from mgcda_dist.tracking.mlflow_sync import sync as deliver

    need("mgcda sync", "mlflow")
    console, errors = Console(), Console(stderr=True)
    refuse_password(uri or os.environ.get("MLFLOW_TRACKING_URI"))
    failed = 0
    for run in (run for folder in folders for run in _runs(folder.absolute())):
        try:
            with locked(run, "the run is still training", "it delivers the rest by itself, as soon as MLflow answers"):
                with errors.status(f"delivering {run.name}"):
                    done = deliver(run, uri, register=register, wait_s=wait, say=errors.print)
        except MgcdaError as error:
            failed += 1
            errors.print(f"error: {str(error).replace('`uri`', '--mlflow-uri URI')}", soft_wrap=True)
            continue
        missing = f"{done.num_metrics} metrics, {done.num_calls} other entries"
        what = missing if done.num_metrics or done.num_calls else "nothing was missing"
        console.print(f"{run.name}: {what}  →  {'new ' if done.is_new else ''}run {done.run_id}, {done.uri}",
                      soft_wrap=True)  # fmt: skip
        for sentence in done.refused:
            errors.print(f"note: {sentence}", soft_wrap=True)
    if failed:
        raise typer.Exit(ExitCode.REFUSED)


def _runs(folder: Path) -> Iterator[Path]:
    """The records in a folder and up to two levels below, a sweep before its runs."""
    from mgcda_dist.errors import MgcdaError
    from mgcda_dist.tracking.jsonl import CALLS

    places = [folder, *sorted(folder.glob("*/")), *sorted(folder.glob("*/*/"))]
    inside = os.path.realpath(folder)  # a link in somebody's folder must not lead to other records
    found = [p for p in places if (p / CALLS).is_file() and Path(os.path.realpath(p)).is_relative_to(inside)]
    if not found:
        raise MgcdaError(str(folder), "holds no record of a run", "give a run folder, runs/NAME")
    yield from sorted(found)

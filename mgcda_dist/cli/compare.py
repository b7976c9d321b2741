"""`mgcda compare`: a comparison of runs on the terminal, and as Markdown, LaTeX and JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mgcda_dist.choices import INTERVAL_LEVEL, REPLICATES
from mgcda_dist.files import prepare_folder, write_atomically

if TYPE_CHECKING:
    from rich.console import Console

    from mgcda_dist.reports.compare import Comparison

__all__ = ["compare", "show_comparison", "write_comparison"]

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RUN]...", help="run or evaluation folders, MLflow run ids, run names, sweeps, experiments"
    ),
]
RunsFolder = Annotated[Path, typer.Option("--runs", help="folder of the run folders and of MLflow's database")]
Mlflow = Annotated[
    str | None,
    typer.Option(
        "--mlflow-uri", "--mlflow", metavar="URI", help="tracking server or database; default: RUNS/mlflow.db"
    ),
]
Experiment = Annotated[str | None, typer.Option(help="all finished runs of this MLflow experiment")]
Search = Annotated[
    str | None, typer.Option(help="finished runs that fit MLflow's search string, e.g. \"params.seed = '0'\"")
]


def compare(
    words: Words = None,
    reference: Annotated[
        str | None, typer.Option("--reference", "-r", help="run or group to compare with; default: the first")
    ] = None,
    experiment: Experiment = None,
    search: Search = None,
    metrics: Annotated[str | None, typer.Option(help="e.g. ap,fpr95,best_f1; default: ap,fpr95,auroc,miou")] = None,
    runs: RunsFolder = Path("runs"),
    mlflow: Mlflow = None,
    out: Annotated[
        Path | None, typer.Option(help="folder for comparison.md, comparison.tex and comparison.json")
    ] = None,
    form: Annotated[
        Literal["terminal", "markdown", "latex", "json"], typer.Option("--format", help="what is printed")
    ] = "terminal",
    replicates: Annotated[int, typer.Option(min=100, help="draws of the bootstrap")] = REPLICATES,
    level: Annotated[float, typer.Option(min=0.5, max=0.999, help="coverage of the intervals")] = INTERVAL_LEVEL,
) -> None:
    """Compare runs: parameters that differ, metrics with intervals, which differences are significant."""
    from mgcda_dist.api.comparison import compare_found
    from mgcda_dist.cli.console import Console
    from mgcda_dist.reports.tables import as_json, latex, markdown

    console, errors = Console(), Console(stderr=True)
    if out is not None:
        prepare_folder(out)
    with errors.status("reading runs") as status:

        def progress(done: int, total: int) -> None:
            status.update(f"resampling frames, {done} of {total}")

        comparison = compare_found(
            words or [],
            runs=runs,
            mlflow_uri=mlflow,
            experiment=experiment,
            search=search,
            reference=reference,
            metrics=[name.strip() for name in metrics.split(",")] if metrics else (),
            replicates=replicates,
            level=level,
            progress=progress,
        )
    if form == "terminal":
        show_comparison(comparison, console)
    else:
        texts = {"markdown": lambda: markdown(comparison), "latex": lambda: latex(comparison)}
        text = texts.get(form, lambda: json.dumps(as_json(comparison), indent=1, ensure_ascii=False) + "\n")()
        typer.echo(text, nl=False)
    if out is not None:
        write_comparison(comparison, out)
        errors.print(f"written: {out / 'comparison'}.md, .tex, .json", soft_wrap=True)


def show_comparison(comparison: Comparison, console: Console) -> None:
    """Print the tables, then what they say."""
    from mgcda_dist.reports.tables import comparison_tables, findings, legend
    from mgcda_dist.tables import terminal

    for table in comparison_tables(comparison):
        console.print(terminal(table))
    for sentence in findings(comparison):
        console.print(sentence)
    console.print()
    for note in [*comparison.notes, *legend(comparison)]:
        console.print(note, style="dim")


def write_comparison(comparison: Comparison, folder: Path) -> list[Path]:
    """Write `comparison.md`, `.tex` and `.json` into a folder, which is made; returns the files."""
    from mgcda_dist.reports.tables import as_json, latex, markdown

    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "md": markdown(comparison),
        "tex": latex(comparison),
        "json": json.dumps(as_json(comparison), indent=1, ensure_ascii=False) + "\n",
    }
    for kind, text in texts.items():
        write_atomically(folder / f"comparison.{kind}", text)
    return [folder / f"comparison.{kind}" for kind in texts]

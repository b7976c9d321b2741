"""`mgcda evaluate`: what it takes, its progress, and the table of results. Imports lazily."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from mgcda_dist.evaluation.request import EvaluationRequest

__all__ = ["evaluate", "show_results"]


def evaluate(
    models: Annotated[
        list[Path], typer.Argument(metavar="RUN|CHECKPOINT|MODEL...", help="run folders, checkpoints or model folders")
    ],
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="[NAME=]FOLDER", help="shards; repeat for several; default: the run's own sets"),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="processes that share the frames")] = 1,
    height: Annotated[
        int | None, typer.Option(min=1, help="height of the network's input, pixels; default: as the run")
    ] = None,
    blur: Annotated[bool | None, typer.Option(help="7×7, σ = 1 blur of the score map; default: as the run")] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder for results and pictures; default: `evaluation` beside the model")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace another evaluation in --out")] = False,
) -> None:
    """AP, AUROC, FPR95 and closed-set mIoU of trained models."""
    from rich.console import Console

    from mgcda_dist.evaluation.request import model_request, sets_of

    console = Console(highlight=False, markup=False)
    sets = sets_of(data or [])
    options = {"height_px": height, "blur": blur}
    requests = [model_request(path, sets, options) for path in models]
    for request in requests:
        _evaluate_one(request, _folder(request, out, overwrite, alone=len(requests) == 1), workers, console)


def _folder(request: EvaluationRequest, out: Path | None, overwrite: bool, *, alone: bool) -> Path:
    from mgcda_dist.errors import ConfigError
    from mgcda_dist.evaluation.request import free_folder, holds_another

    identity = request.job.identity()
    if out is None:
        return free_folder(request.beside, identity)
    folder = (out if alone else out / request.job.name).absolute()
    if not overwrite and holds_another(folder, identity):
        remedy = "give another folder, or --overwrite"
        raise ConfigError("--out", f"{folder} holds the results of another evaluation", remedy)
    return folder


def _evaluate_one(request: EvaluationRequest, folder: Path, workers: int, console: Console) -> None:
    from rich.progress import Progress

    arguments: dict[str, Any] = {"job": request.job.model_dump(mode="json"), "out": str(folder)}
    if workers > 1:
        from mgcda_dist.training.ray_trainer import launch

        launch(request.with_workers(workers), folder, "evaluate", arguments)
    else:
        from mgcda_dist.training.worker import evaluate

        with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
            task = progress.add_task("evaluating", total=None)

            def advance(name: str, done: int, total: int) -> None:
                progress.update(task, description=name, completed=done, total=total)

            evaluate(request.with_workers(1), **arguments, progress=advance)
    show_results(json.loads((folder / "results.json").read_text(encoding="utf-8")), console)
    console.print(f"\nresults and pictures   {folder}", soft_wrap=True)


def show_results(results: dict[str, Any], console: Console) -> None:
    """Print the table of `results.json`."""
    from rich.table import Table

    table = Table(title=f"Pixel metrics, convention {results['convention']}, %", title_justify="left")
    for column in ("set", "frames", "AP", "AUROC", "FPR95", "mIoU"):
        table.add_column(column, justify="left" if column == "set" else "right")
    for name, row in results["sets"].items():
        values = [row.get(key) for key in ("ap", "auroc", "fpr95", "miou")]
        table.add_row(name, str(row["frames"]), *("—" if v is None else f"{100 * v:.2f}" for v in values))
    console.print(table)

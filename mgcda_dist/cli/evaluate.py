"""`mgcda evaluate`: its options, its progress, and the table of results. Imports lazily."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mgcda_dist.choices import CONVENTIONS, ComponentTrack, KnownClassSpace, SubmissionLayout
from mgcda_dist.cli.options import numbers_of, refuse_password, window_of

if TYPE_CHECKING:
    from rich.console import Console

    from mgcda_dist.evaluation.results import EvaluationResults

__all__ = ["Blur", "Flip", "Height", "LongestSide", "Overlap", "Scales", "Score", "Window", "evaluate", "show_results"]

Score = Annotated[
    str | None,
    typer.Option(metavar="NAME|python:MODULE:NAME|plugin:NAME", help="anomaly score; default: as the run"),
]
Height = Annotated[
    int | None,
    typer.Option("--height", min=0, help="of the network's input, pixels; 0: the frame's own; default: as the run"),
]
LongestSide = Annotated[
    int | None, typer.Option("--longest-side", min=1, help="of the network's input, pixels, instead of its height")
]
Scales = Annotated[
    str | None,
    typer.Option(metavar="S,S…", help="average over inputs scaled by, e.g. 0.75,1,1.25; default: as the run"),
]
Flip = Annotated[bool | None, typer.Option(help="average with the mirrored frame; default: as the run")]
Window = Annotated[str | None, typer.Option(metavar="HxW|none", help="sliding window, for frames larger than memory")]
Overlap = Annotated[float | None, typer.Option(min=0, max=0.95, help="share of windows that overlaps")]
Blur = Annotated[bool | None, typer.Option(help="7×7, σ = 1 blur of the score map; default: as the run")]


def evaluate(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[[NAME=]RUN|CHECKPOINT|MODEL|FILE.onnx|python:MODULE:NAME]...",
            help="run folders, checkpoints, model folders; ONNX files; functions or modules of your own",
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", "-d", metavar="[NAME=]FOLDER|URL",
            help="shards; repeat for several; default: the run's own sets",
        ),
    ] = None,
    maps: Annotated[
        list[str] | None,
        typer.Option(
            "--maps", "-m", metavar="[NAME=]FOLDER",
            help="score maps of another method (.npy .npz .h5 .tif .png), named as the frames; repeat for several",
        ),
    ] = None,
    resize_maps: Annotated[
        bool, typer.Option("--resize-maps", help="bring maps to their label's size")
    ] = False,
    ignore_extra_maps: Annotated[
        bool, typer.Option("--ignore-extra-maps", help="maps that belong to no frame")
    ] = False,
    class_space: Annotated[
        KnownClassSpace | None,
        typer.Option(help="of ONNX files, functions and modules; default: no mIoU"),
    ] = None,
    input_range: Annotated[
        str | None,
        typer.Option(
            metavar="0-255|0-1|imagenet|M,M,M/S,S,S",
            help="of ONNX files and modules whose input is floating point; M and S in units of 0…1",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="processes that share a model's frames")
    ] = 1,
    score: Score = None,
    height_px: Height = None,
    longest_side_px: LongestSide = None,
    scales: Scales = None,
    flip: Flip = None,
    window: Window = None,
    overlap: Overlap = None,
    blur: Blur = None,
    convention: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME…",
            help=f"how frames are pooled, the first one for the tables: {', '.join(CONVENTIONS)}",
        ),
    ] = None,
    components: Annotated[
        ComponentTrack | None,
        typer.Option(help="component metrics of SegmentMeIfYouCan, by track"),
    ] = None,
    instances: Annotated[
        bool | None, typer.Option(help="instance AP of OoDIS")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="of components and instances; default: best F1 on the same set"),
    ] = None,
    max_frames: Annotated[
        int | None, typer.Option(min=1, help="the first frames of each set only")
    ] = None,
    kept: Annotated[
        int | None, typer.Option(min=0, help="pictures of this many worst and as many best frames")
    ] = None,
    submission: Annotated[
        SubmissionLayout | None,
        typer.Option(help="also write the score maps as this benchmark takes them"),
    ] = None,
    submission_folder: Annotated[
        Path | None, typer.Option(help="where to; default: `submission` among the results")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="default: `evaluation` beside the model or maps")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="write into --out even if it holds other files or another evaluation")
    ] = False,
    mlflow_uri: Annotated[
        str | None,
        typer.Option("--mlflow-uri", "--mlflow", metavar="URI", help="server or database that also gets the results"),
    ] = None,
    experiment: Annotated[
        str | None, typer.Option(help="of MLflow; default: the model's own, mgcda for score maps")
    ] = None,
) -> None:  # fmt: skip
    """Measure models, functions, ONNX files and score maps: AP, AUROC, FPR95, mIoU, components, with intervals."""
    from mgcda_dist.errors import ConfigError

    if not models and not maps:  # before the seconds that torch takes to load
        remedy = "give a run, a model, an ONNX file, python:MODULE:NAME, or --maps FOLDER"
        raise ConfigError("mgcda evaluate", "nothing to evaluate", remedy)
    from mgcda_dist.api.evaluation import do_request, folders_for
    from mgcda_dist.cli.console import Console
    from mgcda_dist.cli.progress import shown_progress
    from mgcda_dist.evaluation.folder import write_tables
    from mgcda_dist.evaluation.foreign import is_foreign
    from mgcda_dist.extras import need
    from mgcda_dist.files import prepare_folder
    from mgcda_dist.references import expanded
    from mgcda_dist.runs.evaluation_record import (
        deliver_evaluations,
        record_evaluation,
        refuse_training_record,
    )
    from mgcda_dist.runs.evaluation_request import EvaluationOptions, map_request, model_request, named, sets_of
    from mgcda_dist.runs.foreign_request import foreign_request

    console = Console()
    refuse_password(mlflow_uri)
    if mlflow_uri is not None:
        need("--mlflow-uri", "mlflow")
    if workers > 1:
        need("--workers", "ray", "psutil")
    if experiment is not None and mlflow_uri is None:
        raise ConfigError("--experiment", "needs MLflow, but no server is given", "name it: --mlflow-uri URI")
    sets = sets_of(data or [])
    options = EvaluationOptions(
        max_frames=max_frames,
        conventions=[name.strip() for name in convention.split(",")] if convention is not None else None,
        components=components,
        instances=instances,
        threshold=threshold,
        kept_frames=kept,
        score=expanded(score, "score"),
        height_px=height_px,
        longest_side_px=longest_side_px,
        scales=numbers_of(scales, "--scales") if scales is not None else None,
        flip=flip,
        window_px=window_of(window, "1024x1024") if window is not None else None,
        window_overlap=overlap,
        blur=blur,
    )
    if not models and options.of_network():
        problem = "is an option of a network, but only score maps are evaluated"
        raise ConfigError(options.of_network()[0], problem, "leave it out")
    subjects = [(name, path, expanded(str(path), "evaluate")) for name, path in map(named, models or [])]
    for option, value in (("class_space", class_space), ("input_range", input_range)):
        if value is not None and not any(is_foreign(text) for _, _, text in subjects):
            raise ConfigError(option, "is of functions, modules and ONNX files, and none is given", "leave it out")
    for _, path, text in subjects:
        if not is_foreign(text):
            _refuse_maps(path)
    requests = [
        foreign_request(text, sets, options, name=name, class_space=class_space, input_range=input_range)
        if is_foreign(text)
        else model_request(path, sets, options, name=name)
        for name, path, text in subjects
    ]
    requests += [
        map_request(path, sets, options, name=name, resize=resize_maps, ignore_extra=ignore_extra_maps)
        for name, path in map(named, maps or [])
    ]
    folders = folders_for(requests, out, overwrite=overwrite)
    if mlflow_uri is not None:
        for folder in folders:
            refuse_training_record(folder)
    if submission is not None and submission_folder is not None:
        prepare_folder(submission_folder)
    results: list[EvaluationResults] = []
    for request, folder in zip(requests, folders, strict=True):
        if submission is not None:
            place = submission_folder or folder / "submission"
            # The other layout has a folder per method of its own.
            share = len(requests) > 1 and submission_folder is not None and submission == "fishyscapes"
            request = request.with_submission(submission, (place / request.job.name if share else place).absolute())
        on_workers = workers > 1 and request.scaling is not None
        with shown_progress(f"starting {workers} workers" if on_workers else request.job.name) as show:
            results.append(do_request(request, folder, workers, show))
    show_results(results, console)
    console.print()
    for request, folder in zip(requests, folders, strict=True):
        console.print(f"{request.job.name}   {folder}", soft_wrap=True)
    if len(requests) > 1 and out is not None:
        write_tables(results, out)
        console.print(f"tables of all   {out.absolute()}", soft_wrap=True)
    if mlflow_uri is not None:
        for request, folder in zip(requests, folders, strict=True):
            record_evaluation(request, folder, mlflow_uri, experiment)
        for request, done in zip(requests, deliver_evaluations(folders, mlflow_uri), strict=True):
            console.print(f"{request.job.name}   MLflow run {done.run_id}, {done.uri}", soft_wrap=True)


def _refuse_maps(path: Path) -> None:
    """Refuse a folder of score maps in the place of a model, which would only be said to hold none."""
    from mgcda_dist.errors import ConfigError
    from mgcda_dist.evaluation.score_maps import SUFFIXES
    from mgcda_dist.models.exported import holds_model

    if path.is_dir() and not holds_model(path) and any(each.suffix.lower() in SUFFIXES for each in path.iterdir()):
        raise ConfigError(str(path), "holds score maps, and no trained model", f"give it as --maps {path}")


def show_results(every: list[EvaluationResults], console: Console) -> None:
    """Print the table of some evaluations."""
    from mgcda_dist.evaluation.tables import headline_table
    from mgcda_dist.tables import terminal

    console.print(f"Pixel metrics, convention {every[0].settings.convention}, %")
    console.print(terminal(headline_table(every)))
    rows = [(name, results, row) for results in every for name, row in results.sets.items()]
    for name, results, row in rows:
        if not {"ap", "miou"} & set(row.metrics) and row.pixels is not None:
            counts = {"anomaly": row.pixels.anomaly, "inlier": row.pixels.inlier}
            missing = " and no ".join(kind for kind, count in counts.items() if not count)
            console.print(f"note: {name}: no {missing} pixel in its labels, so there is nothing to measure")
        if row.metrics.get("auroc", 1.0) < 0.5:
            text = "AUROC is below 50 %; are higher scores more anomalous, and the masks not inverted?"
            text = f"{results.subject.name} on {name}: {text}"
            console.print(f"note: {text}", soft_wrap=True)

"""`mgcda calibrate`: what a score needs measured after training: class statistics, or a bank of features."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mgcda_dist.config.run import EvaluationSetConfig

__all__ = ["calibrate"]


def calibrate(
    source: Annotated[Path, typer.Argument(metavar="RUN|CHECKPOINT|MODEL", help="model to measure")],
    data: Annotated[str, typer.Option("--data", "-d", metavar="FOLDER|URL", help="labelled shards it was trained on")],
    max_frames: Annotated[int, typer.Option(min=1, help="number of frames, from the first")] = 200,
    head: Annotated[
        str, typer.Option(metavar="YAML", help="to measure: {name: neighbours, use: plugin:cdnp_bank, stage: stride16}")
    ] = "",
    score: Annotated[str, typer.Option(metavar="NAME", help="that reads the head: plugin:cdnp_score")] = "",
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="of the model with the head")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace FOLDER if it is an exported model")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1")] = "auto",
) -> None:  # fmt: skip
    """Measure each class's maximum logit on training frames, for --score standardized_max_logit; or a head."""
    from mgcda_dist.config.parse import parse_yaml
    from mgcda_dist.errors import ConfigError
    from mgcda_dist.models.exported import model_folder
    from mgcda_dist.runs.evaluation_request import sets_of

    given = {"--head": bool(head), "--score": bool(score), "--out": out is not None}
    if any(given.values()) and not all(given.values()):
        missing = ", ".join(name for name, there in given.items() if not there)
        raise ConfigError(missing, "is missing", "a head is measured for a score, and written as a model of its own")
    (entry,) = sets_of([data])
    folder, entry = model_folder(source), entry.model_copy(update={"max_frames": max_frames})
    if out is None:
        return _statistics(folder, data, entry, device)
    content = parse_yaml(head, "--head")
    if not isinstance(content, dict):
        raise ConfigError("--head", f"{content!r} is no mapping", "write '{name: NAME, use: plugin:cdnp_bank}'")
    return _head(folder, out, content, score, entry, device, overwrite)


def _head(
    folder: Path, out: Path, head: dict[str, Any], score: str, entry: EvaluationSetConfig, device: str, overwrite: bool
) -> None:  # fmt: skip
    from mgcda_dist.build.measured import add_measured_head
    from mgcda_dist.cli.console import Console
    from mgcda_dist.cli.progress import shown_progress
    from mgcda_dist.files import pending_folder
    from mgcda_dist.inference.export import check_output_folder
    from mgcda_dist.inference.model import device_of

    check_output_folder(out, overwrite=overwrite)
    with shown_progress("measuring features", None) as show, pending_folder(out) as pending:
        made = add_measured_head(folder, pending, head, score, entry, device_of(device, "--device"), show)
    said = ", ".join(f"{name} {value}" for name, value in made.arguments.items())
    Console().print(f"{out}   has the head {made.name} ({said}) and scores with {score}", soft_wrap=True)


def _statistics(folder: Path, data: str, entry: EvaluationSetConfig, device: str) -> None:
    from dataclasses import replace

    from mgcda_dist import build
    from mgcda_dist.cli.console import Console
    from mgcda_dist.cli.progress import shown_progress
    from mgcda_dist.data.pixels import InputSize
    from mgcda_dist.errors import ConfigError
    from mgcda_dist.evaluation.calibration import class_statistics
    from mgcda_dist.files import prepare_folder
    from mgcda_dist.inference.model import device_of
    from mgcda_dist.models.exported import read_metadata, save_metadata
    from mgcda_dist.tables import Column, Table, terminal

    console, where = Console(), device_of(device, "--device")
    prepare_folder(folder)
    config, network = build.load_model(folder)
    size, names = InputSize(config.evaluation.height_px, config.evaluation.longest_side_px), config.data.class_names
    frames = build.evaluation_frames(entry, config.data, size)
    with shown_progress("measuring logits", len(frames)) as show:
        try:
            labelled = (frames[i] for i in range(len(frames)))
            found, pixels = class_statistics(network.to(where), labelled, len(names), where, show)
        except ValueError as error:
            raise ConfigError(
                "--data", f"{data}: {error}", "give labelled frames that the model was trained on"
            ) from None
    assert frames.manifest is not None
    measured = {
        "mean": found.mean, "var": found.var, "pixels": pixels, "frames": len(frames), "height_px": size.height_px,
        "dataset": frames.manifest.dataset, "split": frames.manifest.split, "manifest_digest": frames.manifest.digest,
    } | ({"longest_side_px": size.longest_side_px} if size.longest_side_px else {})  # fmt: skip
    save_metadata(replace(read_metadata(folder), class_statistics=measured), folder)
    rows = [
        [name, f"{mean:.3f} ± {var**0.5:.3f}", number, "" if number > 1 else "as over all classes"]
        for name, mean, var, number in zip(names, found.mean, found.var, pixels, strict=True)
    ]
    columns = [Column("class", align="left"), Column("maximum logit"), Column("pixels"), Column("", align="left")]
    console.print(terminal(Table(columns, rows), plain=True))
    console.print(f"{folder / 'model.json'}   now supports --score standardized_max_logit", soft_wrap=True)

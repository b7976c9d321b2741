"""`mgcda calibrate`: class statistics of a trained model for `--score standardized_max_logit`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from mgcda_dist.cli.options import device_of

__all__ = ["calibrate"]


def calibrate(
    source: Annotated[Path, typer.Argument(metavar="RUN|CHECKPOINT|MODEL", help="model to measure")],
    data: Annotated[str, typer.Option("--data", "-d", metavar="FOLDER|URL", help="labelled shards it was trained on")],
    max_frames: Annotated[int, typer.Option(min=1, help="number of frames, from the first")] = 200,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1")] = "auto",
) -> None:
    """Measure each class's maximum logit on training frames, for --score standardized_max_logit."""
    from mgcda_dist import build
    from mgcda_dist.cli.console import Console
    from mgcda_dist.cli.progress import shown_progress
    from mgcda_dist.data.pixels import InputSize
    from mgcda_dist.errors import ConfigError
    from mgcda_dist.evaluation.calibration import class_statistics
    from mgcda_dist.models.exported import model_folder, read_metadata, save_metadata
    from mgcda_dist.runs.evaluation_request import sets_of
    from mgcda_dist.tables import Column, Table, terminal

    console = Console()
    folder, where = model_folder(source), device_of(device)
    config, network = build.load_model(folder)
    (entry,) = sets_of([data])
    size, names = InputSize(config.evaluation.height_px, config.evaluation.longest_side_px), config.data.class_names
    frames = build.evaluation_frames(entry.model_copy(update={"max_frames": max_frames}), config.data, size)
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

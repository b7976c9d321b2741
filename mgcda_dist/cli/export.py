"""`mgcda export`: a trained network as files for use, with a model card and checks of the written files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mgcda_dist.cli.options import names_of, size_of

if TYPE_CHECKING:
    from mgcda_dist.inference.proof import Check

__all__ = ["export"]


def export(
    source: Annotated[Path, typer.Argument(metavar="RUN|CHECKPOINT|MODEL", help="model to export")],
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="folder for the files; must not exist yet")],
    formats: Annotated[
        str, typer.Option("--format", "-f", metavar="NAME,NAME…", help="safetensors, torch, onnx")
    ] = "safetensors,torch",
    verify: Annotated[
        bool, typer.Option(help="check the written files: tensors, FLOPs, latency, equal outputs")
    ] = True,
    size: Annotated[str, typer.Option(metavar="HxW", help="size of the image for FLOPs and latency")] = "512x1024",
    half: Annotated[bool, typer.Option("--half", help="float16 weights: half the size, scores rounded")] = False,
    graph_px: Annotated[
        str, typer.Option("--graph-size", metavar="HxW", help="graphs for images of this size alone")
    ] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace FOLDER if it is an exported model")] = False,
) -> None:  # fmt: skip
    """Export a trained network for use without the training code: safetensors, torch.export, ONNX, and a model card."""
    from mgcda_dist.api.exporting import export_and_check
    from mgcda_dist.cli.console import Console
    from mgcda_dist.inference.export import FORMATS, check_output_folder
    from mgcda_dist.inference.model import load_exported
    from mgcda_dist.tables import Column, Table, terminal

    wanted, image = names_of(formats, "--format", list(FORMATS)), size_of(size, "--size", "512x1024")
    fixed = size_of(graph_px, "--graph-size", "512x1024") if graph_px else None
    console = Console()
    errors = Console(stderr=True)
    check_output_folder(out, overwrite=overwrite)
    with errors.status("reading the model"):
        model = load_exported(source)

    def show(checks: Sequence[Check]) -> None:
        columns = [Column(title, align="left") for title in ("", "checked", "found")]
        rows = [["ok" if each.passed else "NO", each.name, each.found] for each in checks]
        console.print(terminal(Table(columns, rows, "The export against a new network")))

    export_and_check(
        model,
        out,
        wanted,
        verify=verify,
        image_px=image,
        half=half,
        graph_px=fixed,
        overwrite=overwrite,
        status=errors.status,
        show=show,
    )
    for path in sorted(out.iterdir()):
        console.print(f"{path}   {path.stat().st_size / 1e6:.2f} MB", soft_wrap=True)

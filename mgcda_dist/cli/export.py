"""`mgcda export`: a trained network as files for use, with a card and a proof that it is the bare network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mgcda_dist.cli.options import names_of, size_of
from mgcda_dist.files import pending_folder

if TYPE_CHECKING:
    from rich.console import Console

    from mgcda_dist.inference.model import ExportedModel

__all__ = ["export"]

_FORMATS = {"safetensors": "model.safetensors", "torch": "model.pt2", "onnx": "model.onnx"}
_TOLERANCE = 1e-3
"""Largest difference of a score between a written graph and the network, relative to the range of scores seen (≥ 1)."""


def export(
    source: Annotated[Path, typer.Argument(metavar="RUN|CHECKPOINT|MODEL", help="what to export")],
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="receives the files; must not exist yet")],
    formats: Annotated[
        str, typer.Option("--format", "-f", metavar="NAME,NAME…", help="safetensors, torch, onnx")
    ] = "safetensors,torch",
    verify: Annotated[
        bool, typer.Option(help="check that it is the bare network: tensors, FLOPs, latency, equal outputs")
    ] = True,
    size: Annotated[str, typer.Option(metavar="HxW", help="image for FLOPs and latency")] = "512x1024",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace FOLDER if it is an exported model")] = False,
) -> None:  # fmt: skip
    """Export a trained network for use without the training: safetensors, torch.export, ONNX, and a model card."""
    from rich.console import Console

    from mgcda_dist.inference.card import model_card
    from mgcda_dist.inference.formats import as_program, write_onnx, write_program
    from mgcda_dist.inference.model import load_exported
    from mgcda_dist.inference.operating import operating_points, run_folder
    from mgcda_dist.models.exported import save_segmenter

    wanted, image = names_of(formats, "--format", list(_FORMATS)), size_of(size, "--size", "512x1024")
    console = Console(highlight=False, markup=False)
    errors = Console(stderr=True, highlight=False, markup=False)
    _check_free(out, overwrite)
    with errors.status("reading the model"):
        model = load_exported(source)
    with pending_folder(out) as partial:
        metadata = replace(model.metadata, operating_points=operating_points(model))
        save_segmenter(model.network, metadata, partial)
        if set(wanted) & {"torch", "onnx"}:
            with errors.status("tracing the network"):
                program = as_program(model)
            if "torch" in wanted:
                write_program(program, partial / "model.pt2")
            if "onnx" in wanted:
                with errors.status("translating to ONNX"):
                    write_onnx(program, partial / "model.onnx")
        files = [_FORMATS[name] for name in ("safetensors", *(name for name in wanted if name != "safetensors"))]
        run = run_folder(model.folder)
        (partial / "README.md").write_text(model_card(model, files, run), encoding="utf-8")
        if verify:
            _verify(load_exported(partial), model, [partial / name for name in files[1:]], image, console, errors)
    for path in sorted(out.iterdir()):
        console.print(f"{path}   {path.stat().st_size / 1e6:.2f} MB", soft_wrap=True)


def _verify(
    written: ExportedModel,
    model: ExportedModel,
    graphs: list[Path],
    size: tuple[int, int],
    console: Console,
    errors: Console,
) -> None:
    """Print what was checked; a failure is an error."""
    import torch
    from rich.table import Table

    from mgcda_dist.errors import MgcdaError
    from mgcda_dist.inference.formats import largest_difference
    from mgcda_dist.inference.proof import Fact, proofs

    with errors.status("comparing with the bare network"):
        facts = proofs(written, size)
        image = torch.arange(3 * 61 * 83, dtype=torch.int64).remainder(256).to(torch.uint8).view(1, 3, 61, 83)
        with torch.no_grad():
            same = torch.equal(written.network(image).logits, model.network(image).logits)
        facts.append(
            Fact("model.safetensors", same, "gives the same logits, bit for bit" if same else "gives other logits")
        )
        for path in graphs:
            difference = largest_difference(written, path)
            facts.append(Fact(path.name, difference < _TOLERANCE, f"scores differ by {difference:.1e} at most"))
    table = Table("", "checked", "found", title="The model against the bare network", title_justify="left")
    for fact in facts:
        table.add_row("ok" if fact.holds else "NO", fact.name, fact.found)
    console.print(table)
    failed = [fact.name for fact in facts if not fact.holds]
    if failed:
        remedy = "nothing was written; latency alone may fail on a busy machine: export again, or with --no-verify"
        raise MgcdaError(str(model.folder), f"the export is not the bare network: {', '.join(failed)}", remedy)


def _check_free(out: Path, overwrite: bool) -> None:
    from mgcda_dist.errors import MgcdaError

    if not out.exists():
        return
    if not (out / "model.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise MgcdaError(str(out), "exists and is no exported model", "give another folder")
    if not overwrite and out.is_dir() and any(out.iterdir()):
        raise MgcdaError(str(out), "exists already", "give another folder, or --overwrite")

"""Export of a trained network: weights, graphs and model card in one folder, checked against a newly built network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path

import torch

from mgcda_dist.choices import RunFile
from mgcda_dist.errors import MgcdaError
from mgcda_dist.files import pending_folder, prepare_folder
from mgcda_dist.inference.card import model_card
from mgcda_dist.inference.formats import as_program, largest_difference, write_onnx, write_program
from mgcda_dist.inference.model import ExportedModel, load_exported
from mgcda_dist.inference.operating import operating_points, run_folder
from mgcda_dist.inference.proof import Check, compare_with_baseline
from mgcda_dist.models.exported import save_segmenter

__all__ = ["FORMATS", "check_output_folder", "export_model", "verify_export"]

FORMATS = {"safetensors": RunFile.WEIGHTS, "torch": "model.pt2", "onnx": "model.onnx"}
"""Format → file; the first is always written."""
_TOLERANCE = 1e-3
"""Largest absolute difference of a score between a written graph and the network."""
HALF_TOLERANCE = 0.25
"""The same of a logit between a network and its float16 weights; those of a trained network span more than ten."""

Status = Callable[[str], AbstractContextManager[object]]
"""Context that shows the current step to the user."""


def check_output_folder(out: Path, *, overwrite: bool) -> None:
    """Refuse a folder that must not be replaced.

    Raises:
        MgcdaError: the folder holds other files, or an exported model without `overwrite`; or it cannot be made.
    """
    prepare_folder(out.absolute().parent)  # where it is made, under another name first
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / RunFile.METADATA).is_file():
        raise MgcdaError(str(out), "exists and is no exported model", "give another folder")
    if not overwrite:
        raise MgcdaError(str(out), "exists already", "give another folder, or `overwrite`")


def export_model(
    model: ExportedModel,
    out: Path,
    formats: Sequence[str],
    status: Status,
    verify: Callable[[ExportedModel, Sequence[Path]], None] | None = None,
    *,
    half: bool = False,
    graph_px: tuple[int, int] | None = None,
) -> None:
    """Write a model, its operating points and its card to `out`, which is replaced at the end.

    Args:
        model: from `load_exported`.
        out: checked with `check_output_folder`.
        formats: of `FORMATS`.
        status: shows the current step.
        verify: called with the written model and its graphs; an exception discards the export.
        half: write float16 weights, see `save_segmenter`; graphs then hold the rounded values.
        graph_px: height and width of the only images that the graphs take, pixels; None: any.
    """
    graphs = [FORMATS[name] for name in formats if name != "safetensors"]
    with pending_folder(out) as folder:
        points = [asdict(point) for point in operating_points(model)]
        metadata = replace(model.metadata, operating_points=points, graph_px=graph_px if graphs else None)
        save_segmenter(model.network, metadata, folder, half=half)
        written = load_exported(folder, model.device)
        if graphs:
            with status("tracing the network"):
                program = as_program(written if half else replace(model, metadata=metadata))
            if "torch" in formats:
                write_program(program, folder / FORMATS["torch"])
            if "onnx" in formats:
                with status("translating to ONNX"):
                    write_onnx(program, folder / FORMATS["onnx"])
        files = [FORMATS["safetensors"], *graphs]
        card = model_card(model, files, run_folder(model.folder), written.digest, metadata.graph_px)
        (folder / "README.md").write_text(card, encoding="utf-8")
        if verify is not None:
            verify(load_exported(folder), [folder / name for name in graphs])


def verify_export(
    written: ExportedModel, model: ExportedModel, graphs: Sequence[Path], size: tuple[int, int]
) -> list[Check]:
    """Check that a written model is the segmenter alone, and that its files give the original's outputs.

    Args:
        written: loaded from the written files.
        model: the original.
        graphs: written `.pt2` and `.onnx` files.
        size: height and width of the image for FLOPs and latency, pixels.
    """
    checks = compare_with_baseline(written, size)
    image = torch.arange(3 * 61 * 83, dtype=torch.int64).remainder(256).to(torch.uint8).view(1, 3, 61, 83)
    checks.append(_weights_check(written, model, image))
    for path in graphs:
        difference = largest_difference(written, path)
        checks.append(Check(path.name, difference < _TOLERANCE, f"scores differ by at most {difference:.1e}"))
    return checks


def _weights_check(written: ExportedModel, model: ExportedModel, image: torch.Tensor) -> Check:
    """Bit-identical logits; of float16 weights nearly the same ones."""
    with torch.no_grad():
        found, expected = written.network(image).logits, model.network(image).logits
    if torch.equal(found, expected):
        return Check(FORMATS["safetensors"], True, "bit-identical logits")
    if written.digest == model.digest or not _is_half(written):
        return Check(FORMATS["safetensors"], False, "other logits")
    difference = float((found - expected).abs().max())
    return Check(FORMATS["safetensors"], difference < HALF_TOLERANCE, f"float16: logits differ by {difference:.1e}")


def _is_half(model: ExportedModel) -> bool:
    from safetensors import safe_open

    with safe_open(model.folder / RunFile.WEIGHTS, "pt") as file:
        return any(file.get_slice(name).get_dtype() == "F16" for name in file.keys())  # noqa: SIM118

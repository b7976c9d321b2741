"""Export from a program: a trained network as files for use, checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mgcda_dist.api.prediction import opened
from mgcda_dist.api.run import Run

if TYPE_CHECKING:
    from mgcda_dist.inference.model import ExportedModel
    from mgcda_dist.inference.proof import Check

__all__ = ["Format", "export", "export_and_check"]

Format = Literal["safetensors", "torch", "onnx"]
Status = Callable[[str], AbstractContextManager[object]]
"""Context that shows the current step to the user."""


def export(
    model: Run | ExportedModel | str | Path,
    out: str | Path,
    formats: Sequence[Format] = ("safetensors", "torch"),
    *,
    verify: bool = True,
    image_px: tuple[int, int] = (512, 1024),
    half: bool = False,
    graph_px: tuple[int, int] | None = None,
    overwrite: bool = False,
) -> ExportedModel:
    """Write a trained network for use without the training code, with a model card.

    Args:
        model: a run, its folder, a checkpoint, or an exported model.
        out: folder for the files.
        formats: the first is always written.
        verify: compare the written files with a newly built network: tensors, FLOPs, latency, outputs.
        image_px: height and width of the image for FLOPs and latency.
        half: float16 weights: half the size, scores rounded.
        graph_px: height and width of the only images that the graphs take, pixels; None: any. Networks with a Swin of
            transformers need it.
        overwrite: replace `out` if it is an exported model.

    Returns:
        The exported model, loaded from `out`.

    Raises:
        MgcdaError: a check failed, and nothing was written; or a folder that holds something else.
        CheckpointError: no model.
    """
    from mgcda_dist.inference.model import load_exported

    how = {"verify": verify, "image_px": image_px, "half": half, "graph_px": graph_px, "overwrite": overwrite}
    export_and_check(opened(model, "cpu"), Path(out), formats, **how)
    return load_exported(out)


def export_and_check(
    model: ExportedModel,
    out: Path,
    formats: Sequence[str],
    *,
    verify: bool = True,
    image_px: tuple[int, int] = (512, 1024),
    half: bool = False,
    graph_px: tuple[int, int] | None = None,
    overwrite: bool = False,
    status: Status = nullcontext,
    show: Callable[[Sequence[Check]], None] | None = None,
) -> None:
    """`export`; `status` and `show` are told what is done, and the checks, also those that failed."""
    from mgcda_dist.errors import ConfigError, MgcdaError, near_or_all
    from mgcda_dist.inference.export import FORMATS, check_output_folder, export_model, verify_export

    for name in formats:
        if name not in FORMATS:
            raise ConfigError("formats", f"unknown name {name!r}", near_or_all(name, FORMATS))
    if graph_px is not None and not set(formats) - {"safetensors"}:
        raise ConfigError(
            "graph_px", "is the size of graphs, and `formats` has none", "add torch or onnx, or leave it out"
        )
    check_output_folder(out, overwrite=overwrite)

    def check(written: ExportedModel, graphs: Sequence[Path]) -> None:
        with status("comparing with a newly built network"):
            checks = verify_export(written, model, graphs, image_px)
        if show is not None:
            show(checks)
        if failed := [each.name for each in checks if not each.passed]:
            remedy = "nothing was written; latency may fail on a busy machine: export again, or without `verify`"
            raise MgcdaError(str(model.folder), f"the export differs from a new network: {', '.join(failed)}", remedy)

    export_model(model, out, formats, status, check if verify else None, half=half, graph_px=graph_px)

"""An exported model as one graph from image to score map, of any size or of one: `torch.export` and ONNX."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mgcda_dist.errors import MgcdaError, in_one_line, install_extra
from mgcda_dist.files import PendingFile
from mgcda_dist.inference.model import ExportedModel
from mgcda_dist.method.batch import Prediction
from mgcda_dist.models.backbone import fixed_padding
from mgcda_dist.models.scores import Score, score_inputs, score_of_inputs, scorer

__all__ = [
    "ScoreNetwork",
    "as_program",
    "largest_difference",
    "needs_one_size",
    "program_output",
    "write_onnx",
    "write_program",
]

_EXAMPLE_SIZE = 70, 90
_CHECKED_SIZES = ((1, 101, 67), (2, 64, 64), (1, 227, 320))
"""Batch, height, width: not the example's, and not multiples of the network's stride."""
_REMEDY = {
    ".onnx": "leave onnx out of `formats`: it cannot express pooling to a grid of cells (PSPNet, UPerNet)",
    ".pt2": "choose the one of `formats` that works for every network, safetensors; or one size of images, `graph_px`",
}
_WINDOWS_OF_ITS_OWN = "transformers.models.swin."
"""Modules that pad images to windows in ways that are no function of symbolic sizes."""


class ScoreNetwork(nn.Module):
    """Image in, scores and classes at the image's own size out.

    Args:
        network: N×3×H×W → `Prediction`.
        score: of the run, as `scorer` gives it.
        stride: of the logits.
    """

    def __init__(self, network: nn.Module, score: Score, stride: int) -> None:
        super().__init__()
        self.network, self.score, self.stride = network, score, stride

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """N×3×H×W uint8, RGB → scores N×H×W float32, classes N×H×W uint8."""
        prediction: Prediction = self.network(image)
        outputs, num_logits = score_inputs(prediction, self.score).float(), prediction.logits.shape[1]
        # The grid of the logits extends beyond an image that the stride does not divide. index_select and not a slice,
        # which would be specialised to the sizes of the example.
        grid = F.interpolate(outputs, scale_factor=float(self.stride), mode="bilinear", align_corners=False)
        rows, columns = (torch.arange(n, device=image.device) for n in image.shape[2:])
        full = grid.index_select(2, rows).index_select(3, columns)
        score = score_of_inputs(full, num_logits, self.score)
        return score, full[:, :num_logits].argmax(dim=1).to(torch.uint8)


def needs_one_size(network: nn.Module) -> bool:
    """True for a network of which there is no graph for images of any size: one with a Swin of transformers.

    Tracing it with symbolic sizes takes minutes, nine tenths of them on the windows, and the graph refuses some sizes.
    """
    return any(type(each).__module__.startswith(_WINDOWS_OF_ITS_OWN) for each in network.modules())


def as_program(model: ExportedModel) -> torch.export.ExportedProgram:
    """The graph of image → (score, classes): any batch size, and any height and width or those of `graph_px`.

    Raises:
        MgcdaError: the network cannot be traced, or only for one size and the metadata names none.
    """
    fixed = model.metadata.graph_px
    if fixed is None and needs_one_size(model.network):
        problem = "no graph of it takes images of any size: its Swin of transformers has windows that depend on them"
        raise MgcdaError(str(model.folder), problem, "give the one size of images for its graphs, `graph_px`")
    example = _example(model, fixed)
    sides = {} if fixed is not None else {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    sizes = {"image": {0: torch.export.Dim("batch", min=1), **sides}}
    with torch.no_grad(), fixed_padding(model.network):
        try:
            return torch.export.export(_with_scores(model), (example,), dynamic_shapes=sizes)
        except Exception as error:  # tracing raises every kind
            raise MgcdaError(
                str(model.folder),
                f"torch.export cannot trace {type(model.network).__name__}: {_cause(error)}",
                _REMEDY[".pt2"],
            ) from error


def write_program(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write a `.pt2` file: `torch.export.load(path).module()(image)` needs torch alone."""
    with PendingFile(path, ".part.pt2") as temporary:
        torch.export.save(program, temporary)


def write_onnx(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write an ONNX file: input `image`, outputs `score` and `classes`.

    Raises:
        MgcdaError: the packages for it are missing, or an operation has no counterpart.
    """
    try:
        import onnxruntime  # noqa: F401  # needed by the check that follows
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MgcdaError(str(path), f"{error.name} is not installed", install_extra("onnx")) from None
    with PendingFile(path) as temporary, _quiet():
        try:
            written = torch.onnx.export(
                _without_assertions(program),
                dynamo=True,
                input_names=["image"],
                output_names=["score", "classes"],
                verbose=False,
            )
        except Exception as error:
            raise MgcdaError(
                str(path), f"ONNX cannot express the network: {_cause(error)}", _REMEDY[".onnx"]
            ) from error
        assert written is not None
        written.save(temporary)


def _without_assertions(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program without run-time assertions, where they ask what ONNX has no word for, as those of OneFormer do."""
    asks = torch.ops.aten._is_all_true.default
    if not any(node.target is asks for node in program.graph.nodes):
        return program
    copied = copy.deepcopy(program)
    for node in reversed(list(copied.graph.nodes)):
        if str(node.target).startswith("aten._assert"):
            copied.graph.erase_node(node)
    copied.graph.eliminate_dead_code()
    return copied


def largest_difference(model: ExportedModel, path: Path) -> float:
    """Largest absolute difference of a score between the file and the network, over random images.

    Their sizes are several, or the one of the metadata's `graph_px`.

    Raises:
        MgcdaError: a graph that does not accept these images, gives another shape or type, or other classes on more
            than 0.1 % of the pixels.
    """
    network, fixed = _with_scores(model), model.metadata.graph_px
    images = [
        np.random.default_rng(index).integers(0, 256, (batch, 3, height, width)).astype(np.uint8)
        for index, (batch, height, width) in enumerate(_CHECKED_SIZES if fixed is None else ((1, *fixed), (3, *fixed)))
    ]
    try:
        run = program_output(path)
        found = [run(image) for image in images]
    except Exception as error:  # guards of the tracer and runtimes raise every kind
        every = "every size, as the network does" if fixed is None else f"{fixed[0]}×{fixed[1]}"
        problem = f"does not take images of {every}: {_cause(error)}"
        raise MgcdaError(path.name, problem, _REMEDY[path.suffix]) from error
    largest = 0.0
    for image, (found_score, found_classes) in zip(images, found, strict=True):
        with torch.no_grad():
            score, classes = (x.cpu().numpy() for x in network(torch.from_numpy(image).to(model.device)))
        shown = f"{len(image)} of {image.shape[3]}×{image.shape[2]}"
        if found_score.shape != score.shape or found_classes.dtype != classes.dtype:
            raise MgcdaError(path.name, f"gives {found_score.shape} for images {shown}", _REMEDY[path.suffix])
        if (found_classes != classes).mean() > 1e-3:
            problem = f"predicts other classes than the network on images {shown}, another size than it was traced with"
            raise MgcdaError(path.name, problem, _REMEDY[path.suffix])
        largest = max(largest, float(np.abs(found_score - score).max()))
    return largest


def program_output(path: Path) -> Callable[[NDArray[np.uint8]], Sequence[NDArray[Any]]]:
    """The function that a written file computes: uint8 image N×3×H×W → (score, classes), as NumPy arrays."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda image: [np.asarray(x) for x in session.run(["score", "classes"], {"image": image})]
    module = torch.export.load(path).module()

    def run(image: NDArray[np.uint8]) -> list[NDArray[Any]]:
        with torch.no_grad():
            return [x.numpy() for x in module(torch.from_numpy(image))]

    return run


def _cause(error: BaseException) -> str:
    """The first cause of an error, in one line: exporters wrap it several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    return in_one_line(error)


def _example(model: ExportedModel, size: tuple[int, int] | None = None) -> Tensor:
    return torch.zeros(2, 3, *(size or _EXAMPLE_SIZE), dtype=torch.uint8, device=model.device)


@torch.no_grad()
def _with_scores(model: ExportedModel) -> ScoreNetwork:
    stride = -(-_EXAMPLE_SIZE[0] // model.network(_example(model)).logits.shape[2])
    return ScoreNetwork(model.network, scorer(model.score, model.metadata.statistics), stride).eval()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings about its internals, within the block."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

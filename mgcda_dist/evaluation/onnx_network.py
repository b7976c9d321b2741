"""An ONNX file as a segmenter: an export of this package, whose scores are taken, or any graph that gives logits."""

from __future__ import annotations

import hashlib
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgcda_dist.errors import ConfigError, in_one_line
from mgcda_dist.evaluation.foreign import Foreign, as_uint8, check_classes, given_scores
from mgcda_dist.evaluation.input_range import InputRange
from mgcda_dist.extras import need
from mgcda_dist.method.batch import Prediction

__all__ = ["OnnxNetwork"]

_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(float16)": np.float16}
_FREE = "export it with free height and width; or scale frames to its own (`height_px`)"
_FORM = "one input N×3×H×W, uint8 or float, and an output of logits N×C×h×w, or outputs `score` (and `classes`) N×H×W"


class OnnxNetwork(Foreign):
    """A graph that onnxruntime runs on the CPU.

    Args:
        path: of the `.onnx` file.
        num_classes: of its logits or classes; 0: classes are not wanted.
        input_range: of an input in floating point, see `InputRange`; of an input in uint8 None.

    Raises:
        ConfigError: no such file, a graph of other inputs or outputs, or a range that is missing or too much.
        MgcdaError: onnxruntime is not installed.
    """

    def __init__(self, path: Path, *, num_classes: int = 0, input_range: str | None = None) -> None:
        super().__init__()
        self.name, self.num_classes = str(path), num_classes
        if not path.is_file():
            raise ConfigError(self.name, "no such file", "give the path of an ONNX file")
        self._session: Any = _session(path)
        self.digest = _digest(path)
        (image, *others), outputs = self._session.get_inputs(), self._session.get_outputs()
        if others or image.type not in _TYPES or not _is_image(image.shape):
            shown = ", ".join(_described(each) for each in (image, *others))
            raise ConfigError(self.name, f"its input is {shown}", _FORM)
        names = [each.name for each in outputs]
        self._outputs = [name for name in ("score", "classes") if name in names]
        self.gives_scores = "score" in names
        if not self.gives_scores:
            self._outputs = ["logits"] if "logits" in names else names
            if len(self._outputs) != 1:
                shown = ", ".join(_described(each) for each in outputs)
                raise ConfigError(self.name, f"has several outputs, {shown}", f"call one of them `logits`; {_FORM}")
        self._input, self._shape, self._type = image.name, image.shape, _TYPES[image.type]
        is_float = self._type is not np.uint8
        if is_float and input_range is None:
            problem = "its input is floating point, and nothing says of which range"
            remedy = "give `input_range`: 0-255, 0-1, imagenet, or MEAN,MEAN,MEAN/STD,STD,STD"
            raise ConfigError(self.name, problem, remedy)
        if not is_float and input_range is not None:
            raise ConfigError(self.name, "its input is uint8, in 0…255", "leave `input_range` out")
        self._range = None if input_range is None else InputRange.of(input_range)

    def forward(self, image: Tensor) -> Prediction:
        """See `Foreign`.

        Raises:
            ConfigError: an image of a size that the graph does not take, or an output of another shape.
        """
        pixels = as_uint8(image) if self._range is None else self._range.applied(image)
        given = pixels.cpu().numpy().astype(self._type, copy=False)
        parts = [self._run(given[n : n + 1]) for n in range(len(given))]
        found = [torch.as_tensor(np.concatenate(each)) for each in zip(*parts, strict=True)]
        if self.gives_scores:
            return given_scores(self.name, found[0], found[1] if len(found) > 1 else None, self.num_classes)
        check_classes(self.name, found[0].shape[1], self.num_classes)
        return Prediction(logits := found[0].float(), {}, logits)

    def _run(self, image: NDArray[Any]) -> list[NDArray[Any]]:
        """Its outputs for one image: graphs often take one at a time."""
        height, width = image.shape[2:]
        for wanted, length in zip(self._shape, image.shape, strict=True):
            if isinstance(wanted, int) and wanted != length:
                size = "×".join(map(str, self._shape))
                problem = f"takes {size} only, and the network's input is {'×'.join(map(str, image.shape))}"
                raise ConfigError(self.name, problem, _FREE)
        try:
            found = [np.asarray(each) for each in self._session.run(self._outputs, {self._input: image})]
        except Exception as error:  # onnxruntime raises every kind
            problem = f"onnxruntime fails on an image of {height}×{width}: {in_one_line(error)}"
            raise ConfigError(self.name, problem, _FREE) from error
        if self.gives_scores:
            is_right = all(each.shape == (1, height, width) for each in found)
        else:
            is_right = found[0].ndim == 4 and found[0].shape[1] > 1 and found[0].dtype.kind == "f"
        if not is_right:
            shown = ", ".join(f"{'×'.join(map(str, each.shape))} {each.dtype}" for each in found)
            raise ConfigError(self.name, f"gives {shown} for an image of {height}×{width}", _FORM)
        return found


def _session(path: Path) -> Any:
    need(str(path), "onnxruntime")
    onnxruntime: Any = import_module("onnxruntime")  # which has no types
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # several workers share the cores
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises every kind
        raise ConfigError(
            str(path), f"onnxruntime cannot load it: {in_one_line(error)}", "give an ONNX file"
        ) from error


def _digest(path: Path) -> str:
    """SHA-256 of the file, and of the one with its weights where they lie outside."""
    found = hashlib.sha256()
    for each in (path, path.with_name(f"{path.name}.data")):
        if each.is_file():
            with each.open("rb") as file:
                while block := file.read(1 << 20):
                    found.update(block)
    return found.hexdigest()


def _is_image(shape: list[Any]) -> bool:
    """N×3×H×W; lengths that are free are texts or None."""
    return len(shape) == 4 and (shape[1] == 3 or not isinstance(shape[1], int))


def _described(each: Any) -> str:
    return f"{each.name} {'×'.join(map(str, each.shape))} {each.type}"

"""Networks and functions of others as segmenters that can be evaluated: torch modules, functions of arrays, ONNX files.

A subject of this kind is named by text: the path of an `.onnx` file, or `python:MODULE:NAME`, which is trusted because
the user names it. Those that give scores, and no logits, are wrapped so that scales, mirror images and windows apply
to them as to any network: their scores are averaged.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mgcda_dist.errors import ConfigError
from mgcda_dist.evaluation.input_range import InputRange
from mgcda_dist.method.batch import Prediction
from mgcda_dist.references import PREFIX, resolve, told

__all__ = ["Foreign", "GivenScore", "TensorNetwork", "given_scores", "is_foreign", "open_foreign", "tensors_digest"]

_SCORE = "score"
_ARRAYS = "a function takes uint8 H×W×3 and returns scores H×W, or (scores, classes)"
_TENSORS = "one whose parameter is annotated as Tensor takes N×3×H×W and returns logits N×C×h×w, or a Prediction"


class GivenScore:
    """The score that a subject gives itself, of predictions that `given_scores` makes."""

    reads: Collection[str] = ()

    def maps(self, prediction: Prediction) -> Tensor:
        """N×1×h×w."""
        return prediction.extra.get(_SCORE, prediction.logits)

    def of(self, maps: Tensor) -> Tensor:
        """See `models.scores.Score`."""
        return maps[:, 0]

    def __call__(self, prediction: Prediction) -> Tensor:
        """See `models.scores.Score`."""
        return self.of(self.maps(prediction))


class Foreign(nn.Module):
    """A subject that is called as a segmenter: N×3×H×W, uint8 or floating in 0…255 → `Prediction`.

    Attributes:
        name: for messages.
        gives_scores: it gives scores, to be read with `GivenScore`; False: logits.
        digest: SHA-256 (hex) of its ONNX file, of the file of its source, with the tensors of a module.
    """

    name: str
    gives_scores: bool
    digest: str


class TensorNetwork(Foreign):
    """A torch module, or function of tensors, that returns logits N×C×h×w or `Prediction`.

    Args:
        network: called with N×3×H×W, RGB in 0…255, or as `input_range` says.
        num_classes: that its logits must have; 0: any number.
        reads: names of `Prediction.extra` that the score needs.
    """

    gives_scores = False

    def __init__(
        self,
        network: Callable[[Tensor], Any],
        name: str,
        digest: str,
        *,
        num_classes: int = 0,
        input_range: str | None = None,
        reads: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.network, self.name, self.digest = network, name, digest
        self.num_classes, self.reads = num_classes, reads
        self.input_range = None if input_range is None else InputRange.of(input_range)

    def forward(self, image: Tensor) -> Prediction:
        """See `Foreign`.

        Raises:
            ConfigError: it returns something else.
        """
        found = self.network(image if self.input_range is None else self.input_range.applied(image))
        if isinstance(found, Prediction):
            prediction = found
        elif isinstance(found, Tensor) and found.ndim == 4 and found.is_floating_point() and len(found) == len(image):
            prediction = Prediction(found, {}, found)
        else:
            raise ConfigError(
                self.name, f"returns {_shown(found)}", "return logits N×C×h×w, or `Prediction`; see `wrap`"
            )
        check_classes(self.name, prediction.logits.shape[1], self.num_classes)
        for name in self.reads:
            if name not in prediction.extra:
                problem = f"gives no extra[{name!r}], which the score reads"
                raise ConfigError(self.name, problem, "choose another `score`, or return a `Prediction` that has it")
        return prediction


class ArrayFunction(Foreign):
    """A function of one image: uint8 H×W×3, RGB → scores H×W, or (scores, classes H×W).

    Args:
        num_classes: of the classes that it gives; 0: they are left out.
    """

    gives_scores = True

    def __init__(self, function: Callable[[Any], Any], name: str, digest: str, *, num_classes: int = 0) -> None:
        super().__init__()
        self.function, self.name, self.digest, self.num_classes = function, name, digest, num_classes

    def forward(self, image: Tensor) -> Prediction:
        """See `Foreign`.

        Raises:
            ConfigError: it fails, or returns something else.
        """
        scores, classes = zip(*(self._called(each) for each in as_uint8(image)), strict=True)
        missing = any(each is None for each in classes)
        return given_scores(self.name, torch.stack(scores), None if missing else torch.stack(classes), self.num_classes)

    def _called(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        pixels = image.permute(1, 2, 0).contiguous().cpu().numpy()
        size = pixels.shape[:2]
        try:
            found: Any = self.function(pixels)
        except Exception as error:  # a user's code raises every kind
            raise ConfigError(
                self.name, f"fails on an image of {size[0]}×{size[1]}: {told(error)}", _TENSORS
            ) from error
        pair = cast(tuple[Any, ...], found if isinstance(found, tuple) else (found, None))
        maps = [None if each is None else _array(each) for each in pair] if len(pair) == 2 else [None, None]
        kinds = ("fiu", "iu")
        fits = [x is None or (x.shape == size and x.dtype.kind in kind) for x, kind in zip(maps, kinds, strict=True)]
        if maps[0] is None or not all(fits):
            problem = f"returns {_shown(found)} for an image of {size[0]}×{size[1]}"
            raise ConfigError(self.name, problem, f"{_ARRAYS}; {_TENSORS}")
        score, classes = maps
        assert score is not None
        # Scores keep their bits: 1 - 1e-9 and 1 - 2e-9 are one number in float32, as are whole numbers of 32 bits.
        wide = score.dtype.itemsize > (4 if score.dtype.kind == "f" else 2)
        kept = torch.as_tensor(score.astype(np.float64 if wide else np.float32))
        return kept, None if classes is None else torch.as_tensor(classes.astype(np.int64))


def is_foreign(text: str) -> bool:
    """Text that names a subject of this room: an `.onnx` file, there or not, or `python:MODULE:NAME`."""
    return text.startswith(PREFIX) or (Path(text).suffix.lower() == ".onnx" and not Path(text).is_dir())


def open_foreign(
    text: str, *, num_classes: int = 0, input_range: str | None = None, reads: Collection[str] = ()
) -> Foreign:
    """The subject of that name, in evaluation mode.

    Args:
        text: path of an ONNX file, or `python:MODULE:NAME`: a module, or a function (a class is made without
            arguments, and a function of no parameters called, for what is meant).
        num_classes: of its logits or classes; 0: classes are not wanted.
        input_range: of an input in floating point, see `InputRange`; None: 0…255, as uint8.
        reads: names of `Prediction.extra` that the score needs.

    Raises:
        ConfigError: nothing there, or something that cannot be evaluated.
        MgcdaError: a package that it needs is missing.
    """
    if not text.startswith(PREFIX):
        from mgcda_dist.evaluation.onnx_network import OnnxNetwork

        return OnnxNetwork(Path(text), num_classes=num_classes, input_range=input_range).eval()
    given = resolve("evaluate", text)
    source = _source_digest(given, text)
    found = _made(given, text)
    if isinstance(found, nn.Module) or _takes_tensors(found):
        digest = tensors_digest(found, source) if isinstance(found, nn.Module) else source
        return TensorNetwork(found, text, digest, num_classes=num_classes, input_range=input_range, reads=reads).eval()
    if input_range is not None:
        raise ConfigError(text, "takes uint8 images, as they are", f"leave `input_range` out; {_TENSORS}")
    return ArrayFunction(found, text, source, num_classes=num_classes).eval()


def given_scores(name: str, scores: Tensor, classes: Tensor | None, num_classes: int) -> Prediction:
    """Scores N×h×w and classes N×h×w of a subject, as a prediction that `GivenScore` reads.

    Args:
        num_classes: number of classes; 0: they are left out.

    Raises:
        ConfigError: classes that are wanted and missing, or beyond that number.
    """
    maps = scores.unsqueeze(1).to(torch.promote_types(scores.dtype, torch.float32))
    if not num_classes:
        return Prediction(maps, {}, maps)
    if classes is None:
        raise ConfigError(name, "gives scores without classes", "leave `class_space` out, or return (scores, classes)")
    if classes.numel() and not 0 <= int(classes.min()) <= int(classes.max()) < num_classes:
        problem = f"gives classes {int(classes.min())} to {int(classes.max())}, and `class_space` has {num_classes}"
        raise ConfigError(name, problem, "give another `class_space`, or none")
    # As logits, so that views and windows vote; their largest is the class itself where nothing is averaged.
    votes = (classes.unsqueeze(1) == torch.arange(num_classes, device=classes.device).view(1, -1, 1, 1)).to(maps)
    return Prediction(votes, {}, votes, {_SCORE: maps})


def check_classes(name: str, found: int, num_classes: int) -> None:
    """Raise `ConfigError` for logits of another number of channels than the classes; 0: any number."""
    if num_classes and found != num_classes:
        problem = f"gives logits of {found} channels, and `class_space` has {num_classes} classes"
        raise ConfigError(name, problem, "give another `class_space`, or none: then no mIoU is measured")


def as_uint8(image: Tensor) -> Tensor:
    """An image of 0…255 as uint8; windows of uint8 images come as float."""
    return image if image.dtype == torch.uint8 else image.round().clamp(0, 255).to(torch.uint8)


def tensors_digest(network: nn.Module, source: str = "") -> str:
    """SHA-256 of the digest of a module's source, if it has one, and of its tensors, by name."""
    found = hashlib.sha256(source.encode())
    for name, tensor in network.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _made(found: Any, name: str) -> Any:
    """The object, or what it makes if it is a class or a function of no parameters."""
    try:
        if isinstance(found, type) or (inspect.isroutine(found) and not inspect.signature(found).parameters):
            found = found()
    except ValueError:  # no signature: something of C, which is called with an image
        pass
    except Exception as error:  # a user's code raises every kind
        raise ConfigError(name, f"cannot be made without arguments: {told(error)}", f"{_ARRAYS}; {_TENSORS}") from error
    if not callable(found):
        raise ConfigError(name, f"is a {type(found).__name__}, which cannot be called", f"{_ARRAYS}; {_TENSORS}")
    return found


def _takes_tensors(found: Any) -> bool:
    """Its first parameter is annotated as a tensor."""
    try:
        first = next(iter(inspect.signature(found).parameters.values()), None)
    except (TypeError, ValueError):
        return False
    annotation = None if first is None else first.annotation
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return text.strip("'\"").rpartition(".")[2] == "Tensor"


def _source_digest(found: Any, text: str) -> str:
    """SHA-256 of the file that a function or class is written in; of another object, the file that names it."""
    is_own = inspect.isroutine(found) or isinstance(found, type)
    module = sys.modules.get(text.removeprefix(PREFIX).partition(":")[0])
    for file in (_file_of(found) if is_own else None, getattr(module, "__file__", None)):
        if file is not None and Path(file).is_file():
            return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    try:
        return hashlib.sha256(_text_of(found, is_own=is_own).encode()).hexdigest()  # a notebook's
    except (OSError, TypeError):
        problem = "has no source, so that the record could not say what was evaluated"
        raise ConfigError(text, problem, "move it to a file") from None


def _file_of(found: Any) -> str | None:
    try:
        return inspect.getsourcefile(inspect.unwrap(found))
    except TypeError:  # made in C
        return None


def _text_of(found: Any, *, is_own: bool) -> str:
    written: Any = found if is_own else found.__class__
    return inspect.getsource(written)


def _array(found: Any) -> NDArray[Any]:
    return found.detach().cpu().numpy() if isinstance(found, Tensor) else np.asarray(found)


def _shown(found: Any) -> str:
    if isinstance(found, tuple):
        return f"({', '.join(map(_shown, cast(tuple[Any, ...], found)))})"
    shape = getattr(found, "shape", None)
    return f"a {type(found).__name__}" if shape is None else f"{'×'.join(map(str, shape))} {found.dtype}"

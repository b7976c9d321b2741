"""Prediction from a program: scores, classes and anomalies of images in memory, or results in files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, cast

import numpy as np
from numpy.typing import NDArray

from mgcda_dist import references
from mgcda_dist.api.run import Run
from mgcda_dist.choices import Exif, LogitKind, ScoreKind
from mgcda_dist.errors import ConfigError, near_or_all

if TYPE_CHECKING:
    import torch
    from torch import nn

    from mgcda_dist.inference.anomalies import Anomaly
    from mgcda_dist.inference.model import ExportedModel
    from mgcda_dist.inference.operating import Threshold
    from mgcda_dist.inference.outputs import Codec, Output
    from mgcda_dist.inference.predict import Predicted, PredictOptions
    from mgcda_dist.models.external import ExternalNetwork

__all__ = [
    "FileSettings",
    "ImagePrediction",
    "Plan",
    "Settings",
    "load_model",
    "opened",
    "plan",
    "predict",
    "predict_files",
]

_Images = NDArray[np.uint8] | str | Path
_AUGMENTATION = ("scales", "flip", "window_px", "window_overlap")
_OF_EVALUATION = (*_AUGMENTATION, "height_px", "longest_side_px", "blur")
_IMAGE = "give H×W×3 RGB, uint8, 0…255, as an array, or files; of a PIL image: np.asarray(image.convert('RGB'))"


class Settings(TypedDict, total=False):
    """Settings of a prediction, described at `predict`."""

    threshold: float | str | None
    score: ScoreKind | str | None
    height_px: int | None
    longest_side_px: int | None
    scales: Sequence[float] | None
    flip: bool | None
    window_px: tuple[int, int] | tuple[()] | None
    window_overlap: float | None
    blur: bool | None
    min_area_px: int
    exif: Exif


class FileSettings(Settings, total=False):
    """… and of what is written, described at `predict_files`."""

    outputs: Sequence[Output]
    shown_range: tuple[float, float] | None
    batch: int
    every: int
    codec: Codec


@dataclass(frozen=True)
class ImagePrediction:
    """The prediction of one image.

    Attributes:
        scores: H×W float32, of the image's own size; higher is more anomalous.
        classes: H×W uint8, index into `class_names`.
        class_names: inlier classes.
        threshold: score from which on a pixel is anomalous; None: not known, and no anomaly is listed.
        anomalies: connected regions over the threshold, with box, area and score, the highest first.
    """

    scores: NDArray[np.float32]
    classes: NDArray[np.uint8]
    class_names: tuple[str, ...]
    threshold: float | None
    anomalies: tuple[Anomaly, ...]


def predict(
    model: Run | ExportedModel | str | Path,
    images: _Images | Sequence[_Images],
    *,
    device: str | torch.device = "auto",
    **settings: Unpack[Settings],
) -> list[ImagePrediction]:
    """Anomaly scores, classes and anomalies of images, in memory. `predict_files` is for many, and for videos.

    Args:
        model: a run, its folder, a checkpoint, or an exported model; the last as an object stays on its device.
        images: H×W×3 RGB uint8 arrays, files, and folders of images; one or several.
        device: `auto` (the first GPU, if there is one), `cpu`, `cuda:1` …
        settings: `threshold`, the lowest score of an anomalous pixel: a number, `best_f1`, `recall95`, or either with
            `:SET`; without it the best F1 of the model's evaluation, if there is one. `score`, `height_px`,
            `longest_side_px`, `scales`, `flip`, `window_px`, `window_overlap`, `blur` are as of `evaluate`; what is
            left out or None is as in the run. `min_area_px` (50): smaller anomalies are left out. `exif` (`upright`,
            `stored`): files are turned as their EXIF marks say, or not.

    Raises:
        ConfigError: an image that does not exist or is none, or an option that cannot be.
        CheckpointError: no model.
    """
    from mgcda_dist.inference.anomalies import find_anomalies
    from mgcda_dist.inference.sources import find_sources, read_image

    _refuse_unknown(settings, Settings)
    how = plan(opened(model, device), **settings)
    found: list[ImagePrediction] = []
    is_one = isinstance(images, str | bytes | Path | np.ndarray) or not isinstance(images, Iterable)
    several: Any = [images] if is_one else images
    for each in several:
        if isinstance(each, np.ndarray):
            pictures = [_checked(each)]
        elif not isinstance(each, str | Path):
            raise ConfigError("images", f"an image is a {type(each).__name__}", _IMAGE)
        else:
            sources = find_sources([Path(each)], Path(os.devnull))
            if videos := [source for source in sources if source.is_video]:
                raise ConfigError(str(videos[0].path), "is a video", "`predict_files` predicts videos")
            pictures = (read_image(source.path, how.options.exif) for source in sources)
        for picture in pictures:
            ((scores, classes),) = how.model.predict_batch(
                [picture],
                score=how.options.score,
                height_px=how.options.height_px,
                longest_side_px=how.options.longest_side_px,
                augmentation=how.options.augmentation,
                blur=how.options.blur,
            )
            limit = how.options.threshold.value
            regions = () if limit is None else tuple(find_anomalies(scores, limit, how.options.min_area_px)[0])
            found.append(ImagePrediction(scores, classes, how.model.class_names, limit, regions))
    return found


def predict_files(
    model: Run | ExportedModel | str | Path,
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    device: str | torch.device = "auto",
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
    **settings: Unpack[FileSettings],
) -> Predicted:
    """Predict images, folders and videos into a folder, as `mgcda predict` does; called again, it resumes.

    Args:
        model, device: as of `predict`.
        inputs: images, folders and videos.
        out: folder of the results.
        overwrite: write into `out` even if it holds other files or predictions.
        progress: told an input's name, its frames done, and its frames in all (0: not known).
        settings: as of `predict`, and of the files: `outputs` beside JSON, any of `overlay` (PNG, MP4; the default),
            `npy` (float16 scores), `png` (16-bit scores). `shown_range`: scores that the colours of overlays span;
            without it those of the evaluation, or of the first frame. `batch` (1): frames per forward pass, of one
            size. `every` (1): so many frames of a video are one that is predicted. `codec` of videos: `vp9`, which
            plays in browsers, or `mpeg4`, which is faster to write.

    Returns:
        One entry per input that was predicted, and one per input that could not be read.

    Raises:
        ConfigError: an input that does not exist, a folder of results that holds something else, an option.
        CheckpointError: no model.
    """
    from mgcda_dist.inference import predict as work
    from mgcda_dist.inference.sources import find_sources

    _refuse_unknown(settings, FileSettings)
    how = plan(opened(model, device), **settings)
    given = [inputs] if isinstance(inputs, str | Path) else inputs
    sources = find_sources([Path(each) for each in given], Path(out))
    work.check_output_folder(Path(out), work.prediction_id(how.model, how.options), overwrite=overwrite)
    return work.predict(how.model, sources, Path(out), how.options, progress)


def load_model(
    path: str | Path | None = None,
    *,
    network: Callable[..., nn.Module | ExternalNetwork] | None = None,
    device: str | torch.device = "auto",
) -> ExportedModel:
    """Load a trained network.

    Args:
        path: an exported model, a run folder, or a checkpoint; None: the small model that comes with the package.
        network: what makes a network of one's own: the model only names it, and names of other programs say nothing.
        device: as of `predict`.

    Raises:
        CheckpointError: no model there, or files that are damaged.
        ConfigError: a network of code that this process neither was given nor trusts; or one that needs no `network`.
    """
    from mgcda_dist.inference.model import PRETRAINED

    path = PRETRAINED if path is None else path
    if network is not None:
        from mgcda_dist.models.exported import model_folder, read_metadata

        name = (read_metadata(model_folder(Path(path))).architecture.get("network") or {}).get("name", "")
        if not name.startswith(references.PREFIX):
            raise ConfigError("network", f"the model in {path} is not made by code of one's own", "leave it out")
        references.register({name: network})
    return opened(path, device)


@dataclass(frozen=True)
class Plan:
    """A model, and how it predicts: its own settings with the changes that were asked for."""

    model: ExportedModel
    options: PredictOptions

    @property
    def threshold(self) -> Threshold:
        """The threshold, with its origin and doubts."""
        return self.options.threshold


def opened(model: Run | ExportedModel | str | Path, device: str | torch.device = "auto") -> ExportedModel:
    """The model, loaded if it is not yet.

    Raises:
        ConfigError: no such device on this machine.
        CheckpointError: no model there.
    """
    from mgcda_dist.inference.model import ExportedModel, device_of, load_exported

    if isinstance(model, ExportedModel):
        return model
    where = device_of(device)
    return model.model(where) if isinstance(model, Run) else load_exported(model, where)


def plan(model: ExportedModel, **settings: Unpack[FileSettings]) -> Plan:
    """The way in which a model predicts; what is left out or None: as its run was evaluated.

    Raises:
        ConfigError: a threshold that is none, a score that the model cannot give, a height and a longest side, or a
            value that cannot be, such as a scale of 0.
    """
    from mgcda_dist.inference.operating import choose_threshold, operating_points
    from mgcda_dist.models.compatibility import check_score, check_statistics

    given: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
    size = model.input_size(given.get("height_px"), given.get("longest_side_px"))
    wanted = given.pop("threshold", None)
    options = _options(model, given | {"height_px": size.height_px or 0, "longest_side_px": size.longest_side_px or 0})
    options = replace(options, score=references.expanded(options.score, "score"))
    check_score(options.score, cast(LogitKind, getattr(model.network, "logit_kind", "pixel")), model.outlier)
    check_statistics(options.score, model.metadata.statistics, model.folder)
    points = operating_points(model)
    chosen = choose_threshold(points, None if wanted is None else str(wanted), options.evaluation_settings())
    return Plan(model, replace(options, threshold=chosen, shown_range=options.shown_range or chosen.shown_range))


def _options(model: ExportedModel, given: Mapping[str, Any]) -> PredictOptions:
    """The settings in their types; what is not given is the model's. `ConfigError`: a value that cannot be."""
    from pydantic import TypeAdapter, ValidationError

    from mgcda_dist.config.keys import evaluation_with, refused_option
    from mgcda_dist.inference.predict import PredictOptions

    section = evaluation_with({name: given[name] for name in _OF_EVALUATION if name in given})
    changes = {name: getattr(section, name) for name in _AUGMENTATION if name in given}
    if "scales" in changes:
        changes["scales"] = tuple(changes["scales"])
    rest = {name: value for name, value in given.items() if name not in _AUGMENTATION}
    own = {"score": model.score, "blur": model.blur, "augmentation": replace(model.augmentation, **changes)}
    try:
        return TypeAdapter(PredictOptions).validate_python(own | rest)
    except ValidationError as error:
        raise refused_option(error, "") from None


def _refuse_unknown(settings: Mapping[str, Any], known: type[Settings]) -> None:
    for name in settings:
        if name not in known.__optional_keys__:
            raise ConfigError(name, "there is no such setting", near_or_all(name, sorted(known.__optional_keys__)))


def _checked(image: NDArray[Any]) -> NDArray[np.uint8]:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        shown = f"{'×'.join(map(str, image.shape))} {image.dtype}"
        raise ConfigError("images", f"an image is {shown}", _IMAGE)
    return image

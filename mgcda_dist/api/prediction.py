"""Prediction from a program: scores, classes and anomalies of images in memory, or results in files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mgcda_dist import references
from mgcda_dist.api.run import Run
from mgcda_dist.choices import Exif, ScoreKind
from mgcda_dist.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from mgcda_dist.inference.anomalies import Anomaly
    from mgcda_dist.inference.model import ExportedModel
    from mgcda_dist.inference.operating import Threshold
    from mgcda_dist.inference.outputs import Codec, Output
    from mgcda_dist.inference.predict import Predicted, PredictOptions
    from mgcda_dist.models.external import ExternalNetwork

__all__ = ["ImagePrediction", "Plan", "load_model", "opened", "plan", "predict", "predict_files"]

_Images = NDArray[np.uint8] | str | Path


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
    threshold: float | str | None = None,
    score: ScoreKind | None = None,
    height_px: int | None = None,
    scales: Sequence[float] | None = None,
    flip: bool | None = None,
    window_px: tuple[int, int] | tuple[()] | None = None,
    window_overlap: float | None = None,
    blur: bool | None = None,
    min_area_px: int = 50,
    exif: Exif = "upright",
    device: str | torch.device = "auto",
) -> list[ImagePrediction]:
    """Anomaly scores, classes and anomalies of images, in memory. `predict_files` is for many, and for videos.

    Args:
        model: a run, its folder, a checkpoint, or an exported model; the last as an object stays on its device.
        images: H×W×3 RGB uint8 arrays, files, and folders of images; one or several.
        threshold: lowest score of an anomalous pixel; `best_f1`, `recall95`, or either with `:SET`; None: the best F1
            of the model's evaluation, if there is one.
        score, height_px, scales, flip, window_px, window_overlap, blur: as of `evaluate`; None: as the run.
        min_area_px: smaller anomalies are left out.
        exif: files are turned as their EXIF marks say, or not.
        device: `auto` (the first GPU, if there is one), `cpu`, `cuda:1` …

    Raises:
        ConfigError: an image that does not exist or is none, or an option that cannot be.
        CheckpointError: no model.
    """
    from mgcda_dist.inference.anomalies import find_anomalies
    from mgcda_dist.inference.sources import find_sources, read_image

    how = plan(
        opened(model, device),
        threshold=threshold,
        score=score,
        height_px=height_px,
        scales=scales,
        flip=flip,
        window_px=window_px,
        window_overlap=window_overlap,
        blur=blur,
        min_area_px=min_area_px,
        exif=exif,
    )
    found: list[ImagePrediction] = []
    several = [images] if isinstance(images, str | Path | np.ndarray) else images
    for each in several:
        if isinstance(each, np.ndarray):
            pictures = [_checked(each)]
        else:
            sources = find_sources([Path(each)], Path(os.devnull))
            if videos := [source for source in sources if source.is_video]:
                raise ConfigError(str(videos[0].path), "is a video", "`predict_files` predicts videos")
            pictures = (read_image(source.path, exif) for source in sources)
        for picture in pictures:
            ((scores, classes),) = how.model.predict_batch(
                [picture],
                score=how.options.score,
                height_px=how.options.height_px,
                augmentation=how.options.augmentation,
                blur=how.options.blur,
            )
            limit = how.options.threshold.value
            regions = () if limit is None else tuple(find_anomalies(scores, limit, min_area_px)[0])
            found.append(ImagePrediction(scores, classes, how.model.class_names, limit, regions))
    return found


def predict_files(
    model: Run | ExportedModel | str | Path,
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    outputs: Sequence[Output] = ("overlay",),
    threshold: float | str | None = None,
    score: ScoreKind | None = None,
    height_px: int | None = None,
    scales: Sequence[float] | None = None,
    flip: bool | None = None,
    window_px: tuple[int, int] | tuple[()] | None = None,
    window_overlap: float | None = None,
    blur: bool | None = None,
    min_area_px: int = 50,
    shown_range: tuple[float, float] | None = None,
    batch: int = 1,
    every: int = 1,
    codec: Codec = "vp9",
    exif: Exif = "upright",
    device: str | torch.device = "auto",
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Predicted:
    """Predict images, folders and videos into a folder, as `mgcda predict` does; called again, it resumes.

    Args:
        model, threshold, score, height_px, scales, flip, window_px, window_overlap, blur, min_area_px, exif, device: as
            of `predict`.
        inputs: images, folders and videos.
        out: folder of the results.
        outputs: beside JSON: `overlay` (PNG, MP4), `npy` (float16 scores), `png` (16-bit scores).
        shown_range: range of scores for the colours of overlays; None: that of the evaluation, or of the first frame.
        batch: frames per forward pass, of one size.
        every: every so many frames of a video are predicted.
        codec: of videos: vp9 plays in browsers, mpeg4 is faster to write.
        overwrite: write into `out` even if it holds other files or predictions.
        progress: told an input's name, its frames done, and its frames in all (0: not known).

    Returns:
        One entry per input that was predicted, and one per input that could not be read.

    Raises:
        ConfigError: an input that does not exist, a folder of results that holds something else, an option.
        CheckpointError: no model.
    """
    from mgcda_dist.inference import predict as work
    from mgcda_dist.inference.sources import find_sources

    how = plan(
        opened(model, device),
        threshold=threshold,
        score=score,
        height_px=height_px,
        scales=scales,
        flip=flip,
        window_px=window_px,
        window_overlap=window_overlap,
        blur=blur,
        min_area_px=min_area_px,
        exif=exif,
        outputs=tuple(outputs),
        batch=batch,
        every=every,
        codec=codec,
        shown_range=shown_range,
    )
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
    from mgcda_dist.inference.model import ExportedModel, load_exported

    if isinstance(model, ExportedModel):
        return model
    where = _device(device)
    return model.model(where) if isinstance(model, Run) else load_exported(model, where)


def plan(
    model: ExportedModel,
    *,
    threshold: float | str | None = None,
    score: ScoreKind | None = None,
    height_px: int | None = None,
    scales: Sequence[float] | None = None,
    flip: bool | None = None,
    window_px: tuple[int, int] | tuple[()] | None = None,
    window_overlap: float | None = None,
    blur: bool | None = None,
    shown_range: tuple[float, float] | None = None,
    **others: Any,
) -> Plan:
    """The way in which a model predicts; None: as its run was evaluated.

    Args:
        others: further fields of `PredictOptions`.

    Raises:
        ConfigError: a threshold that is none, or a score that the model cannot give.
    """
    from mgcda_dist.inference.operating import choose_threshold, operating_points
    from mgcda_dist.inference.predict import PredictOptions
    from mgcda_dist.models.compatibility import check_statistics

    check_statistics(score or model.score, model.metadata.statistics, model.folder)
    changes: dict[str, Any] = {
        "scales": tuple(scales) if scales is not None else None,
        "flip": flip,
        "window_px": window_px,
        "window_overlap": window_overlap,
    }
    augmentation = replace(model.augmentation, **{key: value for key, value in changes.items() if value is not None})
    options = PredictOptions(
        score=score or model.score,
        height_px=height_px if height_px is not None else model.height_px or 0,
        augmentation=replace(augmentation, window_px=augmentation.window_px or None),
        blur=model.blur if blur is None else blur,
        **others,
    )
    wanted = None if threshold is None else str(threshold)
    chosen = choose_threshold(operating_points(model), wanted, options.evaluation_settings())
    return Plan(model, replace(options, threshold=chosen, shown_range=shown_range or chosen.shown_range))


def _device(device: str | torch.device) -> torch.device:
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (AssertionError, RuntimeError) as error:
        problem = f"{str(device)!r} cannot be used: {str(error).splitlines()[0]}"
        raise ConfigError("device", problem, "give cpu, cuda, cuda:1 …, or auto") from None
    return found


def _checked(image: NDArray[Any]) -> NDArray[np.uint8]:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        shown = f"{'×'.join(map(str, image.shape))} {image.dtype}"
        raise ConfigError("images", f"an image is {shown}", "give H×W×3 RGB, uint8, 0…255")
    return image

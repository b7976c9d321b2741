"""Loading an exported model, or the one that comes with the package, and scoring images with it.

model = load_exported("runs/demo/model")  # load_exported(): the package's own
scores, classes = model.predict(image)  # H×W×3 uint8 RGB
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn
from typing_extensions import TypedDict

from mgcda_dist.choices import RunFile
from mgcda_dist.data.pixels import InputSize
from mgcda_dist.errors import CheckpointError, ConfigError
from mgcda_dist.evaluation.test_time import TestTimeAugmentation, score_maps
from mgcda_dist.models.exported import ModelMetadata, digest_of, load_segmenter, model_folder
from mgcda_dist.models.scores import scorer
from mgcda_dist.references import PREFIX, check_trusted
from mgcda_dist.trust import validated

__all__ = ["PRETRAINED", "ExportedModel", "device_of", "load_exported"]

PRETRAINED = Path(__file__).parents[1] / "pretrained"
"""The model that comes with the package; its README.md says what it was trained on, and what it cannot do."""

_Window = Annotated[int, Field(ge=1, le=1 << 15)]


class _Evaluation(TypedDict, total=False):
    """The keys of the run's section `evaluation` that a prediction follows."""

    scales: Annotated[list[Annotated[float, Field(gt=0, le=8)]], Field(min_length=1, max_length=16)]
    flip: bool
    window_px: tuple[_Window, _Window] | None
    window_overlap: Annotated[float, Field(ge=0, lt=1)]
    blur: bool


class _Loss(TypedDict, total=False):
    """The key of the run's section `loss` that decides which scores there are."""

    outlier: str


@dataclass(frozen=True)
class ExportedModel:
    """The segmenter, without MDAT and CACL, and its metadata.

    Attributes:
        network: N×3×H×W (uint8, or floats in 0…255, RGB; any H, W) → `Prediction`, in evaluation mode.
        metadata: content of `model.json`.
    """

    folder: Path
    network: nn.Module
    metadata: ModelMetadata
    device: torch.device

    @property
    def name(self) -> str:
        """Name of the run, as the file says it: for people, and for no path."""
        return self.metadata.name

    @property
    def place_name(self) -> str:
        """Name of the run's or the model's folder, with the checkpoint's: what results are called by default."""
        place = Path(os.path.abspath(self.folder))
        if place.parent.parent.name == RunFile.CHECKPOINTS:
            return f"{place.parents[2].name}_{place.parent.name}"
        return place.parent.name if place.name == "model" else place.name

    @property
    def class_names(self) -> tuple[str, ...]:
        """Inlier classes in the order of the logits."""
        return tuple(self.metadata.class_names)

    @property
    def score(self) -> str:
        """Anomaly score that the run was evaluated with."""
        return self.metadata.score

    @property
    def outlier(self) -> str:
        """Outlier loss that the network was trained with; empty: not known."""
        where = f"{self.folder / RunFile.METADATA}: config.loss"
        loss: _Loss = validated(_Loss, self.metadata.config.get("loss", {}), where, error=CheckpointError)
        return loss.get("outlier", "")

    @property
    def height_px(self) -> int | None:
        """Height of the network's input that the run was evaluated with; None: the frame's own."""
        return self.metadata.height_px

    @property
    def longest_side_px(self) -> int | None:
        """Longer side of the network's input that the run was evaluated with; None: as `height_px` says."""
        return self.metadata.longest_side_px

    @property
    def augmentation(self) -> TestTimeAugmentation:
        """Scales, flip and sliding window that the run was evaluated with."""
        return TestTimeAugmentation.of_json(self._evaluation)

    @property
    def blur(self) -> bool:
        """True if the run was evaluated with blurred score maps."""
        return self._evaluation.get("blur", False)

    @property
    def _evaluation(self) -> _Evaluation:
        where = f"{self.folder / RunFile.METADATA}: config.evaluation"
        return validated(_Evaluation, self.metadata.config.get("evaluation", {}), where, error=CheckpointError)

    @property
    def digest(self) -> str:
        """SHA-256 of the weights."""
        return digest_of(self.folder)

    def predict(
        self,
        image: NDArray[np.uint8],
        *,
        height_px: int | None = None,
        longest_side_px: int | None = None,
        augmentation: TestTimeAugmentation | None = None,
        blur: bool | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Anomaly scores and classes of an image, as `mgcda evaluate` computes them.

        Args:
            image: H×W×3, RGB.
            height_px: height of the network's input, 0 for the image's own; None: as the run was evaluated.
            longest_side_px: its longer side, instead of its height.
            augmentation: scales, flip and sliding window; None: as the run was evaluated.
            blur: 7×7, σ = 1 blur of the score map; None: as the run was evaluated.

        Returns:
            Scores H×W float32, higher is more anomalous; classes H×W uint8, index into `class_names`.
        """
        return self.predict_batch(
            [image], height_px=height_px, longest_side_px=longest_side_px, augmentation=augmentation, blur=blur
        )[0]

    def input_size(self, height_px: int | None = None, longest_side_px: int | None = None) -> InputSize:
        """Size that images are brought to; neither given: as the run was evaluated.

        Raises:
            ConfigError: both.
        """
        if height_px is None and longest_side_px is None:
            return InputSize(self.height_px, self.longest_side_px)
        if height_px and longest_side_px:
            raise ConfigError("longest_side_px", "is given, and `height_px`, too", "give one of them")
        return InputSize(height_px or None, longest_side_px or None)

    def predict_batch(
        self,
        images: Sequence[NDArray[np.uint8]],
        *,
        score: str | None = None,
        height_px: int | None = None,
        longest_side_px: int | None = None,
        augmentation: TestTimeAugmentation | None = None,
        blur: bool | None = None,
    ) -> list[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
        """`predict` of images of one size, as one batch.

        Args:
            images: N of H×W×3, RGB.
            score: another anomaly score than the run was evaluated with.
            height_px, longest_side_px, augmentation, blur: as of `predict`.
        """
        size = images[0].shape[0], images[0].shape[1]
        shown = self.input_size(height_px, longest_side_px)
        return score_maps(
            self.network,
            [shown.applied(image) for image in images],
            size,
            score=scorer(score or self.score, self.metadata.statistics),
            augmentation=augmentation or self.augmentation,
            blur=self.blur if blur is None else blur,
            device=self.device,
        )


def load_exported(folder: str | Path | None = None, device: torch.device | str = "cpu") -> ExportedModel:
    """Load a model strictly.

    Args:
        folder: an exported model, a run folder, or a checkpoint; None: the model that comes with the package.

    Raises:
        CheckpointError: no model, damaged files, or tensors that do not fit.
    """
    found, device = model_folder(PRETRAINED if folder is None else Path(folder)), torch.device(device)
    metadata, network = load_segmenter(found)
    if metadata.score.startswith(PREFIX):
        check_trusted("model.score", metadata.score)
    return ExportedModel(found, network.to(device).requires_grad_(False), metadata, device)


def device_of(device: str | torch.device, where: str = "device") -> torch.device:
    """The device `auto` (the first GPU, if there is one), `cpu`, `cuda:1`, `mps` or another of PyTorch's names.

    Args:
        where: for messages.

    Raises:
        ConfigError: no such device on this machine.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (AssertionError, RuntimeError) as error:
        problem = f"{str(device)!r} cannot be used: {str(error).splitlines()[0]}"
        raise ConfigError(where, problem, "give cpu, cuda, cuda:1 …, or auto") from None
    return found

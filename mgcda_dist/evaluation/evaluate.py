"""Evaluating a segmenter on sets of frames, spread over ranks: each rank takes every W-th frame, counts add up."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from mgcda_dist import build
from mgcda_dist.batch import Prediction
from mgcda_dist.collectives import Collectives
from mgcda_dist.config.schema import Config, EvaluationSetConfig
from mgcda_dist.data.frames import EvaluationFrames
from mgcda_dist.errors import CheckpointError, ConfigError
from mgcda_dist.evaluation.metrics import CurvePoints, PixelMetrics
from mgcda_dist.evaluation.miou import Confusion
from mgcda_dist.evaluation.pixel import PixelHistogram
from mgcda_dist.models.outlier_losses import upsample
from mgcda_dist.models.scores import anomaly_score

__all__ = [
    "EvaluationProgress",
    "EvaluationRequest",
    "PanelRow",
    "SetResult",
    "evaluate_set",
    "evaluate_sets",
    "evaluation_request",
    "results_json",
]

_PANEL_HEIGHT_PX = 360

EvaluationProgress = Callable[[str, int, int], None]
"""Receives the name of a set, the frames done, and the frames in all."""


@dataclass(frozen=True)
class PanelRow:
    """One frame for the panel of pictures: image H×W×3, label and predicted class H×W, uint8; score H×W float32."""

    key: str
    image: NDArray[np.uint8]
    predicted: NDArray[np.uint8]
    score: NDArray[np.float32]
    label: NDArray[np.uint8]


@dataclass(frozen=True)
class SetResult:
    """What one set gave.

    Attributes:
        pixel: AP, AUROC, FPR95, best F1; NaN where the set has no anomaly.
        miou: closed-set mean IoU; NaN where the set has no class labels.
        iou: C, per class.
        frames: number of frames.
        curves: PR and ROC.
        panel: some frames to look at.
        digest: of the manifest that was evaluated.
    """

    name: str
    pixel: PixelMetrics
    miou: float
    iou: NDArray[np.float64]
    frames: int
    curves: CurvePoints
    panel: list[PanelRow]
    digest: str

    def metrics(self) -> dict[str, float]:
        """The numbers that exist, as fractions."""
        numbers = {
            "ap": self.pixel.ap,
            "auroc": self.pixel.auroc,
            "fpr95": self.pixel.fpr95,
            "best_f1": self.pixel.best_f1,
            "miou": self.miou,
        }
        if not math.isfinite(self.pixel.auroc):
            numbers = {"miou": self.miou}  # without anomalies, or without inliers, there is nothing to rank
        return {name: value for name, value in numbers.items() if math.isfinite(value)}


@torch.no_grad()
def evaluate_set(
    network: nn.Module,
    frames: EvaluationFrames,
    *,
    name: str,
    score: Callable[[Tensor], Tensor],
    num_classes: int,
    blur: bool,
    panel_frames: int,
    world: Collectives,
    device: torch.device,
    progress: EvaluationProgress | None = None,
) -> SetResult:
    """Evaluate on every frame; all ranks get the merged result.

    Args:
        network: image → `Prediction`, in evaluation mode, on `device`.
        frames: the set.
        score: logits N×C×h×w → N×h×w, higher is more anomalous.
        num_classes: C.
        blur: 7×7, σ = 1 blur of the score map.
        panel_frames: how many frames to keep for the panel, spread over the set.
        world: the ranks that share the frames.
        device: where the network is.
        progress: told the set's name, frames done and frames in all, as far as this rank sees.
    """
    histogram, confusion = PixelHistogram(), Confusion(num_classes)
    shown = set(np.linspace(0, len(frames) - 1, min(panel_frames, len(frames))).round().astype(int).tolist())
    rows: list[tuple[int, PanelRow]] = []
    for index in range(world.rank, len(frames), world.size):
        frame = frames[index]
        image = torch.as_tensor(frame.image).permute(2, 0, 1).unsqueeze(0).to(device)
        prediction: Prediction = network(image)
        # Logits are brought to the label's own size first: the score of a mean is what a deployed network would give.
        logits = upsample(prediction.logits.float(), (frame.image.shape[0], frame.image.shape[1]))
        if frame.label.shape != image.shape[-2:]:
            logits = F.interpolate(logits, size=frame.label.shape, mode="bilinear", align_corners=False)
        scores = score(logits)
        scores = _blurred(scores) if blur else scores
        predicted = logits.argmax(dim=1)[0].to(torch.uint8).cpu().numpy()
        values = scores[0].cpu().numpy()
        histogram.update(values, frame.label, f"{name}/{frame.key}")
        confusion.update(predicted, frame.label, f"{name}/{frame.key}")
        if progress is not None:
            progress(name, min(index + world.size, len(frames)), len(frames))
        if index in shown:
            rows.append((index, _panel_row(frame.key, frame.image, predicted, values, frame.label)))
    for other in _others((histogram.state(), confusion.matrix, rows), world):
        histogram.merge(PixelHistogram.from_state(other[0]))
        confusion.matrix += other[1]
        rows += other[2]
    return SetResult(
        name=name,
        pixel=histogram.result(),
        miou=confusion.miou(),
        iou=confusion.iou(),
        frames=histogram.num_frames,
        curves=histogram.curves(),
        panel=[row for _, row in sorted(rows, key=lambda pair: pair[0])],
        digest=frames.manifest.digest,
    )


def evaluate_sets(
    network: nn.Module,
    config: Config,
    world: Collectives,
    device: torch.device,
    progress: EvaluationProgress | None = None,
) -> list[SetResult]:
    """Evaluate on all sets of `config.evaluation`, with the score and switches it names."""
    section = config.evaluation
    network = network.to(device).eval()
    return [
        evaluate_set(
            network,
            build.evaluation_frames(config, entry),
            name=entry.name,
            score=lambda logits: anomaly_score(logits, config.model.score),
            num_classes=len(config.data.class_names),
            blur=section.blur,
            panel_frames=section.panel_frames,
            world=world,
            device=device,
            progress=progress,
        )
        for entry in section.sets
    ]


def results_json(results: list[SetResult], config: Config) -> dict[str, Any]:
    """The results as they are stored: numbers with their convention, score, switches, and the data they belong to."""
    return {
        "convention": results[0].pixel.convention if results else "pooled",
        "score": config.model.score,
        "blur": config.evaluation.blur,
        "height_px": config.evaluation.height_px,
        "sets": {
            result.name: {
                **result.metrics(),
                "frames": result.frames,
                "iou": {
                    name: round(float(value), 6)
                    for name, value in zip(config.data.class_names, result.iou, strict=True)
                    if math.isfinite(value)
                },
                "manifest_digest": result.digest,
            }
            for result in results
        },
    }


@dataclass(frozen=True)
class EvaluationRequest:
    """What `mgcda evaluate` was asked for: a configuration with the sets to evaluate, the model, where results go."""

    config: Config
    model: Path
    out: Path


def evaluation_request(
    model: Path, data: list[Path], *, workers: int, height_px: int | None, blur: bool | None, out: Path | None
) -> EvaluationRequest:
    """Find the exported model in a run, a checkpoint or a model folder, and say what to evaluate.

    Raises:
        CheckpointError: no model there.
        ConfigError: no set to evaluate, or a folder without shards.
    """
    places = [model, model / "model", *sorted(model.glob("checkpoints/step-*/model"), reverse=True)]
    folder = next((place for place in places if (place / "model.json").is_file()), None)
    if folder is None:
        raise CheckpointError(
            str(model),
            "holds no trained model",
            "give a run folder (runs/NAME), one of its checkpoints, or a model folder",
        )
    config, _ = build.load_model(folder)
    names = _set_names(data)
    sets = [EvaluationSetConfig(name=n, shards=str(p.absolute())) for n, p in zip(names, data, strict=True)]
    for path in data:
        if not (path / "manifest.json").is_file():
            raise ConfigError(
                "--data", f"no shards in {path} (no manifest.json there)", "write them with `mgcda shards write`"
            )
    section = config.evaluation.model_copy(
        update={
            **({"sets": sets} if sets else {}),
            **({"height_px": height_px} if height_px is not None else {}),
            **({"blur": blur} if blur is not None else {}),
        }
    )
    if not section.sets:
        raise ConfigError("--data", "the run names no evaluation sets", "give --data FOLDER")
    # Where the model was trained says nothing about this machine.
    gpus = 1 if torch.cuda.device_count() >= workers else 0
    scaling = config.scaling.model_copy(update={"workers": workers, "cpus_per_worker": 1.0, "gpus_per_worker": gpus})
    config = config.model_copy(update={"evaluation": section, "scaling": scaling})
    return EvaluationRequest(config, folder.absolute(), (out or folder.parent / "evaluation").absolute())


def _set_names(folders: list[Path]) -> list[str]:
    """Names from the last two parts of each path; a number is added where two are equal."""
    names = [re.sub(r"[^A-Za-z0-9_.-]+", "_", "_".join(path.absolute().parts[-2:])) for path in folders]
    return [name if names.count(name) == 1 else f"{name}_{i}" for i, name in enumerate(names)]


def _others(mine: Any, world: Collectives) -> list[Any]:
    """What the other ranks hold; pictures and tables of any size, once per set."""
    if world.size == 1:
        return []
    everyone: list[Any] = [None] * world.size
    dist.all_gather_object(everyone, mine, group=world.group)
    return [theirs for rank, theirs in enumerate(everyone) if rank != world.rank]


def _blurred(score: Tensor) -> Tensor:
    """7×7 Gaussian blur with σ = 1: N×H×W → N×H×W."""
    offsets = torch.arange(-3, 4, device=score.device, dtype=score.dtype)
    kernel = torch.exp(-0.5 * offsets**2)
    kernel = kernel / kernel.sum()
    padded = F.pad(score.unsqueeze(1), (3, 3, 3, 3), mode="replicate")
    rows = F.conv2d(padded, kernel.view(1, 1, 7, 1))
    return F.conv2d(rows, kernel.view(1, 1, 1, 7)).squeeze(1)


def _panel_row(
    key: str,
    image: NDArray[np.uint8],
    predicted: NDArray[np.uint8],
    score: NDArray[np.float32],
    label: NDArray[np.uint8],
) -> PanelRow:
    """The row at a size for looking at, all parts of one size."""
    height = min(_PANEL_HEIGHT_PX, label.shape[0])
    size = (height, round(label.shape[1] * height / label.shape[0]))

    def resized(array: NDArray[Any], mode: str) -> NDArray[Any]:
        tensor = torch.as_tensor(array).float()
        tensor = tensor.permute(2, 0, 1).unsqueeze(0) if array.ndim == 3 else tensor[None, None]
        tensor = F.interpolate(tensor, size=size, mode=mode, antialias=mode == "bilinear")
        tensor = tensor[0].permute(1, 2, 0) if array.ndim == 3 else tensor[0, 0]
        return tensor.round().numpy().astype(array.dtype) if array.dtype == np.uint8 else tensor.numpy()

    return PanelRow(
        key,
        resized(image, "bilinear"),
        resized(predicted, "nearest-exact"),
        resized(score, "bilinear"),
        resized(label, "nearest-exact"),
    )

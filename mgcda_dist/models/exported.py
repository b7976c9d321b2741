"""A trained segmenter in a folder: `model.safetensors` and `model.json`. Needs torch, timm, safetensors, no training.

`model.json` says what the network is and what it expects:

    format        "mgcda-segmenter/1"
    architecture  backbone, norm, decoder_channels, num_classes: what `bare_segmenter` builds
    class_names   inlier classes in the order of the logits
    score         anomaly score that the evaluation used
    height_px     height that frames were resized to, or null
    config        the whole configuration of the run
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mgcda_dist.errors import CheckpointError
from mgcda_dist.models.segmenter import Segmenter

__all__ = ["FORMAT", "bare_segmenter", "digest_of", "load_segmenter", "model_folder", "read_facts", "save_segmenter"]

FORMAT = "mgcda-segmenter/1"
_REMEDY = "give a run folder, a checkpoint, or its `model` folder"


def bare_segmenter(
    backbone: str, *, norm: str, decoder_channels: int, num_classes: int, weights: str = "none", seed: int = 0
) -> Segmenter:
    """timm's `backbone` and the light decoder; see `timm_backbone` and `Decoder`."""
    from mgcda_dist.models.backbone import timm_backbone
    from mgcda_dist.models.decoder import Decoder

    features = timm_backbone(backbone, weights, norm, seed=seed)  # pyright: ignore[reportArgumentType]
    decoder = Decoder(features.channels, num_classes, decoder_channels, seed=seed)
    return Segmenter(features, decoder, features.mean, features.std)


def save_segmenter(network: nn.Module, facts: dict[str, Any], folder: Path) -> None:
    """Write the network and its facts; each file appears whole or not at all."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    written = folder / ".model.json.tmp"
    written.write_text(json.dumps({"format": FORMAT} | facts, indent=1) + "\n", encoding="utf-8")
    temporary = folder / ".model.safetensors.tmp"
    save_file(tensors, temporary)
    temporary.chmod(written.stat().st_mode)  # safetensors lets the owner alone read it
    os.replace(temporary, folder / "model.safetensors")
    os.replace(written, folder / "model.json")


def read_facts(folder: Path) -> dict[str, Any]:
    """The content of `model.json`.

    Raises:
        CheckpointError: missing or damaged.
    """
    try:
        facts = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(str(folder), f"not an exported model: {error}", _REMEDY) from None
    if not isinstance(facts, dict):
        raise CheckpointError(str(folder), "not an exported model: model.json holds no mapping", _REMEDY)
    return facts


def load_segmenter(folder: Path) -> tuple[dict[str, Any], nn.Module]:
    """The facts and the network, strictly loaded, on the CPU, in evaluation mode.

    Raises:
        CheckpointError: missing or damaged files, or tensors that do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    facts = read_facts(folder)
    try:
        architecture = facts["architecture"]
        tensors = load_file(folder / "model.safetensors")
    except KeyError:
        raise CheckpointError(str(folder), "model.json does not say what the network is", _REMEDY) from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(str(folder), f"not an exported model: {error}", _REMEDY) from None
    with torch.random.fork_rng(devices=[]):
        network = bare_segmenter(**architecture)
    try:
        network.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        problem = f"its tensors do not fit its model.json: {error}"
        raise CheckpointError(str(folder), problem, "export it again, or use another checkpoint") from None
    return facts, network.eval()


def digest_of(folder: Path) -> str:
    """SHA-256 of the weights."""
    path = folder / "model.safetensors"
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(str(path), f"cannot be read: {error.strerror}", "export the model again") from None


def model_folder(path: Path, remedy: str = "") -> Path:
    """Where `path` has its model: in itself, in `model/`, or in its newest checkpoint.

    Raises:
        CheckpointError: nowhere; `remedy` replaces the general one.
    """
    places = [path, path / "model", *sorted(path.glob("checkpoints/step-*/model"), reverse=True)]
    folder = next((place for place in places if (place / "model.json").is_file()), None)
    if folder is None:
        raise CheckpointError(
            str(path),
            "holds no trained model" if path.exists() else "does not exist",
            remedy or "give a run folder (runs/NAME), one of its checkpoints, or an exported model",
        )
    return folder

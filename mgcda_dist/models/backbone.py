"""Backbone: any timm network as a pyramid of named stages, deterministically initialised and without randomness."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgcda_dist.choices import NormMode
from mgcda_dist.errors import ConfigError
from mgcda_dist.models.invariants import without_dropout
from mgcda_dist.models.norm import convert_norm
from mgcda_dist.models.seeding import seeded
from mgcda_dist.models.weights import check_weights, from_hub, hub_arguments, load_backbone_weights

__all__ = ["STRIDES", "Backbone", "check_backbone", "fixed_padding", "pixel_statistics", "timm_backbone"]

STRIDES = (4, 8, 16, 32)
"""Strides a pyramid may have; a stage's name is `stride` and its number."""


class Backbone(nn.Module):
    """A timm feature network whose outputs are named by their stride.

    Attributes:
        channels: stage name -> channels, finest stage first.
        feature_info: timm's own description of the outputs.
        mean, std: RGB statistics the weights were trained with, in units of 0…1.
    """

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.mean, self.std = mean, std
        self.feature_info: Any = network.feature_info
        reductions, widths = list(self.feature_info.reduction()), list(self.feature_info.channels())
        # Of several outputs with the same stride (plain vision transformers) the deepest is used.
        self._outputs = {s: max(i for i, r in enumerate(reductions) if r == s) for s in STRIDES if s in reductions}
        self.channels = {f"stride{s}": int(widths[i]) for s, i in self._outputs.items()}
        self._channels_first = "NHWC" not in str(getattr(network, "output_fmt", "NCHW"))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Normalised images N×3×H×W (H, W multiples of 32) -> {stage: N×c×H/stride×W/stride}."""
        outputs = self.network(image)
        stages = {f"stride{s}": outputs[i] for s, i in self._outputs.items()}
        return stages if self._channels_first else {name: x.permute(0, 3, 1, 2) for name, x in stages.items()}


def timm_backbone(name: str, weights: str = "none", norm: NormMode = "frozen", *, seed: int = 0) -> Backbone:
    """The timm network `name` as a `Backbone`.

    Dropout and stochastic depth are switched off, because they draw from the global generator (law 2).

    Args:
        name: timm model name, with or without a weights tag (`resnet50.a1_in1k`).
        weights: `none`; `hub` or `hub@REVISION` (timm downloads); `file:PATH`; `package:NAME` (see `weights.py`).
        norm: treatment of batch normalisation (see `norm.py`).
        seed: of the initial parameters; equal seeds give equal networks.

    Raises:
        ConfigError: an unknown name, a network without a pyramid, weights that are missing or do not fit.
    """
    check_backbone(name, weights)
    with seeded(seed, "backbone", name):
        network = _create(name, weights)
    load_backbone_weights(network, name, weights)
    backbone = Backbone(convert_norm(without_dropout(network), norm), *pixel_statistics(name))
    if not backbone.channels:
        raise ConfigError(
            "model.backbone",
            f"{name!r} has no stage of stride 4, 8, 16 or 32, only {list(backbone.feature_info.reduction())}",
            "choose a network with a pyramid, e.g. a ResNet, EfficientNet, ConvNeXt or Swin",
        )
    _check_sizes(backbone, name)
    return backbone


def pixel_statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """RGB mean and deviation that the weights of timm's `name` were trained with, in units of 0…1."""
    import timm

    cfg = timm.get_pretrained_cfg(name)
    return ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) if cfg is None else (tuple(cfg.mean), tuple(cfg.std))


def check_backbone(name: str, weights: str = "none") -> None:
    """Raise `ConfigError` for a name that timm does not have, or for weights of another network; builds nothing."""
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=4, cutoff=0.5)
        raise ConfigError(
            "model.backbone",
            f"timm has no model named {name!r}",
            f"nearest: {', '.join(near)}" if near else "`timm.list_models()` names all of them",
        )
    check_weights(name, weights)


@contextmanager
def fixed_padding(network: nn.Module) -> Iterator[None]:
    """Use constant padding in convolutions with TensorFlow's `same` padding, within the block.

    timm computes that padding from the size of every input. With symbolic sizes, as in an export, the expressions grow
    with each layer, and tracing an EfficientNet takes many minutes. If the stride divides the size, as in all layers
    for images whose sides are multiples of 32, the padding is constant.
    """
    from timm.layers.conv2d_same import Conv2dSame

    changed = [module for module in network.modules() if isinstance(module, Conv2dSame)]
    for module in changed:
        module.forward = partial(_padded_by_constants, module)
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def _padded_by_constants(convolution: Any, x: Tensor) -> Tensor:
    sides: list[int] = []  # left, right, top, bottom
    for axis in (1, 0):
        reach = convolution.dilation[axis] * (convolution.kernel_size[axis] - 1) + 1
        total = max(reach - convolution.stride[axis], 0)
        sides += [total // 2, total - total // 2]
    return nn.Conv2d.forward(convolution, F.pad(x, sides))


def _check_sizes(backbone: Backbone, name: str) -> None:
    """Refuse networks of one image size, and those whose stages are not aligned with the image."""
    remedy = "choose a network that pads its convolutions and takes any multiple of 32, e.g. a ResNet or ConvNeXt"
    try:
        with torch.no_grad():
            stages = backbone.eval()(torch.zeros(1, 3, 64, 96))
    except Exception as error:  # networks raise every kind
        raise ConfigError("model.backbone", f"{name!r} does not take images of 64×96: {error}", remedy) from error
    backbone.train()
    for stage, x in stages.items():
        stride = int(stage.removeprefix("stride"))
        if x.shape[2:] != (64 // stride, 96 // stride):
            problem = f"{name!r} gives {tuple(x.shape[2:])} for {stage} of a 64×96 image"
            raise ConfigError("model.backbone", problem, remedy)


def _create(name: str, weights: str) -> nn.Module:
    import timm

    options = hub_arguments(name, weights)
    if name.startswith("swin"):
        options["strict_img_size"] = False  # any multiple of 32, not only the size of pretraining
    elif name.startswith(("vit_", "deit", "eva", "test_vit")):
        options["dynamic_img_size"] = True
        if "patch14" in name:
            # Strides are powers of two, so patches of 14 become patches of 16, with as many of them in the native grid
            # so that position embeddings are unchanged; `weights.py` resamples the kernel.
            cfg = timm.get_pretrained_cfg(name)
            side = cfg.input_size[-1] if cfg is not None else 224
            options |= {"patch_size": 16, "img_size": side // 14 * 16}
    try:
        return timm.create_model(name, features_only=True, **options)
    except Exception as error:  # timm, its hub client and the networks raise every kind
        if from_hub(weights):
            what = "the network connection" + (" and the revision" if "@" in weights else "")
            remedy = f"check {what}, or use model.weights=file:PATH with a downloaded file"
            raise ConfigError(
                "model.weights", f"cannot fetch weights of {name!r} ({weights}): {error}", remedy
            ) from error
        remedy = "choose another network; ResNet, EfficientNet, ConvNeXt and Swin families work"
        problem = f"{name!r} cannot be used as a feature pyramid: {type(error).__name__}: {error}"
        raise ConfigError("model.backbone", problem, remedy) from error

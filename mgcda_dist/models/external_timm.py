"""Plain vision transformers of timm: several blocks as one pyramid at the native patch size, with the light decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgcda_dist.choices import DECODER_CHANNELS
from mgcda_dist.errors import ConfigError
from mgcda_dist.models.backbone import check_backbone, pixel_statistics
from mgcda_dist.models.decoder import Context, SeparableBlock
from mgcda_dist.models.external import ExternalNetwork, refuse_reserved, refuse_unknown
from mgcda_dist.models.norm import num_groups
from mgcda_dist.models.taps import Taps
from mgcda_dist.models.weights import check_weights, from_hub, hub_arguments, load_backbone_weights

__all__ = ["PlainTransformer", "make"]

_RESERVED = {"num_classes": "data.class_space", "pretrained": "model.weights"}
_OWN = ("blocks", "channels")
_TIMMS = ("img_size",)


class PlainTransformer(nn.Module):
    """Blocks of a plain transformer, each brought to D channels and added: N×3×H×W → logits N×C×H/P×W/P, patches of P.

    As the pyramid of UEM (blocks 2, 5, 9 and 12 of 12 of DINOv2), whose maps all have one size. H, W: multiples of P.

    Args:
        features: timm's feature network of the blocks.
        num_logits: C.
        channels: D.
    """

    def __init__(self, features: nn.Module, num_logits: int, channels: int) -> None:
        super().__init__()
        widths: Sequence[int] = features.feature_info.channels()  # type: ignore[union-attr, operator]
        self.backbone = features
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(n, channels, 1, bias=False), nn.GroupNorm(num_groups(channels), channels))
            for n in widths
        )
        self.context, self.refine = Context(channels), SeparableBlock(channels)
        self.classifier = nn.Conv2d(channels, num_logits, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Normalised images → logits."""
        maps = self.backbone(image)
        x = torch.stack([lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]).sum(dim=0)
        return self.classifier(self.refine(self.context(F.relu(x))))


def make(name: str, arguments: dict[str, Any], num_logits: int, hub: bool, *, weights: str) -> ExternalNetwork:
    """timm's plain transformer `name`.

    Arguments: `blocks`, from 0 (default: the last of each quarter), `channels`, D, and timm's `img_size`, whose grid
    position embeddings have. Stages are called `blockN`.
    """
    refuse_reserved(arguments, _RESERVED)
    refuse_unknown(arguments, {*_OWN, *_TIMMS})
    check_backbone(name, weights if hub else "none")
    features = _features(name, arguments, weights)
    (patch,) = set(features.feature_info.reduction())
    blocks = [int(path.rpartition(".")[2]) for path in features.feature_info.module_name()]
    network = PlainTransformer(features, num_logits, int(arguments.get("channels", DECODER_CHANNELS)))
    stages = {f"block{block}": f"backbone[{i}]" for i, block in enumerate(blocks)}

    def load(weights: str) -> bool:
        if not weights.startswith(("package:", "file:")):
            return False
        check_weights(name, weights)
        load_backbone_weights(features, name, weights)
        return True

    mean, std = pixel_statistics(name)
    taps = Taps(stages, "classifier", "refine", "backbone")
    return ExternalNetwork(network, taps, mean, std, multiple_px=patch, load=load)


def _features(name: str, arguments: dict[str, Any], weights: str) -> Any:
    import timm

    size = {key: arguments[key] for key in _TIMMS if key in arguments}
    whole = timm.create_model(name, **size)
    number = len(getattr(whole, "blocks", ()))
    if not number:
        problem = f"timm's {name!r} is no plain vision transformer: it has no `blocks`"
        raise ConfigError("model.network", problem, f"model.backbone={name}, which makes a pyramid of its stages")
    blocks = arguments.get("blocks", [number * quarter // 4 - 1 for quarter in (1, 2, 3, 4)])
    wrong = [block for block in blocks if not isinstance(block, int) or not 0 <= block < number]
    if wrong or not blocks or sorted(set(blocks)) != list(blocks):
        problem = f"{blocks} are not ascending numbers of blocks"
        raise ConfigError("model.arguments.blocks", problem, f"{name} has blocks 0 to {number - 1}")
    options: dict[str, Any] = {"dynamic_img_size": True, "out_indices": list(blocks), **size}
    options |= hub_arguments(name, weights)
    try:
        features: Any = timm.create_model(name, features_only=True, **options)
    except Exception as error:  # timm and its hub client raise every kind
        if not from_hub(weights):
            raise
        remedy = "check the network connection and the revision, or use model.weights=file:PATH with a downloaded file"
        raise ConfigError("model.weights", f"cannot fetch weights of {name!r} ({weights}): {error}", remedy) from error
    if len(set(features.feature_info.reduction())) != 1:
        raise ConfigError("model.network", f"the blocks of timm's {name!r} differ in size", f"model.backbone={name}")
    return features

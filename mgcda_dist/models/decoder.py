"""A light decoder: laterals, a little context at the coarsest stage, a top-down sum, one refinement at stride 4.

After the semantic branch of Panoptic FPN (arXiv 1901.02446) with separable convolutions as in DeepLabV3+ (arXiv
1802.02611); GroupNorm throughout, so nothing depends on the batch.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mgcda_dist.choices import DECODER_CHANNELS
from mgcda_dist.models.norm import num_groups
from mgcda_dist.models.seeding import seeded

__all__ = ["Context", "Decoder", "SeparableBlock"]


class SeparableBlock(nn.Module):
    """Depthwise 3×3, pointwise 1×1, GroupNorm, ReLU: N×D×h×w -> N×D×h×w."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            channels, channels, 3, padding=dilation, dilation=dilation, groups=channels, bias=False
        )
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = nn.GroupNorm(num_groups(channels), channels)

    def forward(self, x: Tensor) -> Tensor:
        """N×D×h×w -> N×D×h×w, not negative."""
        return F.relu(self.norm(self.pointwise(self.depthwise(x))))


class Context(nn.Module):
    """Context of a location: adds two dilated neighbourhoods and the mean of the whole image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.near = SeparableBlock(channels, dilation=1)
        self.far = SeparableBlock(channels, dilation=3)
        self.whole = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """N×D×h×w -> N×D×h×w."""
        return x + self.near(x) + self.far(x) + F.relu(self.whole(x.mean(dim=(2, 3), keepdim=True)))


class Decoder(nn.Module):
    """Pyramid {stage: N×c×H/stride×W/stride} -> (logits N×C×H/4×W/4, embedding N×D×H/4×W/4).

    Args:
        stage_channels: `stride4` … `stride32` -> channels; any subset, in any order. Without `stride4` the finest stage
            is upsampled to stride 4.
        num_classes: C.
        channels: D.
        seed: of the initial parameters.
    """

    def __init__(
        self, stage_channels: dict[str, int], num_classes: int, channels: int = DECODER_CHANNELS, *, seed: int = 0
    ) -> None:
        super().__init__()
        self.channels, self.num_classes = channels, num_classes
        self.strides = sorted((int(name.removeprefix("stride")) for name in stage_channels), reverse=True)
        with seeded(seed, "decoder"):
            self.lateral = nn.ModuleDict(
                {
                    f"stride{s}": nn.Sequential(
                        nn.Conv2d(stage_channels[f"stride{s}"], channels, 1, bias=False),
                        nn.GroupNorm(num_groups(channels), channels),
                    )
                    for s in self.strides
                }
            )
            self.context = Context(channels)
            self.merge = nn.ModuleDict({f"stride{s}": SeparableBlock(channels) for s in self.strides[1:]})
            self.refine = SeparableBlock(channels)
            self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, stages: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Decode the stages of an image whose sides are multiples of 32."""
        coarsest = self.strides[0]
        x = self.context(self.lateral[f"stride{coarsest}"](stages[f"stride{coarsest}"]))
        for stride in self.strides[1:]:
            fine = self.lateral[f"stride{stride}"](stages[f"stride{stride}"])
            x = F.interpolate(x, size=fine.shape[2:], mode="bilinear", align_corners=False)
            x = self.merge[f"stride{stride}"](x + fine)
        if self.strides[-1] > 4:
            x = F.interpolate(x, scale_factor=self.strides[-1] // 4, mode="bilinear", align_corners=False)
        embedding = self.refine(x)
        return self.classifier(embedding), embedding

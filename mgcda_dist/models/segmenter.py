"""Segmenter of a backbone and a decoder: image in, `Prediction` out; independent of MDAT and CACL (law 5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mgcda_dist.choices import LogitKind
from mgcda_dist.method.batch import Prediction
from mgcda_dist.models.preprocessing import cropped, normalised, padded

__all__ = ["Segmenter", "split_columns"]

_PYRAMID_PX = 32  # images are padded to a multiple of the coarsest stride


class Segmenter(nn.Module):
    """Backbone and decoder between raw pixels and a `Prediction`.

    Args:
        backbone: normalised N×3×H×W (H, W multiples of 32) -> {stage: N×c×H/stride×W/stride}, with an attribute
            `channels: dict[str, int]`.
        decoder: that dict -> (logits, embedding), both at stride 4, with an attribute `channels: int` (D).
        mean, std: RGB statistics of the backbone's weights, in units of 0…1.
        columns: names of the decoder's last logits, which are no inlier classes: entries of `Prediction.extra`.

    Attributes:
        stage_channels: channels of every entry of `Prediction.stages`: the backbone's, and `embedding`.
        logit_kind: kind of the logits; see `choices.LogitKind`.
        example_size: height and width of an image that the network accepts, pixels.
        backbone_parts: paths of all that learns with the backbone's rate.
    """

    mean: Tensor
    std: Tensor
    logit_kind: LogitKind = "pixel"
    example_size = 64, 96
    backbone_parts: tuple[str, ...] = ("backbone",)

    def __init__(
        self,
        backbone: nn.Module,
        decoder: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        columns: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.columns = tuple(columns)
        self.backbone, self.decoder = backbone, decoder
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))
        channels: dict[str, int] = backbone.channels  # pyright: ignore[reportAssignmentType]
        width: int = decoder.channels  # pyright: ignore[reportAssignmentType]
        self.stage_channels = {**channels, "embedding": width}

    def forward(self, image: Tensor) -> Prediction:
        """Predict.

        Args:
            image: N×3×H×W, RGB, uint8 or floating point in 0…255; any H and W.

        Returns:
            Prediction in the dtype of the parameters; logits and embedding are N×·×⌈H/4⌉×⌈W/4⌉, stage `strideS` is
            N×c×⌈H/S⌉×⌈W/S⌉. Padding is cropped.
        """
        height, width = image.shape[2], image.shape[3]
        dtype = next(self.decoder.parameters()).dtype
        stages = self.backbone(padded(normalised(image, self.mean, self.std, dtype), _PYRAMID_PX))
        logits, embedding = self.decoder(stages)
        stages = {name: cropped(x, height, width, int(name.removeprefix("stride"))) for name, x in stages.items()}
        embedding = cropped(embedding, height, width, 4)
        logits, extra = split_columns(cropped(logits, height, width, 4), self.columns)
        return Prediction(logits, {**stages, "embedding": embedding}, embedding, extra)


def split_columns(logits: Tensor, columns: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits of inlier classes, and those behind them by name: N×(C+c)×h×w → N×C×h×w and c of N×1×h×w."""
    if not columns:
        return logits, {}
    inliers, *others = torch.split(logits, [logits.shape[1] - len(columns)] + [1] * len(columns), dim=1)
    return inliers, dict(zip(columns, others, strict=True))

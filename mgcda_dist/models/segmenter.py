"""The network that is trained and shipped: image in, `Prediction` out. It knows nothing of MDAT or CACL (law 5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgcda_dist.batch import Prediction

__all__ = ["Segmenter"]

_PYRAMID_PX = 32  # images are padded to a multiple of the coarsest stride


class Segmenter(nn.Module):
    """Backbone and decoder between raw pixels and a `Prediction`.

    Args:
        backbone: normalised N×3×H×W (H, W multiples of 32) -> {stage: N×c×H/stride×W/stride}, with an attribute
            `channels: dict[str, int]`.
        decoder: that dict -> (logits, embedding), both at stride 4, with an attribute `channels: int` (D).
        mean, std: RGB statistics of the backbone's weights, in units of 0…1.

    Attributes:
        stage_channels: channels of every entry of `Prediction.stages`: the backbone's, and `embedding`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, decoder: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
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
            N×c×⌈H/S⌉×⌈W/S⌉. What padding added is cut off again.
        """
        height, width = image.shape[2], image.shape[3]
        stages = self.backbone(self._pad(self._normalise(image)))
        logits, embedding = self.decoder(stages)
        stages = {name: _crop(x, height, width, int(name.removeprefix("stride"))) for name, x in stages.items()}
        embedding = _crop(embedding, height, width, 4)
        return Prediction(_crop(logits, height, width, 4), {**stages, "embedding": embedding}, embedding)

    def _normalise(self, image: Tensor) -> Tensor:
        # In single precision at least: an engine may hold the parameters in bf16.
        compute = torch.promote_types(self.mean.dtype, torch.float32)
        mean, std = (x.to(compute).view(1, 3, 1, 1) for x in (self.mean, self.std))
        dtype = next(self.decoder.parameters()).dtype
        return ((image.to(compute) / 255 - mean) / std).to(dtype)

    def _pad(self, image: Tensor) -> Tensor:
        bottom, right = -image.shape[2] % _PYRAMID_PX, -image.shape[3] % _PYRAMID_PX
        # While exporting, sizes may be symbols: pad by zero rather than branch on them.
        if torch.compiler.is_exporting() or bottom or right:
            return F.pad(image, (0, right, 0, bottom), mode="replicate")
        return image


def _crop(x: Tensor, height: int, width: int, stride: int) -> Tensor:
    if torch.compiler.is_exporting():
        # A slice would fix, at the sizes of the example, which images need no cut; picking rows asks nothing.
        rows, columns = (torch.arange((n + stride - 1) // stride, device=x.device) for n in (height, width))
        return x.index_select(2, rows).index_select(3, columns)
    return x[:, :, : (height + stride - 1) // stride, : (width + stride - 1) // stride]

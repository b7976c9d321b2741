"""Normalisation, padding and cropping around a segmentation network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["cropped", "normalised", "padded"]


def normalised(image: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype) -> Tensor:
    """(image/255 - mean)/std, N×3×H×W.

    Args:
        image: N×3×H×W, uint8 or floating point in 0…255.
        mean, std: 3, in units of 0…1; computed in their type, at least float32.
        dtype: of the result: that of the network's parameters, bf16 if the engine trains in it.
    """
    compute = torch.promote_types(mean.dtype, torch.float32)
    mean, std = (x.to(compute).view(1, 3, 1, 1) for x in (mean, std))
    return ((image.to(compute) / 255 - mean) / std).to(dtype)


def padded(image: Tensor, multiple_px: int) -> Tensor:
    """`image` with its last rows and columns repeated until both sides are multiples of `multiple_px`."""
    # With symbolic sizes the padded size becomes 32 · n, whose halves stay simple expressions, unlike those of a
    # remainder. No negative numbers: ONNX rounds their quotients towards zero.
    bottom, right = ((n + multiple_px - 1) // multiple_px * multiple_px - n for n in image.shape[2:])
    # In an export sizes may be symbolic: pad by zero rather than branch on them.
    if torch.compiler.is_exporting() or bottom or right:
        return F.pad(image, (0, right, 0, bottom), mode="replicate")
    return image


def cropped(x: Tensor, height: int, width: int, stride: int) -> Tensor:
    """The first ⌈height/stride⌉ rows and ⌈width/stride⌉ columns of N×c×h×w: the part that covers the image."""
    if torch.compiler.is_exporting():
        # A slice would be specialised to the sizes of the example; index_select is not.
        rows, columns = (torch.arange((n + stride - 1) // stride, device=x.device) for n in (height, width))
        return x.index_select(2, rows).index_select(3, columns)
    return x[:, :, : (height + stride - 1) // stride, : (width + stride - 1) // stride]

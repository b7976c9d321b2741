"""Items of a user's Dataset → pixels and raw label ids, and what is wrong with an item that is neither."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mgcda_dist.data.pixels import Pixels
from mgcda_dist.errors import SampleError

__all__ = ["ITEM", "Item", "as_ids", "as_image", "key_of", "split"]

ITEM = (
    "an item is (image, label), or has `image` and `label`: an image H×W×3, uint8, a PIL image, or a tensor 3×H×W, "
    "uint8 or float in 0…1; a label H×W whole numbers, or None"
)
"""Form of an item, as a remedy."""
_COLOURS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


class Item(NamedTuple):
    """The two parts of an item, as the Dataset gives them."""

    image: Any
    label: Any = None


def split(item: Any, where: str) -> Item:
    """The image and the label of an item: a pair, something with these names, or an image alone.

    Raises:
        SampleError: an item of another form.
    """
    if isinstance(item, Mapping):
        if "image" not in item:
            keys = ", ".join(map(str, item)) or "none"
            raise SampleError(where, f"the item is a mapping without `image`; its keys: {keys}", ITEM)
        return Item(item["image"], item.get("label"))
    if hasattr(item, "image"):
        return Item(item.image, getattr(item, "label", None))
    if isinstance(item, tuple | list):
        if len(item) != 2:
            raise SampleError(where, f"the item is a {type(item).__name__} of {len(item)}, not of 2", ITEM)
        return Item(*item)
    return Item(item)


def key_of(index: int) -> str:
    """The key of a frame that has no name."""
    return f"{index:06d}"


def as_image(given: Any, where: str) -> Pixels:
    """H×W×3 RGB, uint8, read-only: it may be the Dataset's own memory. Floats are rounded to 1/255.

    Raises:
        SampleError: no image of one of the kinds that `ITEM` lists.
    """
    if isinstance(given, Image.Image):
        if given.mode not in _COLOURS:
            raise SampleError(where, f"the image is a PIL image of mode {given.mode}", "`.convert('RGB')` it")
        pixels = np.asarray(given.convert("RGB"))
    elif isinstance(given, torch.Tensor):
        pixels = _of_tensor(given, where)
    elif isinstance(given, np.ndarray):
        pixels = _of_array(given, where)
    else:
        raise SampleError(where, f"the image is a {type(given).__name__}", ITEM)
    if 0 in pixels.shape:
        raise SampleError(where, f"the image has no pixel: {_shape(pixels)}", ITEM)
    pixels = np.ascontiguousarray(pixels).view()
    pixels.flags.writeable = False
    return pixels


def _of_tensor(given: torch.Tensor, where: str) -> Pixels:
    if given.ndim != 3 or given.shape[0] != 3:
        hint = "`.permute(2, 0, 1)` it" if given.ndim == 3 and given.shape[2] == 3 else "tensors are 3×H×W, RGB"
        raise SampleError(where, f"the image is a tensor of shape {_shape(given)}", hint)
    tensor = given.detach().cpu()
    if tensor.is_floating_point():
        low, high = (float(x) for x in tensor.aminmax()) if tensor.numel() else (0.0, 0.0)
        if not (low >= 0 and high <= 1):  # NaN, too
            problem = f"the image is a float tensor with values from {low:g} to {high:g}"
            remedy = "floats are in 0…1 and not normalised, which the network does itself; or give uint8"
            raise SampleError(where, problem, remedy)
        tensor = (tensor.double() * 255).round().to(torch.uint8)
    if tensor.dtype != torch.uint8:
        raise SampleError(where, f"the image is a tensor of {given.dtype}", "give uint8, or floats in 0…1")
    return tensor.permute(1, 2, 0).numpy()


def _of_array(given: NDArray[Any], where: str) -> Pixels:
    if given.ndim != 3 or given.shape[2] != 3:
        moved = given.ndim == 3 and given.shape[0] == 3
        hint = "`.transpose(1, 2, 0)` it" if moved else "arrays are H×W×3, RGB; of grey: `np.dstack([grey] * 3)`"
        raise SampleError(where, f"the image is an array of shape {_shape(given)}", hint)
    if given.dtype != np.uint8:
        raise SampleError(where, f"the image is an array of {given.dtype}", "give uint8, 0 … 255")
    return given


def as_ids(given: Any, image_px: tuple[int, ...], where: str) -> Pixels:
    """H×W ids, uint8, read-only.

    Args:
        image_px: height and width of the image.

    Raises:
        SampleError: no whole numbers of 0 … 255, or another size.
    """
    if isinstance(given, torch.Tensor):
        array = given.detach().cpu().numpy()
    elif isinstance(given, np.ndarray | Image.Image):
        array = np.asarray(given)
    else:
        remedy = "give an array, a tensor or a PIL image of ids, H×W; None: no label"
        raise SampleError(where, f"the label is a {type(given).__name__}", remedy)
    if array.shape != image_px:
        problem = f"the label is of shape {_shape(array)}, the image {image_px[0]}×{image_px[1]}"
        if array.ndim == 3:
            raise SampleError(where, problem, "a label is H×W ids: without an axis for channels, and no colours")
        raise SampleError(where, problem, "check that label and image belong together")
    if array.dtype.kind not in "uib":
        raise SampleError(where, f"the label is of {array.dtype}", "give whole numbers, e.g. uint8")
    if array.dtype.kind != "b" and array.dtype != np.uint8:
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > 255:
            problem = f"the label holds the id {low if low < 0 else high}"
            raise SampleError(where, problem, "ids are 0 … 255; what is to be ignored is 255")
    ids = np.ascontiguousarray(array, np.uint8).view()
    ids.flags.writeable = False
    return ids


def _shape(given: Any) -> str:
    return "×".join(map(str, given.shape)) or "()"

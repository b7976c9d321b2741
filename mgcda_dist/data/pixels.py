"""Typed OpenCV operations on 8-bit images, with one rule of resizing for frames, crops and objects.

For inference, OpenCV may be missing: images are then resized by the same rule with Pillow and NumPy, equal within one
grey level where both sides shrink or both grow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

try:
    import cv2
except ImportError:
    cv2: Any = None

from mgcda_dist.errors import SampleError

__all__ = [
    "MAX_PIXELS",
    "OWN_SIZE",
    "InputSize",
    "Pixels",
    "as_pixels",
    "bounded_size",
    "flipped",
    "resized",
    "resized_label",
]

MAX_PIXELS = 2**26
"""Of a picture that is decoded, and of a network's input: 67 million, 8192×8192; 0.8 GB in float32."""
_MAX_ENLARGED_PIXELS = 2**24
"""… of an image that is enlarged by more than 8, twice those of a 4K frame: a strip of 1×500 pixels, brought to a
height of 360, would have 65 million, and take all memory."""
_MAX_FACTOR = 8


Pixels = NDArray[np.uint8]
"""H×W or H×W×channels."""


def as_pixels(array: Any) -> Pixels:
    """The same array, typed: OpenCV's stubs know arrays of any number type only."""
    return array


def resized(image: Pixels, height: int, width: int) -> Pixels:
    """The image at another size: by area when it shrinks (no aliasing), bilinearly when it grows."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    if cv2 is None:
        return _averaged(image, height, width) if shrinks else _interpolated(image, height, width)
    return as_pixels(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR))


def bounded_size(height: int, width: int, option: str, value: float) -> tuple[int, int]:
    """The size of a network's input, if it may have so many pixels.

    Args:
        option, value: what asks for this size.

    Raises:
        SampleError: more than 2²⁶ pixels.
    """
    if height * width > MAX_PIXELS:
        problem = f"`{option}` {value} makes it {height}×{width} pixels, over the bound of {MAX_PIXELS}"
        raise SampleError("network input", problem, "give a smaller one")
    return height, width


@dataclass(frozen=True)
class InputSize:
    """Size that frames are brought to for a network, their aspect kept; neither given: their own.

    Attributes:
        height_px: their height.
        longest_side_px: their longer side, whichever it is.
    """

    height_px: int | None = None
    longest_side_px: int | None = None

    def of(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a frame's image in the network.

        Raises:
            SampleError: more pixels than an input may have, or than an image is enlarged to.
        """
        option, value = "longest_side_px", self.longest_side_px
        if self.height_px:
            option, value = "height_px", self.height_px
            shown = self.height_px, max(1, round(width * self.height_px / height))
        elif value:
            factor = value / max(height, width)
            shown = max(1, round(height * factor)), max(1, round(width * factor))
        else:
            return height, width
        bounded_size(*shown, option, value)
        if shown[0] > _MAX_FACTOR * height and shown[0] * shown[1] > _MAX_ENLARGED_PIXELS:
            problem = f"`{option}` {value} enlarges {height}×{width} to {shown[0]}×{shown[1]} pixels"
            remedy = "give a smaller one, or crop the image"
            raise SampleError("network input", f"{problem}, over the bound of {_MAX_ENLARGED_PIXELS}", remedy)
        return shown

    def applied(self, image: Pixels) -> Pixels:
        """H×W×3 at that size, see `resized`; an image of that size as it is."""
        return resized(image, *self.of(image.shape[0], image.shape[1]))


OWN_SIZE = InputSize()
"""Frames as they are."""


def resized_label(label: Pixels, height: int, width: int) -> Pixels:
    """The label at another size, to the nearest pixel, with the pixel centres that `resized` has."""
    if label.shape == (height, width):
        return label
    # INTER_NEAREST samples the corner of each pixel, half a pixel off the image.
    return as_pixels(cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST_EXACT))


def flipped(image: Pixels) -> Pixels:
    """Mirrored left to right."""
    return np.ascontiguousarray(image[:, ::-1])


def _interpolated(image: Pixels, height: int, width: int) -> Pixels:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def _averaged(image: Pixels, height: int, width: int) -> Pixels:
    """Means over areas; Pillow's box filter takes whole pixels only."""
    rows, columns = _overlaps(image.shape[0], height), _overlaps(image.shape[1], width)
    mean = np.tensordot(columns, np.tensordot(rows, image.astype(np.float32), (1, 0)), (1, 1))
    return np.rint(mean.swapaxes(0, 1)).astype(np.uint8)


def _overlaps(source: int, target: int) -> NDArray[np.float32]:
    """target×source: share of each target pixel that lies in each source pixel."""
    edges = np.arange(target + 1) * (source / target)
    pixels = np.arange(source)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (overlap.clip(0) * (target / source)).astype(np.float32)

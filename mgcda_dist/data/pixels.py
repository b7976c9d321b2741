"""OpenCV on 8-bit pictures, typed: one rule of resizing for frames, crops and objects."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Pixels", "as_pixels", "flipped", "resized", "resized_label"]

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
    return as_pixels(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR))


def resized_label(label: Pixels, height: int, width: int) -> Pixels:
    """The label at another size, to the nearest pixel, with the pixel centres that `resized` has."""
    if label.shape == (height, width):
        return label
    # INTER_NEAREST would look up the corner of each pixel, half a pixel off the image.
    return as_pixels(cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST_EXACT))


def flipped(image: Pixels) -> Pixels:
    """Mirrored left to right."""
    return as_pixels(cv2.flip(image, 1))

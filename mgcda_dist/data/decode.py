"""Bytes of a sample → pixels, with OpenCV; every failure names the shard and key.

The decoder was chosen by measurement (benchmarks/results/stream.md): on small road frames OpenCV takes 10 to 20 % less
time than Pillow and up to 20 % more than torchvision, all three with equal pixels; but a damaged PNG label crashes
torchvision's whole process, while OpenCV refuses every truncated JPEG, PNG and WebP file. Pillow reads the header first
(15 µs), so that a file that claims absurd dimensions is refused before any memory is reserved for it.
"""

from __future__ import annotations

import io

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mgcda_dist.data.pixels import Pixels, as_pixels
from mgcda_dist.data.shards.encode import MAX_PIXELS, decode_ids
from mgcda_dist.errors import SampleError

__all__ = ["MAX_PIXELS", "decode_cutout", "decode_image", "decode_label"]

_REMEDY = "run `mgcda shards verify` on the folder; write the shards again from an intact source"
# Rotation by EXIF would misalign an image and its label, which has no such mark.
_COLOUR = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


def decode_image(data: bytes, where: str, *, upright: bool = False) -> Pixels:
    """An encoded frame (JPEG, PNG, WebP …) as H×W×3 RGB, uint8. Alpha is dropped, 16 bits become 8.

    Args:
        where: shard and key, or path.
        upright: rotate it by its EXIF mark, which is ignored otherwise.

    Raises:
        SampleError: damaged or too large.
    """
    _check_header(data, where, "image")
    return _decode(data, cv2.IMREAD_COLOR_RGB if upright else _COLOUR, where, "image")


def decode_label(data: bytes, lut: NDArray[np.uint8], where: str) -> Pixels:
    """A label PNG of raw ids as H×W train ids, uint8.

    Args:
        data: grey or palette PNG; of a palette the indices count, not the colours.
        lut: 256 train ids by raw id, see `mgcda_dist.data.labels.lookup_table`.
        where: shard and key.

    Raises:
        SampleError: damaged, too large, colours, or ids over 255.
    """
    mode = _check_header(data, where, "label")
    if mode == "L" and data[24] == 8:
        raw = _decode(data, cv2.IMREAD_UNCHANGED, where, "label")
    else:  # OpenCV would deliver the colours of a palette, and stretch grey of few bits
        raw = as_pixels(decode_ids(data, where))
    return as_pixels(cv2.LUT(raw, lut))


def decode_cutout(data: bytes, where: str) -> Pixels:
    """An object to paste as H×W×4 RGBA, uint8, straight alpha.

    Raises:
        SampleError: damaged, too large, or without alpha.
    """
    _check_header(data, where, "object")
    pixels = _decode(data, cv2.IMREAD_UNCHANGED, where, "object")
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 4:
        problem = f"the object has shape {pixels.shape} of {pixels.dtype}, not 8-bit RGB with alpha"
        raise SampleError(where, problem, "objects are PNG files whose alpha is the mask")
    return as_pixels(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA))


def _decode(data: bytes, flags: int, where: str, what: str) -> Pixels:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise SampleError(where, f"the {what} cannot be decoded: {error}", _REMEDY) from None
    if pixels is None:
        raise SampleError(where, f"the {what} is damaged or truncated ({len(data)} bytes)", _REMEDY)
    return as_pixels(pixels)


def _check_header(data: bytes, where: str, what: str) -> str:
    """Pillow's mode of the picture, after a check of its size."""
    header = _open(data, where, what)
    width, height = header.size
    if width * height > MAX_PIXELS:
        problem = f"the {what} claims {width}×{height} pixels, over the bound of {MAX_PIXELS}"
        raise SampleError(where, problem, "resize it when the shards are written")
    return header.mode


def _open(data: bytes, where: str, what: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError:  # its message holds an address, different in every process
        raise SampleError(where, f"the {what} is not a picture ({len(data)} bytes)", _REMEDY) from None
    except Exception as error:  # of damaged bytes Pillow's parsers raise all kinds
        raise SampleError(where, f"the {what} is not a picture ({len(data)} bytes: {error})", _REMEDY) from None

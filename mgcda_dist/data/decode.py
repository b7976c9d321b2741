"""Bytes → pixels: the one decoder of frames, labels and objects, for writing, checking, training and prediction.

The table in shards/labels.md lists what is read, converted and refused. OpenCV decodes JPEG, PNG and WebP: on small
road frames it takes 10 to 20 % less time than Pillow and up to 20 % more than torchvision, all with equal pixels
(benchmarks/results/stream.md), but a damaged PNG label crashes torchvision's whole process. Pillow reads every header
first (50 µs), so that a file that claims absurd dimensions is refused before memory is reserved for it, and decodes the
rest: indices of palettes, CMYK, BMP, TIFF, PNM.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from mgcda_dist.choices import Exif
from mgcda_dist.data.header import BROKEN, Header, check_pair, oriented, read_header
from mgcda_dist.data.pixels import Pixels, as_pixels
from mgcda_dist.errors import SampleError

__all__ = ["Pair", "decode_channels", "decode_cutout", "decode_ids", "decode_image", "decode_pair"]

_LOSSLESS = ("PNG", "BMP", "TIFF")
_DEEP_GREY = ("I;16", "I;16B", "I;16L")
_LABEL_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", *_DEEP_GREY, "I", "F")
_FRAME_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", *_DEEP_GREY)
_DIM = 64
"""Of 256 levels; no pixel of a frame of 16 bits reaches it if the camera filled 14 of them or fewer."""


class Pair(NamedTuple):
    """A frame and its label, of one size."""

    image: Pixels
    """H×W×3 RGB."""
    ids: Pixels
    """H×W raw ids."""


def decode_pair(image: bytes, label: bytes, where: str, exif: Exif | None = None) -> Pair:
    """Image and label of a labelled sample.

    Raises:
        ShardError, SampleError: as `decode_image`, `decode_ids` and `check_pair`.
    """
    ids = decode_ids(label, where, exif)
    header = read_header(image, where)
    check_pair(header, ids.shape, exif, where)
    return Pair(_frame(header, image, where, exif), ids)


def decode_image(data: bytes, where: str, exif: Exif | None = None) -> Pixels:
    """An encoded frame as H×W×3 RGB, uint8. Alpha is dropped; of 16 bits the upper 8 are kept.

    Args:
        where: path, or shard and key.
        exif: `stored` ignores its orientation mark; otherwise it is turned upright.

    Raises:
        SampleError: damaged, too large, of a kind that is not read, or 14 bits or fewer stored in 16.
    """
    return _frame(read_header(data, where), data, where, exif)


def decode_ids(data: bytes, where: str, exif: Exif | None = None) -> Pixels:
    """The raw ids of a label, uint8 H×W, each exactly as stored.

    Of a palette the indices are the ids, not the colours; of equal colour channels one is. Alpha is ignored.

    Raises:
        ShardError: it has an orientation mark, and `exif` is not chosen.
        SampleError: damaged, too large, lossy, colours, or values that are no ids of 0 … 255.
    """
    header = read_header(data, where, "label")
    bits = header.bits
    if header.format not in _LOSSLESS or header.mode not in _LABEL_MODES:
        remedy = "save ids without loss, as an 8-bit grey PNG"
        raise SampleError(where, f"the label is a {header.format} of mode {header.mode}", remedy)
    header.refuse_unchosen(exif, (), where, "label")
    if header.format == "PNG" and header.mode != "P" and bits >= 8:
        ids = _by_opencv(data, cv2.IMREAD_UNCHANGED, where, "label")
    elif bits > 8 and header.mode in ("LA", "RGB", "RGBA"):  # of which Pillow would give 8
        raise SampleError(where, f"the label is a TIFF of {bits}-bit colours", "save ids as an 8-bit grey PNG")
    else:
        ids = _by_pillow(header, where, "label")
        if header.mode == "L" and bits < 8:  # stretched to 0 … 255
            ids = ids // (255 // (2**bits - 1))
    if ids.ndim == 3:
        ids = _one_channel(ids, where)
    return oriented(as_pixels(ids if ids.dtype == np.uint8 else _whole(ids, where)), header, exif)


def decode_channels(data: bytes, where: str) -> NDArray[Any]:
    """A label with all its channels and bits: H×W grey, or H×W×3 RGB, or H×W×4 RGBA; a palette as its colours.

    Raises:
        SampleError: damaged, too large, or not PNG.
    """
    if read_header(data, where, "label").format != "PNG":
        raise SampleError(where, "the label is no PNG", BROKEN)
    channels = _by_opencv(data, cv2.IMREAD_UNCHANGED, where, "label")
    return channels if channels.ndim == 2 else channels[..., [2, 1, 0, 3][: channels.shape[2]]]


def decode_cutout(data: bytes, where: str, exif: Exif | None = None) -> Pixels:
    """An object to paste as H×W×4 RGBA, uint8, straight alpha.

    Raises:
        SampleError: damaged, too large, or without alpha.
    """
    header = read_header(data, where, "object")
    pixels = _by_opencv(data, cv2.IMREAD_UNCHANGED, where, "object") if header.format in ("PNG", "WEBP") else None
    if pixels is None or pixels.ndim != 3 or pixels.shape[2] != 4:
        problem = f"the object is a {header.format} of mode {header.mode}, without readable alpha"
        raise SampleError(where, problem, "objects are PNG or WebP files whose alpha is the mask")
    pixels = _eight_bits(pixels, header, where, "object")
    return oriented(as_pixels(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA)), header, exif)


def _frame(header: Header, data: bytes, where: str, exif: Exif | None) -> Pixels:
    scaled = header.format == "PPM" and header.mode == "I"  # Pillow stretches 9 … 16 bits to 16
    if header.mode not in _FRAME_MODES and not scaled:
        problem = f"the image is a {header.format} of mode {header.mode}"
        raise SampleError(where, problem, "save it as RGB or grey of 8 or 16 bits")
    if header.format in ("JPEG", "MPO", "PNG", "WEBP") and header.mode != "CMYK":
        # The decoder's own turning would not know the choice, and misses marks in XMP.
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
        pixels = _by_opencv(data, flags, where, "image")
    else:
        pixels = _by_pillow(header, where, "image", colours=not scaled and header.mode not in _DEEP_GREY)
    pixels = _eight_bits(pixels, header, where, "image")
    return oriented(pixels if pixels.ndim == 3 else np.dstack([pixels] * 3), header, exif)


def _eight_bits(pixels: NDArray[Any], header: Header, where: str, what: str) -> Pixels:
    """The upper 8 of 16 bits: exact for 8 bits that were stretched by 256 or by 257."""
    if pixels.dtype != np.uint8:
        pixels = (pixels >> 8).astype(np.uint8)
    if header.bits > 8 and pixels[..., :3].max() < _DIM:
        problem = f"the {what} has 16 bits, but no pixel is brighter than a quarter: its camera gave 14 bits or fewer"
        raise SampleError(where, problem, "multiply the pixels so that white is 65535, or save 8 bits")
    return as_pixels(pixels)


def _one_channel(colours: NDArray[Any], where: str) -> NDArray[Any]:
    """The ids of a picture whose colour channels are equal."""
    channels = colours[..., : 1 if colours.shape[2] == 2 else 3]
    if not (channels == channels[..., :1]).all():
        remedy = "use the file with ids (e.g. …labelIds.png), not the one with colours"
        raise SampleError(where, f"the label has {colours.shape[2]} channels: it looks like a colour map", remedy)
    return np.ascontiguousarray(channels[..., 0])


def _whole(values: NDArray[Any], where: str) -> Pixels:
    """Ids of a wider type, uint8."""
    wrong = values[~((values >= 0) & (values <= 255) & (values == np.floor(values)))]
    if wrong.size:
        raise SampleError(where, f"the label holds the id {wrong[0]}", "labels must hold whole numbers, 0 … 255")
    return values.astype(np.uint8)


def _by_opencv(data: bytes, flags: int, where: str, what: str) -> NDArray[Any]:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise SampleError(where, f"the {what} cannot be decoded: {error}", BROKEN) from None
    if pixels is None:
        raise SampleError(where, f"the {what} is damaged or truncated ({len(data)} bytes)", BROKEN)
    return pixels


def _by_pillow(header: Header, where: str, what: str, *, colours: bool = False) -> NDArray[Any]:
    try:
        return np.asarray(header.picture.convert("RGB") if colours else header.picture)
    except Exception as error:  # of damaged bytes Pillow's parsers raise all kinds
        raise SampleError(where, f"the {what} is damaged or truncated ({error})", BROKEN) from None

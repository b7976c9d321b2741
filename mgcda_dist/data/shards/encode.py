"""Encoding of one sample for a shard: label as plain 8-bit ids, image resized and re-encoded on request.

Without options the image bytes are unchanged; labels are decoded in any case, to count their ids and to refuse faults
that would only be noticed in training (another size than the image, colours instead of ids).
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from mgcda_dist.data.shards.keys import is_key, safe_key
from mgcda_dist.data.shards.record import SourceSample
from mgcda_dist.errors import ShardError

__all__ = ["MAX_PIXELS", "EncodeOptions", "EncodedSample", "decode_ids", "encode_sample", "image_size", "png_bytes"]

_SKIP = "`skip` leaves the sample out"
_REPLACE = f"replace the file; {_SKIP}"

MAX_PIXELS = 2**26
"""Largest frame that is decoded: 67 million pixels, 8192×8192."""

ImageFormat = Literal["jpg", "png", "webp"]


@dataclass(frozen=True)
class EncodeOptions:
    """Options of the images; recorded in the manifest.

    Attributes:
        resize_height_px: taller images are brought to this height (width in proportion); None: as they are.
        image_format: None keeps the source's.
        quality: of JPEG and WebP, 1 … 100; ignored where the bytes are unchanged.
    """

    resize_height_px: int | None = None
    image_format: ImageFormat | None = None
    quality: int = 92


@dataclass(frozen=True)
class EncodedSample:
    """The members of the tar file, the pixels per raw id (int64[256]), and the category of an object."""

    key: str
    image: bytes
    image_ext: str
    label: bytes
    meta: bytes
    histogram: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    category: str = ""


def encode_sample(sample: SourceSample, options: EncodeOptions) -> EncodedSample:
    """The sample as it will be in the shard.

    Raises:
        ShardError: a key that is none of `safe_key`'s, bytes that are no image, a label of another size or of colours.
    """
    if not is_key(sample.key):
        raise ShardError(repr(sample.key), "not a sample key", f"`safe_key` makes it {safe_key(sample.key)!r}")
    height, width = image_size(sample.image, sample.key)
    image, image_ext, size = sample.image, sample.image_ext, (height, width)
    shrink = options.resize_height_px is not None and height > options.resize_height_px
    if shrink and options.resize_height_px is not None:
        size = (options.resize_height_px, max(1, round(width * options.resize_height_px / height)))
    if shrink or options.image_format not in (None, image_ext):
        image_ext = options.image_format or image_ext
        image = _encode(_resize(_decode(sample), size), image_ext, options.quality, sample.key)
    label, histogram = b"", np.zeros(256, np.int64)
    if sample.label is not None:
        ids = decode_ids(sample.label, sample.key)
        if ids.shape != (height, width):
            problem = f"the label is {ids.shape[1]}×{ids.shape[0]} px, the image {width}×{height}"
            raise ShardError(sample.key, problem, f"check that label and image belong together; {_SKIP}")
        plain = _is_plain(sample.label)
        if shrink:
            ids = cv2.resize(ids, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        label = sample.label if plain and not shrink else png_bytes(ids, sample.key)
        histogram = np.bincount(ids.ravel(), minlength=256)
    meta = b""
    if sample.meta:  # bytes of a file name that are no UTF-8 become escapes of JSON
        meta = json.dumps(sample.meta, sort_keys=True, ensure_ascii=False).encode(errors="backslashreplace")
    return EncodedSample(sample.key, image, image_ext, label, meta, histogram, str(sample.meta.get("category", "")))


def _problem_of(error: Exception) -> str:
    """The text of an error, without a second remedy and without the address of a buffer of PIL."""
    if isinstance(error, UnidentifiedImageError):
        return "of no known format"
    return error.problem if isinstance(error, ShardError) else str(error)


def image_size(image: bytes, where: str) -> tuple[int, int]:
    """Height and width in pixels, from the header alone; images over `MAX_PIXELS` are refused before decoding.

    Raises:
        ShardError: no image that can be read, or one over the bound.
    """
    try:
        with Image.open(io.BytesIO(image)) as header:
            height, width = header.height, header.width
    except Exception as error:  # PIL raises a dozen kinds for damaged headers
        raise ShardError(where, f"not a readable image ({_problem_of(error)})", _REPLACE) from error
    if height * width > MAX_PIXELS:
        raise ShardError(where, f"it claims {width}×{height} pixels, over the bound of {MAX_PIXELS}", _REPLACE)
    return height, width


def decode_ids(label: bytes, where: str) -> np.ndarray:
    """Raw ids of a label PNG, uint8 H×W.

    Of a palette image the indices are the ids, not the colours; of a colour image with equal channels, one channel.

    Raises:
        ShardError: damaged, colours, or ids over 255.
    """
    try:
        image_size(label, where)
        if _is_plain(label):
            ids = cv2.imdecode(np.frombuffer(label, np.uint8), cv2.IMREAD_UNCHANGED)
        else:
            with Image.open(io.BytesIO(label)) as picture:
                ids = np.asarray(picture)
    except Exception as error:  # PIL and OpenCV raise a dozen kinds for damaged files
        raise ShardError(where, f"the label is not a readable PNG ({_problem_of(error)})", _REPLACE) from error
    if ids is None:
        raise ShardError(where, "the label is not a readable PNG", _REPLACE)
    if ids.ndim == 3:
        ids = _one_channel(ids, where)
    if ids.size and int(ids.max()) > 255:
        raise ShardError(where, f"the label holds the id {int(ids.max())}", "labels must be 8-bit: 0 … 255")
    depth, is_grey = label[24], label[:4] == b"\x89PNG" and label[25] == 0
    # Decoders stretch grey of 2 and 4 bits to 0 … 255.
    return ids.astype(np.uint8) // (255 // (2**depth - 1)) if is_grey and depth in (2, 4) else ids.astype(np.uint8)


def _one_channel(colours: np.ndarray, where: str) -> np.ndarray:
    """The ids of a picture whose colour channels are equal; alpha is ignored."""
    channels = colours[..., : 1 if colours.shape[2] == 2 else 3]
    if not (channels == channels[..., :1]).all():
        remedy = "use the file with ids (e.g. …labelIds.png), not the one with colours"
        raise ShardError(where, f"the label has {colours.shape[2]} channels: it looks like a colour map", remedy)
    return channels[..., 0]


def png_bytes(array: np.ndarray, where: str = "image") -> bytes:
    """PNG of a uint8 array: H×W ids, or H×W×4 in OpenCV's channel order."""
    return _encode(array, "png", 0, where)


def _is_plain(label: bytes) -> bool:
    # Bit depth and colour type in the IHDR chunk of a PNG: 8 bit, grey.
    return label[:4] == b"\x89PNG" and label[24:26] == b"\x08\x00"


def _decode(sample: SourceSample) -> np.ndarray:
    # Labels follow the stored pixels, so a camera's orientation tag must not turn the image.
    keep_alpha = sample.image_ext in ("png", "webp")
    image_size(sample.image, sample.key)
    flags = cv2.IMREAD_UNCHANGED if keep_alpha else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(sample.image, np.uint8), flags)
    if image is None:
        raise ShardError(sample.key, f"the {sample.image_ext} image cannot be decoded", _REPLACE)
    return image


def _resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if image.shape[:2] == size:
        return image
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


def _encode(image: np.ndarray, image_ext: str, quality: int, where: str) -> bytes:
    parameters = {
        "jpg": [cv2.IMWRITE_JPEG_QUALITY, quality],
        "webp": [cv2.IMWRITE_WEBP_QUALITY, quality],
        "png": [cv2.IMWRITE_PNG_COMPRESSION, 6],
    }[image_ext]
    if image_ext == "jpg" and image.ndim == 3 and image.shape[2] == 4:
        raise ShardError(where, "JPEG cannot hold the alpha of an object", "choose `image_format` png or webp")
    good, encoded = cv2.imencode(f".{image_ext}", image, parameters)
    if not good:
        raise ShardError(
            where, f"cannot encode {image.shape[1]}×{image.shape[0]} px as {image_ext}", "choose another `image_format`"
        )
    return encoded.tobytes()

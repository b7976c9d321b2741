"""Encoding of one sample for a shard: label as plain 8-bit ids, image resized and re-encoded on request.

Without options the bytes are unchanged, but those of labels that are no 8-bit grey PNG; labels are decoded in any
case, to count their ids and to refuse faults that would only be noticed in training (another size than the image,
colours instead of ids).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np

from mgcda_dist.choices import Exif, ShardKind
from mgcda_dist.data.decode import decode_cutout, decode_ids, decode_image
from mgcda_dist.data.header import Header, check_pair, read_header
from mgcda_dist.data.shards.keys import is_key, safe_key
from mgcda_dist.data.shards.record import SourceSample
from mgcda_dist.errors import ShardError

__all__ = ["EncodeOptions", "EncodedSample", "ImageFormat", "encode_sample", "png_bytes"]

ImageFormat = Literal["jpg", "png", "webp"]
_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
"""Kinds of images that shards hold; others become PNG, without loss."""
_FAST = (cv2.IMWRITE_PNG_COMPRESSION, 3, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE)
"""Of labels: to undo the filters of a PNG costs more than to unpack it, and large areas of one id need none."""


@dataclass(frozen=True)
class EncodeOptions:
    """Options of images and labels; recorded in the manifest.

    Attributes:
        resize_height_px: taller images are brought to this height (width in proportion); None: as they are.
        image_format: None keeps the source's.
        quality: of JPEG and WebP, 1 … 100; ignored where the bytes are unchanged.
        exif: use of orientation marks. Unchanged bytes keep theirs, and readers of the shards do as chosen here; None:
            images without labels are turned, and labelled ones must not have any.
        fast_labels: all labels are encoded anew, with the same ids, so that they are decoded two to three times as fast
            (benchmarks/results/stream.md).
    """

    resize_height_px: int | None = None
    image_format: ImageFormat | None = None
    quality: int = 92
    exif: Exif | None = None
    fast_labels: bool = False


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


def encode_sample(sample: SourceSample, options: EncodeOptions, kind: ShardKind = "frames") -> EncodedSample:
    """The sample as it will be in the shard.

    Raises:
        ShardError: a key that is none of `safe_key`'s, bytes that are no image, a label of another size or of colours,
            an orientation mark without a choice of `exif`.
    """
    if not is_key(sample.key):
        raise ShardError(repr(sample.key), "not a sample key", f"`safe_key` makes it {safe_key(sample.key)!r}")
    header = read_header(sample.image, sample.image_where)
    height, width = header.shape(options.exif)
    target = options.resize_height_px
    shrink = target is not None and height > target
    size = (target, max(1, round(width * target / height))) if target and shrink else (height, width)
    image, image_ext = _encode_image(sample, header, size, options, kind)
    label, histogram = b"", np.zeros(256, np.int64)
    if sample.label is not None:
        ids = decode_ids(sample.label, sample.label_where, options.exif)
        check_pair(header, ids.shape, options.exif, sample.label_where)
        if shrink:
            ids = cv2.resize(ids, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        if options.fast_labels:
            label = _encode(ids, "png", 0, sample.key, _FAST)
        else:
            label = sample.label if _is_plain(sample.label) and not shrink else png_bytes(ids, sample.key)
        histogram = np.bincount(ids.ravel(), minlength=256)
    meta = b""
    if sample.meta:  # bytes of a file name that are no UTF-8 become escapes of JSON
        meta = json.dumps(sample.meta, sort_keys=True, ensure_ascii=False).encode(errors="backslashreplace")
    return EncodedSample(sample.key, image, image_ext, label, meta, histogram, str(sample.meta.get("category", "")))


def _encode_image(
    sample: SourceSample, header: Header, size: tuple[int, int], options: EncodeOptions, kind: ShardKind
) -> tuple[bytes, str]:
    """The image at that height and width, and its extension; the same bytes if nothing asks for others.

    Frames lose their alpha, which no reader of frames looks at: encoders would not keep the colours under it.
    """
    stored = _EXTENSIONS.get(header.format)
    image_ext = options.image_format or stored or "png"
    unchanged = size == header.shape(options.exif) and image_ext == stored
    if unchanged and kind == "frames" and header.bits == 8 and header.mode in ("L", "RGB"):
        return sample.image, image_ext
    # Also where the bytes stay: not everything that has a header is read.
    pixels = (decode_cutout if kind == "objects" else decode_image)(sample.image, sample.image_where, options.exif)
    if unchanged:
        return sample.image, image_ext
    blue_first = _resize(pixels, size)[..., [2, 1, 0, 3][: pixels.shape[2]]]
    return _encode(blue_first, image_ext, options.quality, sample.key), image_ext


def png_bytes(array: np.ndarray, where: str = "image") -> bytes:
    """PNG of a uint8 array: H×W ids, or H×W×4 in OpenCV's channel order."""
    return _encode(array, "png", 0, where)


def _is_plain(label: bytes) -> bool:
    # Bit depth and colour type in the IHDR chunk of a PNG: 8 bit, grey.
    return label[:4] == b"\x89PNG" and label[24:26] == b"\x08\x00"


def _resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if image.shape[:2] == size:
        return image
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


def _encode(
    image: np.ndarray, image_ext: str, quality: int, where: str, parameters: Sequence[int] | None = None
) -> bytes:
    parameters = (
        parameters
        or {
            "jpg": [cv2.IMWRITE_JPEG_QUALITY, quality],
            "webp": [cv2.IMWRITE_WEBP_QUALITY, quality],
            "png": [cv2.IMWRITE_PNG_COMPRESSION, 6],
        }[image_ext]
    )
    if image_ext == "jpg" and image.ndim == 3 and image.shape[2] == 4:
        raise ShardError(where, "JPEG cannot hold the alpha of an object", "choose `image_format` png or webp")
    good, encoded = cv2.imencode(f".{image_ext}", image, parameters)
    if not good:
        raise ShardError(
            where, f"cannot encode {image.shape[1]}×{image.shape[0]} px as {image_ext}", "choose another `image_format`"
        )
    return encoded.tobytes()

"""The header of an encoded picture, read before its pixels: kind, size, and orientation by EXIF.

An orientation mark says how a viewer turns the stored pixels. A label of such a picture was drawn either on the turned
picture or on the stored pixels, and nothing in the files says which: the user chooses (`Exif`), once for a data set.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from mgcda_dist.choices import Exif
from mgcda_dist.data.pixels import MAX_PIXELS, Pixels
from mgcda_dist.errors import SampleError, ShardError

__all__ = ["BROKEN", "Header", "check_pair", "oriented", "read_header"]

BROKEN = (
    "replace the file; `skip` leaves the sample out; of a folder of shards, `mgcda shards verify` lists all of them"
)
"""Remedy for files that cannot be decoded."""

_OTHERS = {b"GIF8": "a GIF", b"ftyp": "HEIC or AVIF"}
"""Bytes near the start of whole pictures that are not read."""
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM")
_MARKS = {2: "mirrored", 3: "turned by 180°", 4: "mirrored and turned by 180°", 5: "mirrored and turned by 90°",
          6: "turned by 90°", 7: "mirrored and turned by 90°", 8: "turned by 90°"}  # fmt: skip


@dataclass(frozen=True)
class Header:
    """The header of a picture.

    Attributes:
        format, mode: Pillow's names.
        bits: per channel.
        height, width: as stored, pixels.
        mark: orientation by EXIF, 1 (upright) … 8.
        picture: opened, not decoded.
    """

    format: str
    mode: str
    bits: int
    height: int
    width: int
    mark: int
    picture: Image.Image

    def shape(self, exif: Exif | None) -> tuple[int, int]:
        """Height and width of the decoded picture."""
        return (self.width, self.height) if self.mark >= 5 and exif != "stored" else (self.height, self.width)

    def fitting(self, label_px: tuple[int, ...]) -> list[Exif]:
        """The choices with which the decoded picture has the size of a label."""
        choices: tuple[Exif, Exif] = ("upright", "stored")
        return [choice for choice in choices if self.shape(choice) == label_px]

    def refuse_unchosen(self, exif: Exif | None, label_px: tuple[int, ...], where: str, what: str = "image") -> None:
        """Raise ShardError if a picture of a labelled sample has an orientation mark, and `exif` is not chosen."""
        if self.mark == 1 or exif is not None:
            return
        fits = self.fitting(label_px)
        hint = f"; the label has the size of the {fits[0]} {what}" if len(fits) == 1 else ""
        problem = f"the {what} is {_MARKS[self.mark]} by its EXIF mark, and nothing says if its label is, too{hint}"
        remedy = (
            "choose `exif`: upright, if labels fit the pictures that viewers show; stored, if they fit stored pixels"
        )
        raise ShardError(where, problem, remedy)


def read_header(data: bytes, where: str, what: str = "image") -> Header:
    """The header of an encoded picture.

    Args:
        data: JPEG, PNG, WebP, BMP, TIFF or PNM.
        where: path, or shard and key.
        what: the picture in messages: image, label or object.

    Raises:
        SampleError: no such picture, several in one file, or more than `MAX_PIXELS`.
    """
    try:
        picture: Any = Image.open(io.BytesIO(data), formats=_FORMATS)
        kind, (width, height) = str(picture.format), picture.size
        bits = data[24] if kind == "PNG" else max(picture.tag_v2.get(258, (1,))) if kind == "TIFF" else 8
        several = kind != "MPO" and getattr(picture, "is_animated", False)  # MPO: a photo with its previews
    except UnidentifiedImageError:  # its message holds an address, different in every process
        problem = f"not a picture of JPEG, PNG, WebP, BMP, TIFF or PNM ({len(data)} bytes)"
        for mark, name in _OTHERS.items():
            if mark in data[:8]:
                raise SampleError(where, f"the {what} is {name}, {problem}", "save it as PNG") from None
        raise SampleError(where, f"the {what} is {problem}", BROKEN) from None
    except Exception as error:  # of damaged bytes Pillow's parsers raise all kinds
        raise SampleError(where, f"the {what} is not a picture ({len(data)} bytes: {error})", BROKEN) from None
    if width * height > MAX_PIXELS:
        problem = f"the {what} claims {width}×{height} pixels, over the bound of {MAX_PIXELS}"
        raise SampleError(where, problem, "make it smaller; `skip` leaves the sample out")
    if several:
        raise SampleError(where, f"the {what} is one of several in its file", "save it as a file of its own")
    mark = _mark(picture, data)
    if kind == "TIFF" and mark >= 5:  # Pillow gives its size, and later its pixels, upright
        height, width = width, height
    return Header(kind, picture.mode, bits, height, width, mark, picture)


def check_pair(header: Header, label_px: tuple[int, ...], exif: Exif | None, where: str) -> None:
    """Refuse an image that its label does not fit.

    Args:
        header: of the image.
        label_px: height and width of the decoded label.

    Raises:
        ShardError: the image has an orientation mark, and `exif` is not chosen.
        SampleError: the label has another size.
    """
    header.refuse_unchosen(exif, label_px, where)
    height, width = header.shape(exif)
    if label_px == (height, width):
        return
    problem = f"the label is {label_px[1]}×{label_px[0]} px, the image {width}×{height}"
    if header.mark != 1:
        problem += f" ({exif}; EXIF says {_MARKS[header.mark]})"
    if fits := header.fitting(label_px):
        raise SampleError(where, problem, f"choose `exif` {fits[0]}, with which they have one size")
    raise SampleError(where, problem, "check that label and image belong together; `skip` leaves the sample out")


def oriented(pixels: Pixels, header: Header, exif: Exif | None) -> Pixels:
    """Decoded pixels, upright; with `stored`, as they lie in the file."""
    mark, turn = header.mark, exif != "stored"
    if header.format == "TIFF":  # Pillow has turned it
        mark, turn = {6: 8, 8: 6}.get(mark, mark), not turn
    if mark == 1 or not turn:
        return pixels
    if mark >= 5:
        pixels = pixels.swapaxes(0, 1)
    rows, columns = (slice(None, None, -1 if mark in flipped else 1) for flipped in ((3, 4, 7, 8), (2, 3, 6, 7)))
    return np.ascontiguousarray(pixels[rows, columns])


def _mark(picture: Image.Image, data: bytes) -> int:
    """The orientation of an opened picture by EXIF or XMP; 1 if it has none, or a damaged one."""
    if picture.format == "PNG" and not picture.info.keys() & {"exif", "Raw profile type exif", "XML:com.adobe.xmp"}:
        if data.find(b"eXIf", max(data.rfind(b"IDAT"), 0)) < 0:
            return 1  # asked for EXIF, Pillow would decode the pixels to look behind them
    try:
        mark = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # of damaged bytes Pillow's parsers raise all kinds; viewers show such pictures as stored
        return 1
    return mark if mark in _MARKS else 1

"""Pictures inside a page: frames, their score levels and truth as data URIs, and crops around the worst mistakes."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mgcda_dist.reports.evaluated import ANOMALY_CODE, INLIER_CODE, FramePictures

__all__ = [
    "FALSE_ALARM_COLOUR",
    "HIT_COLOUR",
    "MISSED_COLOUR",
    "Mistake",
    "crop_uri",
    "image_uri",
    "map_uri",
    "mistakes",
]

HIT_COLOUR = (0, 200, 130)
FALSE_ALARM_COLOUR = (213, 94, 0)
MISSED_COLOUR = (86, 180, 233)
"""After Okabe and Ito's green, vermilion and sky blue: apart for colour-blind readers, and rare on roads."""

_MIN_SIDE_PX = 6
_SHARE_THAT_EXCUSES = 0.1
_CROP_WIDTH_PX, _CROP_HEIGHT_PX = 256, 192


@dataclass(frozen=True)
class Mistake:
    """A region that was marked without an anomaly, or an anomaly that was not marked.

    Attributes:
        kind: `false alarm` or `missed`.
        region: h×w, bool.
        weight: what mistakes of one kind are ranked by: pixels, false alarms weighted by how sure they are.
        share: of the frame's pixels, as a fraction.
        level: median level of the region.
    """

    kind: str
    region: NDArray[np.bool_]
    weight: float
    share: float
    level: int


def image_uri(image: NDArray[np.uint8], width_px: int) -> str:
    """A photograph, at most `width_px` wide."""
    picture = Image.fromarray(image)
    if picture.width > width_px:
        picture = picture.resize(_size(picture, width_px), Image.Resampling.LANCZOS)
    return _uri(picture, quality=74, method=4)


def map_uri(pictures: FramePictures, width_px: int) -> str:
    """Score level (red) and truth (green) of every pixel, without loss, at most `width_px` wide."""
    both = np.stack([pictures.level, pictures.truth, np.zeros_like(pictures.level)], axis=-1)
    picture = Image.fromarray(both)
    if picture.width > width_px:
        # To the nearest pixel: a mean of levels, or of classes, means nothing.
        picture = picture.resize(_size(picture, width_px), Image.Resampling.NEAREST)
    return _uri(picture, lossless=True, quality=60, method=4)


def mistakes(pictures: FramePictures, level: int) -> list[Mistake]:
    """Errors in a frame if pixels of at least `level` are marked, worst first of each kind.

    A marked region is a false alarm if less than a tenth of it is anomaly or void: the halo of a found object is none.
    An anomaly is missed if less than half of it is marked.
    """
    from scipy import ndimage

    eight = np.ones((3, 3), bool)
    marked = pictures.level >= level
    found: list[Mistake] = []
    for kind, regions in (("false alarm", marked), ("missed", pictures.truth == ANOMALY_CODE)):
        numbered = np.empty(regions.shape, np.int32)
        count = int(ndimage.label(regions, structure=eight, output=numbered))  # pyright: ignore[reportArgumentType]
        for index, box in enumerate(ndimage.find_objects(numbered, count), 1):
            if box is None or max(side.stop - side.start for side in box) < _MIN_SIDE_PX:
                continue
            region = numbered[box] == index
            size = int(region.sum())
            truth, levels = pictures.truth[box][region], pictures.level[box][region]
            if kind == "false alarm":
                wrong = np.count_nonzero(truth != INLIER_CODE) < _SHARE_THAT_EXCUSES * size
                weight = float((levels.astype(np.int64) - level + 1).sum())
            else:
                unmarked = np.count_nonzero(levels < level)
                wrong, weight = 2 * unmarked > size, float(unmarked)
            if wrong:
                whole = np.zeros(marked.shape, bool)
                whole[box] = region
                found.append(Mistake(kind, whole, weight, size / marked.size, int(np.median(levels))))
    return sorted(found, key=lambda mistake: (mistake.kind, -mistake.weight))


def crop_uri(image: NDArray[np.uint8], mistake: Mistake) -> str:
    """The surroundings of a mistake, with its outline."""
    top, bottom, left, right = _surroundings(mistake.region)
    size = (_CROP_WIDTH_PX, _CROP_HEIGHT_PX)
    photo = Image.fromarray(image[top:bottom, left:right]).resize(size, Image.Resampling.LANCZOS)
    region = Image.fromarray(mistake.region[top:bottom, left:right]).resize(size, Image.Resampling.NEAREST)
    pixels = np.array(photo)
    colour = FALSE_ALARM_COLOUR if mistake.kind == "false alarm" else MISSED_COLOUR
    rings = _rings(np.asarray(region), widths=(2, 5))
    # White without, colour within: one of the two shows on any ground.
    pixels[rings[1]] = (255, 255, 255)
    pixels[rings[0]] = colour
    return _uri(Image.fromarray(pixels), quality=78, method=4)


def _rings(region: NDArray[np.bool_], widths: Sequence[int]) -> list[NDArray[np.bool_]]:
    """The pixels outside of a region up to each distance."""
    from scipy import ndimage

    distance = np.asarray(ndimage.distance_transform_edt(~region))
    return [(distance > 0) & (distance <= width) for width in widths]


def _surroundings(region: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """A box of the crop's shape around the region, with room, inside of the picture: top, bottom, left, right."""
    height, width = region.shape
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    ratio = _CROP_WIDTH_PX / _CROP_HEIGHT_PX
    box_height = max(1.8 * (rows[-1] - rows[0] + 1), 1.8 * (columns[-1] - columns[0] + 1) / ratio, 60.0)
    box_height = min(box_height, height, width / ratio)
    box_width = box_height * ratio
    top = min(max((rows[0] + rows[-1] + 1 - box_height) / 2, 0), height - box_height)
    left = min(max((columns[0] + columns[-1] + 1 - box_width) / 2, 0), width - box_width)
    # At least one pixel each way, however flat the picture is.
    bottom, right = max(int(top) + 1, int(top + box_height)), max(int(left) + 1, int(left + box_width))
    return int(top), bottom, int(left), right


def _size(picture: Image.Image, width_px: int) -> tuple[int, int]:
    return width_px, max(1, round(picture.height * width_px / picture.width))


def _uri(picture: Image.Image, **options: int | bool) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", **options)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")

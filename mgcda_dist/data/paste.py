"""AnomalyMix: objects are pasted while streaming and labelled as anomaly (after PEBAL, arXiv 2111.12264, section 3).

An object is resized, mirrored and rotated with premultiplied alpha (so that its photo's background cannot bleed in),
optionally brought to the brightness of its surroundings, and blended in with one of three borders. A pixel is ANOMALY
where the object contributes more than half of it.

Poisson blending proper (Pérez et al., SIGGRAPH 2003) takes the colours from the scene and only the gradients from the
object, so that a plain object vanishes while its label says anomaly. The border `poisson` is the screened form (Bhat et
al., ECCV 2008): the object's colours meet those of the scene at its outline and are its own further in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from mgcda_dist.choices import Border, PasteDefaults, Placement
from mgcda_dist.data.augment import LUMA, Image, Label
from mgcda_dist.data.decode import decode_cutout
from mgcda_dist.data.lru_cache import LruCache
from mgcda_dist.data.pixels import Pixels, as_pixels, flipped, resized
from mgcda_dist.data.reader import ShardReader
from mgcda_dist.errors import ShardError
from mgcda_dist.method.batch import ANOMALY

__all__ = ["Cutouts", "ObjectLibrary", "PasteParams", "PasteSource", "paste_objects"]

MIN_AREA_PX = 16
"""An object that shows fewer anomaly pixels is drawn again."""

_CACHE_BYTES = 64 * 2**20  # of decoded objects
_ATTEMPTS = 8  # draws per object before it is given up
_TILT_DEGREES = 12.0
_LEAST_FEATHER_PX = 0.1  # a narrower border blends nothing, and OpenCV refuses a blur of next to nothing
_DECAY = 0.03  # share of an object's longer side over which the scene's colours fade into its own
_GAIN = (0.5, 2.0)  # bounds of the change of brightness


@dataclass(frozen=True)
class PasteParams:
    """Parameters of pasting.

    Attributes:
        objects: folder of the object shards; for the record, nothing is read from here.
        probability: share of images that get objects.
        min_objects, max_objects: objects per image, drawn from min_objects … max_objects.
        scale: longer side of an object as a share of the image's shorter side; log-uniform.
        flip: probability of a horizontal flip.
        colour_match: probability that an object takes the brightness of its surroundings.
        border: `hard`, as the object was cut; `feather`, faded; `poisson`, faded, and near the outline in the colours
            of the scene.
        feather_px: width of the faded border, px.
        placement: `anywhere` in the image, or with the foot on the `road` (none where no road is seen).
        road: train ids of what objects stand on.
    """

    objects: str = ""
    probability: float = PasteDefaults.probability
    min_objects: int = PasteDefaults.min_objects
    max_objects: int = PasteDefaults.max_objects
    scale: tuple[float, float] = PasteDefaults.scale
    flip: float = PasteDefaults.flip
    colour_match: float = PasteDefaults.colour_match
    border: Border = PasteDefaults.border
    feather_px: float = PasteDefaults.feather_px
    placement: Placement = PasteDefaults.placement
    road: tuple[int, ...] = (0,)


class Cutouts(Protocol):
    """Objects by number, each h×w×4 RGBA, uint8, premultiplied alpha, cut to its outline."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Pixels: ...


class ObjectLibrary:
    """The objects of a shard folder, decoded on demand and cached.

    Args:
        reader: reader over shards of kind `objects`.
        numbers: which of them to use, flat indices; None: all.

    Raises:
        ShardError: the shards hold frames, or no object; on access: an object is damaged or all transparent.
    """

    def __init__(self, reader: ShardReader, *, numbers: NDArray[np.int64] | None = None) -> None:
        if reader.manifest.kind != "objects" or len(reader) == 0:
            problem = f"{len(reader)} samples of kind {reader.manifest.kind!r}; pasting needs objects"
            raise ShardError(
                str(reader.manifest.folder), problem, "write object shards, e.g. with `mgcda shards write coco`"
            )
        self.reader = reader
        self._numbers = np.arange(len(reader)) if numbers is None else numbers
        self._decoded: LruCache[int, Pixels] = LruCache(self._decode, _CACHE_BYTES, weigh=attrgetter("nbytes"))

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Pixels:
        return self._decoded[int(self._numbers[index])]

    def _decode(self, index: int) -> Pixels:
        sample = self.reader.read(index)
        cutout = decode_cutout(sample.image, sample.where, sample.exif)
        left, top, width, height = cv2.boundingRect(cutout[:, :, 3])
        if width == 0:
            raise ShardError(sample.where, "the object is transparent everywhere", "leave it out of the shards")
        cutout = cutout[top : top + height, left : left + width]
        alpha = cutout[:, :, 3:].astype(np.uint16)
        colour = (cutout[:, :, :3] * alpha + 127) // 255
        return np.concatenate([colour, alpha], axis=2).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class PasteSource:
    """Objects with the parameters of pasting: a `Paste` for `Transform`."""

    objects: Cutouts
    params: PasteParams

    def __call__(self, image: Image, label: Label, generator: np.random.Generator) -> tuple[Image, Label]:
        """See `paste_objects`."""
        return paste_objects(image, label, generator, self.objects, self.params)


def paste_objects(
    image: Image, label: Label, generator: np.random.Generator, objects: Cutouts, params: PasteParams
) -> tuple[Image, Label]:
    """New image and label with objects in them; the arguments themselves when this image gets none.

    Args:
        image: H×W×3, uint8.
        label: H×W train ids, uint8.
        generator: of all draws.
        objects: drawn from uniformly.
        params: of pasting.
    """
    if generator.random() >= params.probability:
        return image, label
    if params.placement == "road" and not np.isin(label, params.road).any():
        return image, label
    image, label = image.copy(), label.copy()
    for _ in range(int(generator.integers(params.min_objects, params.max_objects + 1))):
        for _ in range(_ATTEMPTS):
            cutout = objects[int(generator.integers(len(objects)))]
            if _paste_one(image, label, cutout, generator.random(7).tolist(), params):
                break
    return image, label


class _Sprite(NamedTuple):
    colour: NDArray[np.float32]  # h×w×3, premultiplied, 0 … 255
    alpha: NDArray[np.float32]  # h×w×1, 0 … 1


def _paste_one(image: Image, label: Label, cutout: Pixels, draws: Sequence[float], params: PasteParams) -> bool:
    """Blend one object into image and label, in place; False, and no change, if too little of it would be visible."""
    low, high = params.scale
    longer_px = low * (high / low) ** draws[0] * min(label.shape)
    flip, tilt = draws[1] < params.flip, _TILT_DEGREES * (2 * draws[2] - 1)
    sprite = _feathered(_posed(cutout, longer_px, flip, tilt), 0.0 if params.border == "hard" else params.feather_px)
    place = _place(label, sprite.alpha.shape[:2], draws[3], draws[4], params)
    if place is None:
        return False
    inside, on_image = _clip(place, sprite.alpha.shape[:2], label.shape)
    colour, alpha = sprite.colour[inside], sprite.alpha[inside]
    mask = alpha[:, :, 0] > 0.5
    if np.count_nonzero(mask) < MIN_AREA_PX:
        return False
    scene = image[on_image].astype(np.float32)
    if draws[5] < params.colour_match:
        colour = _matched(colour, alpha, scene)
    if params.border == "poisson":
        colour = _screened(colour, alpha, scene, _DECAY * longer_px)
    image[on_image] = np.rint(colour + (1 - alpha) * scene).clip(0, 255).astype(np.uint8)
    label[on_image][mask] = ANOMALY
    return True


def _posed(cutout: Pixels, longer_px: float, flip: bool, tilt_degrees: float) -> Pixels:
    """The object resized, mirrored and rotated; still premultiplied RGBA."""
    height, width = cutout.shape[:2]
    factor = longer_px / max(height, width)
    height, width = max(1, round(height * factor)), max(1, round(width * factor))
    cutout = resized(cutout, height, width)
    if flip:
        cutout = flipped(cutout)
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), tilt_degrees, 1.0)
    cos, sin = abs(matrix[0, 0]), abs(matrix[0, 1])
    turned = math.ceil(width * cos + height * sin), math.ceil(width * sin + height * cos)
    matrix[:, 2] += (turned[0] - width) / 2, (turned[1] - height) / 2
    return as_pixels(cv2.warpAffine(cutout, matrix, turned, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT))


def _feathered(cutout: Pixels, feather_px: float) -> _Sprite:
    """Colour and alpha with a border that fades *inwards*: an object has no colour outside its outline."""
    pixels = cutout.astype(np.float32)
    colour, alpha = pixels[:, :, :3], pixels[:, :, 3:] / np.float32(255)
    if feather_px >= _LEAST_FEATHER_PX:
        blurred = cv2.GaussianBlur(alpha, (0, 0), feather_px / 2, borderType=cv2.BORDER_CONSTANT)[:, :, None]
        faded = np.minimum(alpha, blurred)
        colour = colour * (faded / np.maximum(alpha, np.float32(1e-6)))
        return _Sprite(colour.astype(np.float32), faded.astype(np.float32))
    return _Sprite(colour, alpha)


def _place(
    label: Label, size: tuple[int, int], draw_y: float, draw_x: float, params: PasteParams
) -> tuple[int, int] | None:
    """Top and left of the object in the image; None if the label shows no road."""
    height, width = size
    if params.placement == "anywhere":
        room_y, room_x = label.shape[0] - height, label.shape[1] - width
        top = min(room_y, 0) + math.floor(draw_y * (abs(room_y) + 1))
        return top, min(room_x, 0) + math.floor(draw_x * (abs(room_x) + 1))
    road = np.flatnonzero(np.isin(label, params.road))
    if len(road) == 0:
        return None
    foot_y, foot_x = divmod(int(road[math.floor(draw_y * len(road))]), label.shape[1])
    return foot_y - height + 1, foot_x - width // 2


def _clip(place: tuple[int, int], size: tuple[int, int], image_px: tuple[int, ...]) -> tuple[Any, Any]:
    """Slices of the visible part of the object: within the object, and within the image."""
    inside: list[slice] = []
    on_image: list[slice] = []
    for start, length, limit in zip(place, size, image_px, strict=True):
        first, last = max(start, 0), max(min(start + length, limit), start, 0)
        inside.append(slice(first - start, last - start))
        on_image.append(slice(first, last))
    return tuple(inside), tuple(on_image)


def _matched(
    colour: NDArray[np.float32], alpha: NDArray[np.float32], scene: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The object's colour, scaled so that its mean brightness is that of the box it covers."""
    luma = LUMA.astype(np.float32)
    own = float((colour @ luma).sum()) / max(float(alpha.sum()), 1e-6)
    gain = min(max(float((scene @ luma).mean()) / max(own, 1.0), _GAIN[0]), _GAIN[1])
    return np.minimum(colour * np.float32(gain), 255 * alpha)


def _screened(
    colour: NDArray[np.float32], alpha: NDArray[np.float32], scene: NDArray[np.float32], decay_px: float
) -> NDArray[np.float32]:
    """The object's colour plus the difference of scene and object at its outline, spread inwards and fading."""
    solid = np.pad((alpha[:, :, 0] > 0.5).astype(np.uint8), 1)
    depth = cv2.distanceTransform(solid, cv2.DIST_L2, 3)[1:-1, 1:-1]
    outline = ((depth > 0) & (depth < 1.5)).astype(np.float32)
    lack = (scene - colour / np.maximum(alpha, np.float32(1e-6))) * outline[:, :, None]
    sigma = max(decay_px, 1.0)
    spread = cv2.GaussianBlur(np.dstack([lack, outline]), (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
    fading = np.exp(-np.maximum(depth - 1, 0) / sigma) / np.maximum(spread[:, :, 3], 1e-6)
    return np.clip(colour + alpha * spread[:, :, :3] * fading[:, :, None], 0, 255 * alpha).astype(np.float32)

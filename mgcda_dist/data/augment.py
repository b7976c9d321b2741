"""Random geometry and colour of one frame: all parameters are drawn first, then the image is resampled once.

In effect a frame is resized to `reference_height_px` (so that cameras of different resolution show things at a similar
size), scaled by a log-uniform factor, and cropped. It is computed in reverse: the region of the frame that ends up in
the crop is cut out and resized once. Brightness, contrast, saturation and hue are one 3×4 matrix.

A scaled frame smaller than the crop is placed at random in it. Around it the label is VOID and the image is reflected:
with a flat border, the discriminators could tell domains apart by the shape of their frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mgcda_dist.choices import AugmentDefaults
from mgcda_dist.data.pixels import Pixels, as_pixels, flipped, resized, resized_label
from mgcda_dist.method.batch import VOID

__all__ = [
    "AugmentParams",
    "Change",
    "Image",
    "Label",
    "Paste",
    "Transform",
    "View",
    "apply_colour",
    "apply_geometry",
    "draw_view",
]

Image = Pixels
"""H×W×3, RGB."""
Label = Pixels
"""H×W train ids."""
Paste = Callable[[Image, Label, np.random.Generator], tuple[Image, Label]]
"""Puts objects into a crop and its label."""
Change = Callable[[Image, Label, np.random.Generator], tuple[Image, Label]]
"""Changes a finished crop and its label; its arguments stay as they are."""

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of R, G, B in the brightness of a pixel (ITU-R BT.601)."""
_TO_YIQ = np.array([LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)
_BLUR_PX = (0.3, 1.5)  # σ of the blur


@dataclass(frozen=True)
class AugmentParams:
    """Ranges to draw from.

    Attributes:
        scale: smallest and largest factor after the resize to the reference height.
        reference_height_px: height every frame is brought to first; None: as it is.
        flip: probability of a horizontal flip.
        brightness, contrast, saturation: factors are drawn from 1 ± the value, not below 0.
        hue: largest turn of the hue, in turns.
        blur: probability of a Gaussian blur, σ 0.3 … 1.5 px.
        class_mix: probability that a crop without labels takes half of the classes of a labelled one (`class_mix`).
        style: probability that a crop takes the low frequencies of a picture of another domain.
        style_band: β of `style.with_style_of`.
    """

    scale: tuple[float, float] = AugmentDefaults.scale
    reference_height_px: int | None = AugmentDefaults.reference_height_px
    flip: float = AugmentDefaults.flip
    brightness: float = AugmentDefaults.brightness
    contrast: float = AugmentDefaults.contrast
    saturation: float = AugmentDefaults.saturation
    hue: float = AugmentDefaults.hue
    blur: float = AugmentDefaults.blur
    class_mix: float = AugmentDefaults.class_mix
    style: float = AugmentDefaults.style
    style_band: float = AugmentDefaults.style_band


@dataclass(frozen=True)
class View:
    """The random parameters of one crop.

    Attributes:
        box: top, left, height, width of the region of the frame that is shown, px.
        size: height, width of that region in the crop, px.
        offset: top, left of that region in the crop, px.
        flip: mirrored left to right.
        brightness, contrast, saturation: factors; 1 changes nothing.
        hue: turn of the hue, in turns.
        blur_px: σ of the blur; 0: none.
    """

    box: tuple[int, int, int, int]
    size: tuple[int, int]
    offset: tuple[int, int]
    flip: bool = False
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    blur_px: float = 0.0


def draw_view(
    generator: np.random.Generator, frame_px: tuple[int, int], crop_px: tuple[int, int], params: AugmentParams
) -> View:
    """Draw the parameters of a crop of `crop_px` from a frame of `frame_px` (height, width).

    Takes the same number of draws whatever the parameters, so that switching one off leaves the others as they were.
    """
    draws = generator.random(10).tolist()
    low, high = params.scale
    factor = low * (high / low) ** draws[0]
    if params.reference_height_px is not None:
        factor *= params.reference_height_px / frame_px[0]
    top, height, out_height, out_top = _place(frame_px[0], crop_px[0], factor, draws[1])
    left, width, out_width, out_left = _place(frame_px[1], crop_px[1], factor, draws[2])
    blur_low, blur_high = _BLUR_PX
    return View(
        box=(top, left, height, width),
        size=(out_height, out_width),
        offset=(out_top, out_left),
        flip=draws[3] < params.flip,
        brightness=_around_one(params.brightness, draws[4]),
        contrast=_around_one(params.contrast, draws[5]),
        saturation=_around_one(params.saturation, draws[6]),
        hue=params.hue * (2 * draws[7] - 1),
        blur_px=blur_low + (blur_high - blur_low) * draws[9] if draws[8] < params.blur else 0.0,
    )


def apply_geometry(image: Image, label: Label, view: View, crop_px: tuple[int, int]) -> tuple[Image, Label]:
    """Image and label of the crop, before any change of colour; both are new arrays.

    The image is resized by area when it shrinks and bilinearly when it grows, the label to the nearest pixel, all with
    the same pixel centres.
    """
    top, left, height, width = view.box
    rows, columns = slice(top, top + height), slice(left, left + width)
    image, label = resized(image[rows, columns], *view.size), resized_label(label[rows, columns], *view.size)
    if view.flip:
        image, label = flipped(image), flipped(label)
    if view.size != crop_px:
        above, before = view.offset
        below, after = crop_px[0] - view.size[0] - above, crop_px[1] - view.size[1] - before
        image = as_pixels(cv2.copyMakeBorder(image, above, below, before, after, cv2.BORDER_REFLECT_101))
        label = as_pixels(cv2.copyMakeBorder(label, above, below, before, after, cv2.BORDER_CONSTANT, value=VOID))
    return _owned(image), _owned(label)


def apply_colour(image: Image, view: View) -> Image:
    """The crop with its colours changed: brightness, contrast, saturation, hue, then blur.

    Each of the first four is linear in RGB (hue turns about the grey axis of YIQ), so their product is one matrix and
    rounding and clipping happen once. The mean that contrast is taken about is that of the brightened crop.
    """
    matrix = _colour_matrix(view, np.array(cv2.mean(image)[:3]))
    if matrix is not None:
        image = as_pixels(cv2.transform(image, matrix))
    if view.blur_px > 0:
        image = as_pixels(cv2.GaussianBlur(image, (0, 0), view.blur_px))
    return image


@dataclass(frozen=True)
class Transform:
    """Frame → training crop: geometry, then pasted objects, then colour, so that objects and scene share one camera.

    Attributes:
        crop_px: height, width of the crop.
        augment: ranges to draw from.
        own: changes of the user's own to the finished crop, in order; who calls them gives each draws of its own.
    """

    crop_px: tuple[int, int]
    augment: AugmentParams = AugmentParams()
    own: tuple[Change, ...] = ()

    def __call__(
        self, image: Image, label: Label, generator: np.random.Generator, paste: Paste | None = None
    ) -> tuple[Image, Label]:
        """Image (crop height×width×3, uint8) and label (uint8); a function of its arguments only."""
        return self.finish(*self.cut(image, label, generator), generator, paste)

    def cut(self, image: Image, label: Label, generator: np.random.Generator) -> tuple[Image, Label, View]:
        """The first half: the crop as the frame shows it, and what was drawn for it."""
        view = draw_view(generator, image.shape[:2], self.crop_px, self.augment)
        return *apply_geometry(image, label, view, self.crop_px), view

    def finish(
        self, image: Image, label: Label, view: View, generator: np.random.Generator, paste: Paste | None = None
    ) -> tuple[Image, Label]:
        """The second half: pasted objects and colour, on a crop and with the generator of `cut`."""
        if paste is not None:
            image, label = paste(image, label, generator)
        return apply_colour(image, view), label


def _place(frame: int, crop: int, factor: float, draw: float) -> tuple[int, int, int, int]:
    """Along one axis: start and length in the frame, length and start in the crop."""
    scaled = max(1, round(frame * factor))
    if scaled < crop:
        return 0, frame, scaled, math.floor(draw * (crop - scaled + 1))
    length = min(frame, max(1, round(crop / factor)))
    return math.floor(draw * (frame - length + 1)), length, crop, 0


def _around_one(spread: float, draw: float) -> float:
    low = max(0.0, 1 - spread)
    return low + (1 + spread - low) * draw


def _colour_matrix(view: View, mean: NDArray[np.float64]) -> NDArray[np.float32] | None:
    """3×4 matrix of the four colour changes; None when they change nothing."""
    if view.brightness == view.contrast == view.saturation == 1 and view.hue == 0:
        return None
    cos, sin = math.cos(2 * math.pi * view.hue), math.sin(2 * math.pi * view.hue)
    hue = _FROM_YIQ @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ _TO_YIQ
    saturation = view.saturation * np.eye(3) + (1 - view.saturation) * LUMA
    # Saturation and hue leave grey as it is, so the offset of contrast, a grey, passes through both.
    offset = (1 - view.contrast) * view.brightness * float(LUMA @ mean)
    linear = view.contrast * view.brightness * (hue @ saturation)
    return np.column_stack([linear, np.full(3, offset)]).astype(np.float32)


def _owned(array: Pixels) -> Pixels:
    # A crop at scale 1 is still a view of the frame.
    return array if array.base is None and array.flags.c_contiguous else array.copy()

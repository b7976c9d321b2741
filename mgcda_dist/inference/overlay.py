"""Overlay of a frame and its anomaly scores, with outlined and numbered anomalies and a legend.

Colour and opacity rise with the score over a range that is the same for all frames of a prediction, so that pictures
are comparable and a video does not flicker: below the range the frame shows, nearly grey; above it the last colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mgcda_dist.data.pixels import Pixels, as_pixels
from mgcda_dist.inference.anomalies import Anomaly

__all__ = ["Legend", "overlay"]

_OPACITY = 0.8
_OUTLINE, _EDGE = (255, 255, 255), (0, 0, 0)
_PAPER, _INK, _QUIET = (24, 24, 27), (244, 244, 245), (161, 161, 170)
_MIN_WIDTH_PX, _MAX_HEIGHT_PX = 480, 2160
"""Narrower frames are enlarged so that the legend is legible, up to the maximum height."""
_MAX_LABELS = 30
"""Number of anomalies that are labelled with number and score; more labels would cover the picture."""


@dataclass(frozen=True)
class Legend:
    """Colour range and threshold of an overlay, as its legend shows them.

    Attributes:
        score: name of the anomaly score.
        low, high: range of scores that the colours cover.
        threshold: lowest score of an anomalous pixel; None: no anomalies are marked.
        source: origin of the threshold, in a few words.
    """

    score: str
    low: float
    high: float
    threshold: float | None = None
    source: str = ""


def overlay(
    image: Pixels,
    score: NDArray[np.float32],
    legend: Legend,
    anomalies: Sequence[Anomaly] = (),
    mask: NDArray[np.bool_] | None = None,
    caption: str = "",
) -> Pixels:
    """The picture with a legend below: both sides even, as video codecs need, and small frames enlarged.

    Args:
        image: H×W×3, RGB.
        score: H×W, higher is more anomalous.
        legend: range, threshold and its origin.
        anomalies: the outlined and numbered anomalies.
        mask: H×W, the pixels of the anomalies.
        caption: of this frame, for example its name.

    Returns:
        (f·H + legend)×f·W×3, RGB, uint8, with an integer f, 1 for frames of usual size. Odd sides get one more pixel.
    """
    factor = max(1, min(-(-_MIN_WIDTH_PX // image.shape[1]), -(-_MAX_HEIGHT_PX // image.shape[0])))
    size = factor * image.shape[1], factor * image.shape[0]
    if factor > 1:
        image = as_pixels(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR))
        score = np.asarray(cv2.resize(score, size, interpolation=cv2.INTER_LINEAR), np.float32)
    picture = _heated(image, score, legend)
    unit = max(1.0, min(size[1] / 720, size[0] / 1280))
    if mask is not None:
        _outline(picture, cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST), unit)
    for number, anomaly in enumerate(anomalies[:_MAX_LABELS], 1):
        left, top, width, height = (factor * length for length in anomaly.box)
        _label(picture, f"{number}: {_number(anomaly.score)}", (left, top, width, height), unit)
    picture = cv2.copyMakeBorder(picture, 0, 0, 0, picture.shape[1] % 2, cv2.BORDER_REPLICATE)
    strip = _strip(picture.shape[1], unit, legend, caption, len(anomalies))
    if (picture.shape[0] + strip.shape[0]) % 2:
        strip = cv2.copyMakeBorder(strip, 0, 1, 0, 0, cv2.BORDER_REPLICATE)
    return as_pixels(np.vstack([picture, strip]))


def _heated(image: Pixels, score: NDArray[np.float32], legend: Legend) -> NDArray[np.uint8]:
    span = max(legend.high - legend.low, 1e-12)
    fraction = np.clip((score.astype(np.float32) - legend.low) / span, 0, 1)
    colours = _colours(fraction)
    alpha = (_OPACITY * np.minimum(1.5 * fraction, 1))[..., None]
    # The background is nearly grey, so that colour stands for score.
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    background = 0.35 * image + 0.65 * grey
    return np.rint(background + alpha * (colours - background)).astype(np.uint8)


def _colours(fraction: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Colours of `inferno` for fractions 0 … 1, without its darkest part, which would darken the frame."""
    level = np.rint(70 + 185 * fraction).astype(np.uint8)
    return as_pixels(cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB))


def _outline(picture: NDArray[np.uint8], mask: NDArray[Any], unit: float) -> None:
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    thickness = max(1, round(1.5 * unit))
    # A dark edge around a light outline, visible on any background.
    cv2.drawContours(picture, contours, -1, _EDGE, thickness + 2, cv2.LINE_AA)
    cv2.drawContours(picture, contours, -1, _OUTLINE, thickness, cv2.LINE_AA)


def _label(picture: NDArray[np.uint8], text: str, box: tuple[int, int, int, int], unit: float) -> None:
    size = round(15 * unit)
    width, pad = _width(text, size), round(3 * unit)
    middle = box[0] + box[2] // 2 - width // 2 - pad
    left = min(max(middle, 0), max(picture.shape[1] - width - 2 * pad, 0))
    height = size + 2 * pad
    # Above the box, or below it if there is no room above.
    top = box[1] - height - 2 if box[1] >= height + 2 else min(box[1] + box[3] + 2, picture.shape[0] - height)
    cv2.rectangle(picture, (left, top), (left + width + 2 * pad, top + height), _PAPER, cv2.FILLED)
    _write(picture, text, (left + pad, top + pad + round(0.85 * size)), size, _INK)


def _strip(width: int, unit: float, legend: Legend, caption: str, num_anomalies: int) -> NDArray[np.uint8]:
    """The legend: colour bar with its range and the threshold, name of the score, caption of the frame."""
    size, pad = round(15 * unit), round(10 * unit)
    strip = np.full((2 * size + 4 * pad, width, 3), _PAPER, np.uint8)
    bar_width, bar_height = max(2, min(round(300 * unit), width // 3)), size
    bar_left = min(pad, width - bar_width)  # a tall frame may be narrower than the margin
    ramp = _colours(np.linspace(0, 1, bar_width)[None])[0]
    alpha = np.minimum(1.5 * np.linspace(0, 1, bar_width), 1)[:, None]
    strip[pad : pad + bar_height, bar_left : bar_left + bar_width] = np.rint(110 + alpha * (ramp - 110.0))
    base = pad + bar_height + pad + round(0.85 * size)
    low, high = _number(legend.low), _number(legend.high)
    _write(strip, low, (bar_left, base), size, _QUIET)
    _write(strip, high, (bar_left + bar_width - _width(high, size), base), size, _QUIET)
    if legend.threshold is not None:
        fraction = (legend.threshold - legend.low) / max(legend.high - legend.low, 1e-12)
        x = bar_left + round(min(max(fraction, 0), 1) * (bar_width - 1))
        cv2.line(strip, (x, pad - pad // 2), (x, pad + bar_height + pad // 2), _INK, max(2, round(2 * unit)))
    x = bar_left + bar_width + 2 * pad
    above = pad + round(0.85 * size)
    words = f"anomaly score: {legend.score}"
    if legend.threshold is not None:
        words += f",  threshold {_number(legend.threshold)}" + (f" ({legend.source})" if legend.source else "")
    if _width(words, size) > width - x - pad:
        words = words.removeprefix("anomaly score: ")  # leaves room for the origin of the threshold
    _write(strip, _truncated(words, size, width - x - pad), (x, above), size, _INK)
    count = f"{num_anomalies} {'anomaly' if num_anomalies == 1 else 'anomalies'}"
    below = "   ".join(part for part in (count if legend.threshold is not None else "", caption) if part)
    _write(strip, _truncated(below, size, width - x - pad), (x, base), size, _QUIET)
    return strip


def _number(value: float) -> str:
    return f"{value:#.3g}".rstrip(".").replace("-", "−")


def _font() -> cv2.FontFace:
    return cv2.FontFace("sans")


def _width(text: str, size: int) -> int:
    return int(cv2.getTextSize((0, 0), text, (0, 0), _font(), size)[2])


def _write(picture: NDArray[np.uint8], text: str, at: tuple[int, int], size: int, colour: tuple[int, int, int]) -> None:
    cv2.putText(picture, text, at, colour, _font(), size)


def _truncated(text: str, size: int, width: int) -> str:
    """The text, shortened to `width` pixels."""
    if _width(text, size) <= width:
        return text
    while text and _width(text + "…", size) > width:
        text = text[:-1]
    return text + "…" if text else ""

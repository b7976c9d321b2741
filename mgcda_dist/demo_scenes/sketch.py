"""A small drawing board for objects: outlines, textures and round shading, on a picture with transparency."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from mgcda_dist.demo_scenes.camera import Float

__all__ = [
    "Sketch",
    "Texture",
    "box",
    "bright",
    "capsule",
    "chaikin",
    "checks",
    "colour",
    "ellipse",
    "fur",
    "plaid",
    "plain",
    "speckle",
    "spots",
    "stripes",
    "wood",
]

UNIT_PX = 176
"""Picture pixels per unit of an outline."""
HALF_WIDTH, HEIGHT = 0.8, 1.15
_LIGHT = (-0.6, 0.75)
"""Direction that bulging parts are lit from: to the right, and up."""

Texture = Callable[[Float, Float], Float]
"""Maps coordinates (h×w each, units) to RGB in [0, 1], h×w×3."""


def colour(
    rng: np.random.Generator,
    saturation: tuple[float, float],
    value: tuple[float, float],
    hue: tuple[float, float] = (0.0, 1.0),
) -> Float:
    """A random colour, RGB in [0, 1]; every argument is a range."""
    return np.array(colorsys.hsv_to_rgb(rng.uniform(*hue), rng.uniform(*saturation), rng.uniform(*value)), np.float32)


def bright(rng: np.random.Generator) -> Float:
    """Any colour but the darkest."""
    return colour(rng, (0.05, 0.95), (0.2, 0.98))


def plain(base: Float) -> Texture:
    """One colour."""
    return lambda x, y: np.broadcast_to(base, (*np.broadcast(x, y).shape, 3)).astype(np.float32)


def stripes(base: Float, other: Float, angle: float, period: float, share: float = 0.5) -> Texture:
    """Parallel bands of two colours."""

    def texture(x: Float, y: Float) -> Float:
        wave = ((x * np.cos(angle) + y * np.sin(angle)) / period) % 1.0
        return np.where((wave < share)[..., None], other, base).astype(np.float32)

    return texture


def checks(base: Float, other: Float, period: float) -> Texture:
    """A chessboard."""

    def texture(x: Float, y: Float) -> Float:
        odd = (np.floor(x / period) + np.floor(y / period)) % 2
        return np.where((odd > 0)[..., None], other, base).astype(np.float32)

    return texture


def _noise(rng: np.random.Generator, x: Float, y: Float, cell_x: float, cell_y: float) -> Float:
    """Smooth noise in about [-1, 1] with the given cell size."""
    grid = rng.normal(0, 0.6, (64, 64)).astype(np.float32)
    column = (x / cell_x).astype(np.float32) % 60 + 1
    row = (y / cell_y).astype(np.float32) % 60 + 1
    column, row = np.broadcast_arrays(column, row)
    return cv2.remap(grid, np.ascontiguousarray(column), np.ascontiguousarray(row), cv2.INTER_LINEAR).astype(np.float32)


def spots(base: Float, other: Float, cell: float, rng: np.random.Generator) -> Texture:
    """Irregular patches of a second colour, as on a hide."""
    return lambda x, y: np.where((_noise(rng, x, y, cell, cell) > 0.25)[..., None], other, base).astype(np.float32)


def fur(base: Float, rng: np.random.Generator, strength: float = 0.25) -> Texture:
    """Short hair: noise drawn out downwards."""
    return lambda x, y: base * (1 + strength * _noise(rng, x, y, 0.015, 0.06))[..., None]


def speckle(base: Float, rng: np.random.Generator, strength: float = 0.35) -> Texture:
    """Grain of stone: fine over coarse noise."""
    return lambda x, y: (
        base * (1 + strength * (0.5 * _noise(rng, x, y, 0.02, 0.02) + 0.6 * _noise(rng, x, y, 0.12, 0.12)))[..., None]
    )


def wood(base: Float, rng: np.random.Generator, angle: float = 0.0) -> Texture:
    """Grain of timber along `angle`."""

    def texture(x: Float, y: Float) -> Float:
        along = x * np.cos(angle) + y * np.sin(angle)
        across = -x * np.sin(angle) + y * np.cos(angle)
        wave = np.sin(60 * across + 5 * _noise(rng, along, across, 0.5, 0.1))
        return (base * (0.9 + 0.14 * wave + 0.12 * _noise(rng, along, across, 0.3, 0.01))[..., None]).astype(np.float32)

    return texture


def plaid(base: Float, other: Float, period: float) -> Texture:
    """Woven cloth: bands that cross."""

    def texture(x: Float, y: Float) -> Float:
        share = 0.5 * ((x / period) % 1 < 0.35).astype(np.float32) + 0.5 * ((y / period) % 1 < 0.35).astype(np.float32)
        return base + (other - base) * share[..., None]

    return texture


def box(left: float, foot: float, right: float, top: float) -> Float:
    """An upright rectangle."""
    return np.array([[left, foot], [right, foot], [right, top], [left, top]], np.float32)


def ellipse(x: float, y: float, wide: float, tall: float, turn: float = 0.0) -> Float:
    """An ellipse with half axes `wide` and `tall`."""
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    dx, dy = wide * np.cos(angle), tall * np.sin(angle)
    cos, sin = np.cos(turn), np.sin(turn)
    return np.stack([x + dx * cos - dy * sin, y + dx * sin + dy * cos], axis=1).astype(np.float32)


def capsule(
    start: tuple[float, float], end: tuple[float, float], width: float, end_width: float | None = None
) -> Float:
    """A rounded stroke between two points."""
    end_width = width if end_width is None else end_width
    direction = np.arctan2(end[1] - start[1], end[0] - start[0])
    back = direction + np.linspace(np.pi / 2, 3 * np.pi / 2, 8)
    front = direction + np.linspace(-np.pi / 2, np.pi / 2, 8)
    first = np.array(start) + np.stack([np.cos(back), np.sin(back)], 1) * width / 2
    second = np.array(end) + np.stack([np.cos(front), np.sin(front)], 1) * end_width / 2
    return np.concatenate([first, second]).astype(np.float32)


def chaikin(points: Float | list[tuple[float, float]], rounds: int = 3) -> Float:
    """A closed polygon with its corners cut again and again (Chaikin 1974): a smooth outline."""
    outline = np.asarray(points, np.float32)
    for _ in range(rounds):
        ahead = np.roll(outline, -1, axis=0)
        outline = np.stack([0.75 * outline + 0.25 * ahead, 0.25 * outline + 0.75 * ahead], axis=1).reshape(-1, 2)
    return outline


class Sketch:
    """A picture in the making; x in units to both sides of 0, y in units up from the ground."""

    def __init__(self) -> None:
        size = (round(HEIGHT * UNIT_PX), round(2 * HALF_WIDTH * UNIT_PX))
        self.rgb = np.zeros((*size, 3), np.float32)
        self.alpha = np.zeros(size, np.float32)

    def part(self, outline: Float, texture: Texture, *, bulge: float = 0.5, tone: float = 1.0) -> None:
        """Paints one part over the earlier ones.

        Args:
            outline: k×2 units.
            bulge: how round it looks; 0: flat.
            tone: brightness factor.
        """
        pixels = np.stack([outline[:, 0] + HALF_WIDTH, HEIGHT - 0.04 - outline[:, 1]], axis=1) * UNIT_PX
        low = np.maximum(np.floor(pixels.min(axis=0)).astype(int) - 2, 0)
        high = np.minimum(np.ceil(pixels.max(axis=0)).astype(int) + 3, self.alpha.shape[::-1])
        (left, top), (right, bottom) = low, high
        if right <= left or bottom <= top:
            return
        mask = np.zeros((bottom - top, right - left), np.uint8)
        cv2.fillPoly(mask, [np.rint((pixels - low) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        share = (mask / np.float32(255)).astype(np.float32)
        x = ((np.arange(left, right) + 0.5) / UNIT_PX - HALF_WIDTH).astype(np.float32)[None, :]
        y = (HEIGHT - 0.04 - (np.arange(top, bottom) + 0.5) / UNIT_PX).astype(np.float32)[:, None]
        shade = np.full(share.shape, tone, np.float32)
        if bulge > 0:
            sigma = max(1.0, 0.22 * float(np.sqrt(share.sum())))
            soft = cv2.GaussianBlur(share, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
            dy, dx = np.gradient(soft)
            shade *= 1 + bulge * 1.6 * sigma * (-dx * _LIGHT[0] + dy * _LIGHT[1])
        painted = np.clip(texture(x, y) * shade[..., None], 0, 1)
        window = (slice(top, bottom), slice(left, right))
        self.rgb[window] += (painted - self.rgb[window]) * share[..., None]
        self.alpha[window] = np.maximum(self.alpha[window], share)

    def picture(self) -> NDArray[np.uint8]:
        """The RGBA picture cropped to what was drawn; its last row is the foot."""
        rows, columns = np.nonzero(self.alpha > 0.5)
        top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        alpha = self.alpha[top:bottom, left:right]
        rgba = np.dstack([self.rgb[top:bottom, left:right], alpha])
        return np.rint(rgba * 255).astype(np.uint8)

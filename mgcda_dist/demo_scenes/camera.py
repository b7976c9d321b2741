"""A pinhole camera and a sun, for flat pictures of a world in metres.

World axes: x to the right, y up, z forward; the road surface is y = 0. All pixel lengths are canvas pixels; the
canvas is `SUPER` times finer than the frame, so that averaging it down smooths the edges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["NEAR_M", "SUPER", "Camera", "Float", "Sun"]

SUPER = 2
"""Canvas pixels per frame pixel, along each axis."""

NEAR_M = 0.7
"""Points nearer than this are moved out to it before projection."""

Float = NDArray[np.floating]
"""Arrays of either float width."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    Attributes:
        size_px: canvas height, width.
        centre_px: column of the vanishing point of the z axis.
        horizon_px: row of the horizon (the pitch, seen from the picture).
        height_m: height over the road.
        x_m: lateral position.
        roll: rotation around the viewing axis, radians.
    """

    size_px: tuple[int, int]
    focal_px: float
    centre_px: float
    horizon_px: float
    height_m: float
    x_m: float
    roll: float

    def project(self, x: ArrayLike, y: ArrayLike, z: ArrayLike) -> Float:
        """World points (metres, broadcast together) to canvas pixels, …×2 (column, row)."""
        scale = self.focal_px / np.maximum(np.asarray(z, np.float32), NEAR_M)
        du = (np.asarray(x, np.float32) - self.x_m) * scale
        dv = (self.height_m - np.asarray(y, np.float32)) * scale
        cos, sin = math.cos(self.roll), math.sin(self.roll)
        u = self.centre_px + du * cos - dv * sin
        pixels = np.empty((*u.shape, 2), np.float32)
        pixels[..., 0] = u
        pixels[..., 1] = self.horizon_px + du * sin + dv * cos
        return pixels

    def pixels_per_metre(self, z: float) -> float:
        """Canvas pixels that one metre spans at depth `z`."""
        return self.focal_px / max(z, NEAR_M)

    def rays(self, step: int = SUPER) -> tuple[Float, Float]:
        """Offsets (du, dv) from the vanishing point with the roll undone, one per `step`-th canvas pixel; h×w each."""
        height, width = self.size_px
        u = np.arange(0, width, step, dtype=np.float32) + (step - 1) / 2 - self.centre_px
        v = np.arange(0, height, step, dtype=np.float32)[:, None] + (step - 1) / 2 - self.horizon_px
        cos, sin = np.float32(np.cos(self.roll)), np.float32(np.sin(self.roll))
        return u * cos + v * sin, v * cos - u * sin


@dataclass(frozen=True)
class Sun:
    """Direction of the light: a unit vector towards the sun (x, y, z)."""

    direction: tuple[float, float, float]

    def light(self, normal: ArrayLike) -> float:
        """Cosine between a surface's normal (any length) and the sun, at least 0."""
        normal = np.asarray(normal, np.float64)
        length = float(np.linalg.norm(normal)) or 1.0
        return max(0.0, float(normal @ np.asarray(self.direction)) / length)

    def reach(self, height_m: float) -> tuple[float, float]:
        """Ground offset (x, z) of the shadow of a point at that height, metres."""
        x, y, z = self.direction
        return -x / y * height_m, -z / y * height_m

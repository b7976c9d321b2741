"""World-anchored surface textures: one atlas of tileable patterns, laid on shapes in perspective."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from mgcda_dist.demo_scenes.camera import Camera, Float
from mgcda_dist.demo_scenes.materials import GROUND, Material
from mgcda_dist.method.randomness import numpy_generator

__all__ = ["SurfacePoints", "clouds", "surface_points", "surface_texture"]

TILE = 128
"""Pixels of a tile, both ways."""

PATTERNS = ("flat", "asphalt", "slabs", "brick", "plaster", "foliage", "grass", "tiles", "reflection", "cloth")

_MATERIAL_PATTERN: dict[Material, tuple[str, float]] = {
    Material.ASPHALT: ("asphalt", 4.0),
    Material.ASPHALT_PATCH: ("asphalt", 2.5),
    Material.MARKING: ("asphalt", 2.0),
    Material.SLABS: ("slabs", 2.4),
    Material.KERB: ("plaster", 2.0),
    Material.GRASS: ("grass", 2.5),
    Material.WALL: ("plaster", 6.0),
    Material.ROOF: ("tiles", 2.5),
    Material.GLASS: ("reflection", 7.0),
    Material.SHOP: ("reflection", 5.0),
    Material.FENCE: ("brick", 2.0),
    Material.TRUNK: ("grass", 1.2),
    Material.LEAF: ("foliage", 3.2),
    Material.HEDGE: ("foliage", 1.8),
    Material.FAR_TREES: ("foliage", 30.0),
    Material.SKYLINE: ("tiles", 40.0),
    Material.BODY: ("reflection", 6.0),
    Material.CAR_GLASS: ("reflection", 2.5),
    Material.CLOTH: ("cloth", 0.7),
}
"""Pattern of each material and the metres one tile of it spans; the others are flat."""


def _smooth(rng: np.random.Generator, cells: int) -> Float:
    """Tileable noise with `cells` cells along each side, unit deviation."""
    grid = np.pad(rng.normal(size=(cells, cells)), 2, mode="wrap").astype(np.float32)
    scale = TILE // cells
    big = cv2.resize(grid, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    tile = big[2 * scale : 2 * scale + TILE, 2 * scale : 2 * scale + TILE]
    return (tile / tile.std()).astype(np.float32)


def _pattern(name: str, rng: np.random.Generator) -> Float:
    """One tile, brightness factors around 1."""
    y, x = np.mgrid[:TILE, :TILE].astype(np.float32) / TILE
    fine, grain = _smooth(rng, 64), _smooth(rng, 32)
    match name:
        case "asphalt":
            return 1 + 0.10 * fine + 0.05 * grain + 0.05 * _smooth(rng, 4)
        case "slabs":
            seam = np.minimum((x * 4) % 1, (y * 4) % 1) < 0.07
            slab = np.kron(rng.normal(0, 0.06, (4, 4)), np.ones((TILE // 4, TILE // 4)))
            return (1 + slab + 0.05 * grain - 0.28 * seam).astype(np.float32)
        case "brick":
            row = np.floor(y * 16)
            seam = ((y * 16) % 1 < 0.18) | ((x * 6 + 0.5 * (row % 2)) % 1 < 0.08)
            return (1 + 0.1 * grain + 0.06 * fine + 0.25 * seam).astype(np.float32)
        case "plaster":
            streak = cv2.GaussianBlur(np.tile(_smooth(rng, 32), (3, 1)), (1, 41), 12)[TILE : 2 * TILE]
            return (1 + 0.05 * _smooth(rng, 4) + 0.05 * streak / streak.std() + 0.03 * fine).astype(np.float32)
        case "foliage":
            return (1 + 0.30 * _smooth(rng, 16) + 0.24 * grain + 0.15 * fine).astype(np.float32)
        case "grass":
            return (1 + 0.16 * fine + 0.10 * grain + 0.12 * _smooth(rng, 8)).astype(np.float32)
        case "tiles":
            seam = (y * 12) % 1
            return (1.12 - 0.3 * seam + 0.06 * grain - 0.1 * ((x * 12 + np.floor(y * 12) * 0.5) % 1 < 0.12)).astype(
                np.float32
            )
        case "reflection":
            wave = np.sin(2 * np.pi * (y + 0.15 * _smooth(rng, 4))) * 0.3
            return (1.05 + wave + 0.14 * _smooth(rng, 8)).astype(np.float32)
        case "cloth":
            return (1 + 0.08 * grain + 0.1 * _smooth(rng, 8)).astype(np.float32)
        case _:
            return np.ones((TILE, TILE), np.float32)


@lru_cache(maxsize=16)
def _atlas(name: str) -> Float:
    """All tiles of a domain, one under the other, each with a wrapped border of one pixel."""
    tiles = [
        np.pad(_pattern(pattern, numpy_generator("texture", name, pattern)), 1, mode="wrap") for pattern in PATTERNS
    ]
    return np.clip(np.concatenate(tiles), 0.15, 2.0).astype(np.float32)


@lru_cache(maxsize=4)
def _material_tables() -> tuple[NDArray[np.int32], Float, NDArray[np.bool_]]:
    """Per material: tile number, tiles per metre, is it ground."""
    tile = np.zeros(len(Material), np.int32)
    per_metre = np.ones(len(Material), np.float32)
    for material, (pattern, metres) in _MATERIAL_PATTERN.items():
        tile[material], per_metre[material] = PATTERNS.index(pattern), 1 / metres
    ground = np.array([material in GROUND for material in Material])
    return tile, per_metre, ground


class SurfacePoints:
    """World coordinates of each pixel's surface; h×w float32 each.

    Attributes:
        depth: metres along z, at most 1000.
        x, y: metres.
    """

    def __init__(self, depth: Float, x: Float, y: Float) -> None:
        self.depth, self.x, self.y = depth, x, y


def surface_points(ids: NDArray[np.int32], planes: Float, camera: Camera) -> SurfacePoints:
    """Intersects each pixel's ray with the plane of the shape it shows.

    Args:
        ids: h×w shape index.
        planes: shapes×3 (a, b, c).
    """
    du, dv = camera.rays()
    inverse = planes[:, 0].take(ids) * du + planes[:, 1].take(ids) * dv + planes[:, 2].take(ids)
    depth = 1 / np.clip(inverse, 1e-3, 2.0)
    scale = depth / np.float32(camera.focal_px)
    return SurfacePoints(depth, du * scale + np.float32(camera.x_m), np.float32(camera.height_m) - dv * scale)


def surface_texture(
    ids: NDArray[np.int32],
    materials: NDArray[np.int32],
    variants: Float,
    points: SurfacePoints,
    focal_px: float,
    atlas: str,
) -> Float:
    """Brightness factor per pixel, h×w, around 1 and fading where the pattern is finer than a pixel.

    Args:
        materials, variants: per shape.
        focal_px: focal length in frame pixels.
        atlas: name of the domain's set of tiles.
    """
    tile, per_metre, ground = _material_tables()
    # Some walls are of brick: decided by their variant, so a building keeps its walls in every domain.
    tiles = tile[materials]
    scales = per_metre[materials]
    brick = (materials == Material.WALL) & ((variants * 7) % 1 < 0.4)
    tiles = np.where(brick, PATTERNS.index("brick"), tiles)
    scales = np.where(brick, np.float32(0.4), scales)
    density = scales.astype(np.float32).take(ids)
    lies = ground[materials].take(ids)
    shift = (variants * 37.7).astype(np.float32).take(ids)
    across = np.where(lies, points.x, points.x + points.depth)
    up = np.where(lies, points.depth, points.y)
    column = _fraction(across * density + shift) * np.float32(TILE) + np.float32(0.5)
    row = (tiles * (TILE + 2) + TILE - 0.5).astype(np.float32).take(ids) - _fraction(up * density) * np.float32(
        TILE - 1
    )
    value = cv2.remap(_atlas(atlas), column, row, cv2.INTER_LINEAR)
    # A pixel spans depth/focal metres, and on the ground much more along z.
    slant = np.where(lies, np.minimum(points.depth * np.float32(0.6), np.float32(30)), np.float32(1))
    fine = points.depth * slant * density * np.float32(18 / focal_px)
    return 1 + (value - 1) / (1 + fine * fine)


@lru_cache(maxsize=8)
def _cloud_field(name: str) -> Float:
    rng = numpy_generator("clouds", name)
    return sum(
        (_smooth(rng, cells) * (2.0 / cells) ** 0.8 for cells in (2, 4, 8, 16, 32)), np.zeros((TILE, TILE), np.float32)
    )


def clouds(rays: tuple[Float, Float], focal_px: float, name: str, offset: tuple[float, float], cover: float) -> Float:
    """Share of cloud per ray, h×w in [0, 1], on a flat layer seen in perspective.

    Args:
        rays: du and dv of `Camera.rays`.
        cover: 0 (clear) … 1 (overcast).
    """
    du, dv = rays
    nearness = np.float32(0.16 * focal_px) / (
        np.maximum(-dv, np.float32(0.02 * focal_px)) + np.float32(0.06 * focal_px)
    )
    column = _fraction(du * nearness / np.float32(focal_px) + np.float32(offset[0])) * np.float32(TILE - 1)
    row = _fraction(nearness + np.float32(offset[1])) * np.float32(TILE - 1)
    field = cv2.remap(_cloud_field(name), column, row, cv2.INTER_LINEAR)
    return np.clip((field + np.float32((cover - 0.5) * 4)) * np.float32(0.6), 0, 1).astype(np.float32)


def _fraction(value: Float) -> Float:
    """The fractional part; several times as fast as `value % 1`."""
    return value - np.floor(value)

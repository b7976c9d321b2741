"""The look of a scene in a domain: the same drawing, lit, hazed and photographed in the domain's own way.

Light is added in linear space and encoded with a square root.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from mgcda_dist.demo_scenes.camera import SUPER, Float
from mgcda_dist.demo_scenes.canvas import Canvas
from mgcda_dist.demo_scenes.domains import Domain, Range, domain_named
from mgcda_dist.demo_scenes.materials import GROUND, Material
from mgcda_dist.demo_scenes.palettes import albedo
from mgcda_dist.demo_scenes.scene import Scene
from mgcda_dist.demo_scenes.textures import SurfacePoints, clouds, surface_points, surface_texture
from mgcda_dist.method.randomness import numpy_generator

__all__ = ["render"]


@dataclass
class _Shot:
    """The state of one rendering."""

    scene: Scene
    domain: Domain
    rng: np.random.Generator
    ids: NDArray[np.int32] = field(init=False)
    materials: NDArray[np.int32] = field(init=False)
    variants: Float = field(init=False)
    points: SurfacePoints = field(init=False)

    def __post_init__(self) -> None:
        canvas = self.scene.canvas
        self.ids = np.ascontiguousarray(self.scene.shape_ids)
        self.materials = np.asarray(canvas.materials, np.int32)
        self.variants = np.asarray(canvas.variants, np.float32)
        self.points = surface_points(self.ids, np.asarray(canvas.planes, np.float32), canvas.camera)

    def draw(self, span: Range) -> np.float32:
        """A number from the range."""
        return np.float32(self.rng.uniform(*span))

    def of_material(self, *wanted: Material) -> NDArray[np.bool_]:
        """h×w: pixels of these materials."""
        return np.isin(self.materials, wanted).take(self.ids)

    @property
    def rows(self) -> int:
        """Frame height, pixels."""
        return self.ids.shape[0]


def render(scene: Scene, domain: str, seed: int, index: int) -> NDArray[np.uint8]:
    """Renders a scene in the style of a domain: h×w×3 uint8, RGB.

    Args:
        domain: a name of `DOMAINS`.
        seed, index: name the frame's own light, weather and noise.

    Raises:
        ConfigError: there is no such domain.
    """
    shot = _Shot(scene, domain_named(domain), numpy_generator(seed, index, "synthetic appearance", domain))
    light, sky = _illuminate(shot)
    return _camera(shot, _in_air(shot, light, sky))


def _average(canvas: Canvas, table: NDArray[np.uint8], sprites: NDArray[np.uint8] | None) -> Float:
    """Looks up RGB0 (shapes×4) per canvas pixel and averages down to the frame: h×w×4 float in [0, 1]."""
    packed = np.ascontiguousarray(table).view(np.uint32)[:, 0].take(canvas.ids)
    full = packed.view(np.uint8).reshape(*canvas.ids.shape, 4)
    if sprites is not None and canvas.sprite_ids:
        mask = np.isin(canvas.ids, canvas.sprite_ids)
        full[mask, :3] = sprites[mask]
    height, width = canvas.ids.shape
    small = cv2.resize(full, (width // SUPER, height // SUPER), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) * np.float32(1 / 255)


def _illuminate(shot: _Shot) -> tuple[Float, Float]:
    """Linear light of surfaces under sky and sun, h×w×3 (sky still black), and the share of sky, h×w."""
    canvas, domain = shot.scene.canvas, shot.domain
    ambient = np.float32(shot.draw(domain.ambient)) * np.array(domain.ambient_colour, np.float32)
    sun = np.float32(shot.draw(domain.sun)) * np.array(domain.sun_colour, np.float32)
    tones = np.asarray(canvas.tones, np.float32)
    lights = np.asarray(canvas.lights, np.float32)
    reflectance = albedo(domain.palette, shot.materials, shot.variants) * (tones**2)[:, None]
    # Brightness is divided out before packing to 8 bits and multiplied back, so that dark worlds keep their steps.
    peak = float((ambient + sun).max())
    level = (ambient + sun * lights[:, None]) / peak
    table = np.zeros((len(tones), 4), np.uint8)
    table[:, :3] = np.rint(np.sqrt(np.clip(reflectance * level, 0, 1)) * 255)
    table[:, 3] = np.where(shot.materials == Material.SKY, 255, 0)
    sprites = None
    if canvas.sprites is not None:
        shade = np.sqrt((ambient + 0.6 * sun) / peak)
        sprites = np.minimum(canvas.sprites * shade, 255).astype(np.uint8)
    encoded = _average(canvas, table, sprites)
    light = encoded[..., :3] ** 2 * np.float32(peak)
    light *= _surface_shade(shot, ambient, sun)
    return light, encoded[..., 3]


def _surface_shade(shot: _Shot, ambient: Float, sun: Float) -> Float:
    """Factors per pixel, h×w×3: textures, shadows on the ground, darkness at the foot of walls."""
    canvas, domain, points = shot.scene.canvas, shot.domain, shot.points
    strength = shot.draw(domain.texture)
    factor = np.ones(shot.ids.shape, np.float32)
    if strength > 0:
        focal_px = canvas.camera.focal_px / SUPER
        texture = surface_texture(shot.ids, shot.materials, shot.variants, points, focal_px, domain.atlas)
        factor = np.maximum(1 + (texture - 1) * strength, np.float32(0.1))
    ground = shot.of_material(*GROUND)
    walls = shot.of_material(Material.WALL, Material.TRIM, Material.SHOP, Material.DOOR, Material.FENCE, Material.TRUNK)
    factor *= np.where(walls, np.float32(0.72) + np.float32(0.28) * np.clip(points.y / 2.5, 0, 1), np.float32(1))
    contact = cv2.GaussianBlur(canvas.contact, (0, 0), 0.008 * shot.rows).astype(np.float32) * np.float32(1 / 255)
    factor *= 1 - np.float32(0.62) * contact * ground
    shadow = cv2.GaussianBlur(canvas.cast, (0, 0), max(0.4, domain.shadow_blur * shot.rows)).astype(np.float32)
    shadow *= ground * np.float32(1 / 255)
    up = np.float32(canvas.sun.direction[1])
    dark = ambient / (ambient + sun * up)  # what is left where the sun does not reach
    return factor[..., None] * (1 - shadow[..., None] * (1 - dark))


def _in_air(shot: _Shot, light: Float, sky: Float) -> Float:
    """Adds the sky and fog."""
    domain = shot.domain
    foot = int(np.flatnonzero(sky.any(axis=1)).max(initial=0)) + 1
    light[:foot] += sky[:foot, :, None] * _sky(shot, foot)
    density = shot.draw(domain.fog)
    veil = np.array(domain.horizon, np.float32) * np.float32(0.9)
    clear = np.exp(-density * np.minimum(shot.points.depth, 400))
    clear = clear + (1 - clear) * sky * np.float32(0.6)
    shot.rng.random()  # Unused: without it all later draws, and so the pictures of every seed, would change.
    return light * clear[..., None] + veil * (1 - clear)[..., None]


def _sky(shot: _Shot, rows: int) -> Float:
    """Colours of the sky in the upper `rows`: a gradient, clouds, and the sun's glow when it is ahead."""
    domain, camera = shot.domain, shot.scene.canvas.camera
    du, dv = (ray[:rows] for ray in camera.rays())
    height = np.sqrt(np.clip(-dv / np.float32(0.7 * camera.focal_px), 0, 1))
    zenith, horizon = np.array(domain.zenith, np.float32), np.array(domain.horizon, np.float32)
    colour = horizon + (zenith - horizon) * height[..., None]
    cover = float(shot.draw(domain.cover))
    offset = (float(shot.rng.random()), float(shot.rng.random()))
    share = clouds((du, dv), camera.focal_px, domain.atlas, offset, cover)[..., None]
    white = np.float32(1.25) * horizon.mean() * np.float32(0.5) + np.float32(0.6) * horizon
    colour = colour + (white * (1 - 0.25 * share) - colour) * share * np.float32(0.85)
    x, y, z = shot.scene.canvas.sun.direction
    if z > 0.2:
        distance = ((du / camera.focal_px - x / z) ** 2 + (-dv / camera.focal_px - y / z) ** 2) * np.float32(4)
        glow = np.exp(-distance) * np.float32(0.35 * (1 - 0.7 * cover) * min(1.0, domain.sun[1]))
        colour = colour + glow[..., None] * np.array(domain.sun_colour, np.float32)
    return colour.astype(np.float32)


@lru_cache(maxsize=2)
def _noise_field(rows: int, columns: int) -> Float:
    return numpy_generator("sensor noise").standard_normal((2 * rows, 2 * columns, 3), np.float32)


def _camera(shot: _Shot, light: Float) -> NDArray[np.uint8]:
    """Lens, sensor and processing: linear light to 8-bit RGB."""
    domain, rng = shot.domain, shot.rng
    rows, columns = light.shape[:2]
    gains = np.array([shot.draw(domain.red), 1.0, shot.draw(domain.blue)], np.float32) * shot.draw(domain.exposure)
    if domain.metering > 0:
        gains = gains * np.float32((0.3 / max(float(light.mean()), 1e-3)) ** domain.metering)
    vignette = shot.draw(domain.vignette)
    x = np.linspace(-1, 1, columns, dtype=np.float32)
    y = np.linspace(-1, 1, rows, dtype=np.float32)[:, None]
    light = light * (gains * (1 - vignette * np.float32(0.5) * (x * x + y * y))[..., None])
    sigma = float(shot.draw(domain.blur)) * rows / 256
    if sigma > 0.2:
        light = np.asarray(cv2.GaussianBlur(light, (0, 0), sigma), np.float32)
    shot_noise, read_noise = shot.draw(domain.shot), shot.draw(domain.read)
    if read_noise > 0:
        top, left = int(rng.integers(rows)), int(rng.integers(columns))
        noise = _noise_field(rows, columns)[top : top + rows, left : left + columns]
        light += noise * cv2.sqrt(light * shot_noise + read_noise * read_noise)
    np.maximum(light, 0, out=light)
    # Highlights roll off instead of clipping.
    picture: Float = np.sqrt(light / (1 + np.maximum(light - np.float32(0.55), 0) * np.float32(0.55)))
    # Contrast, saturation and lift are affine: one colour matrix.
    lift, contrast, saturation = shot.draw(domain.lift), shot.draw(domain.contrast), shot.draw(domain.saturation)
    grey = np.tile(np.array([[0.299, 0.587, 0.114]]), (3, 1))
    mix = (np.eye(3) * saturation + grey * (1 - saturation)) * contrast * (1 - lift)
    offset = 0.5 * (1 - contrast) * (1 - lift) + lift
    picture = np.asarray(cv2.transform(picture, np.column_stack([mix, np.full(3, offset)])), np.float32)
    amount = float(shot.draw(domain.sharpen))
    if amount > 0:
        soft = cv2.GaussianBlur(picture, (0, 0), 1.2)
        picture = np.asarray(cv2.addWeighted(picture, 1 + amount, soft, -amount, 0), np.float32)
    image = np.asarray(cv2.convertScaleAbs(np.maximum(picture, 0), alpha=255), np.uint8)
    if domain.jpeg is not None:
        quality = int(shot.draw(domain.jpeg))
        _, code = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        image = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR_RGB), np.uint8)
    return image

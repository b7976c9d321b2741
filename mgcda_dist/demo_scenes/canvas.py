"""A canvas of shape ids: a scene is drawn once, and every domain colours the same drawing its own way.

The canvas holds one integer per pixel, the index of the shape seen there; a shape carries its label, its material, how
the sun meets it and the plane it lies in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from mgcda_dist.demo_scenes.camera import NEAR_M, SUPER, Camera, Float, Sun
from mgcda_dist.demo_scenes.materials import GROUND, Label, Material

__all__ = ["Canvas", "Face", "Solid"]


@dataclass(frozen=True)
class Face:
    """A flat polygon of a solid.

    Attributes:
        points: k×3, metres, clockwise when seen from outside.
        tone: albedo factor.
        detail: drawn on top of the shell (windows, lamps), in the order given.
    """

    points: Float
    material: Material
    tone: float = 1.0
    detail: bool = False


class Solid:
    """A convex body made of faces, prepared for drawing: the shell first, then the details on it."""

    def __init__(self, faces: Sequence[Face]) -> None:
        self.faces = [face for face in faces if not face.detail] + [face for face in faces if face.detail]
        self.shell = sum(not face.detail for face in faces)
        self.points = np.concatenate([face.points for face in self.faces]).astype(np.float32)
        self.starts = np.concatenate([[0], np.cumsum([len(face.points) for face in self.faces])])
        normals = [np.cross(f.points[1] - f.points[0], f.points[2] - f.points[1]) for f in self.faces]
        self.normals = np.array([normal / (np.linalg.norm(normal) or 1.0) for normal in normals], np.float32)


@dataclass
class Canvas:
    """Shape ids per pixel, and the tables that say what each shape is.

    Attributes:
        ids: H×W int32 shape index; 0 is the sky.
        cast, contact: H×W uint8 shadow masks on the ground: of the sun, and of the sky's light under things.
        sprites: H×W×3 uint8 RGB of pasted pictures, where `sprite_ids` are seen.
    """

    camera: Camera
    sun: Sun
    ids: NDArray[np.int32] = field(init=False)
    cast: NDArray[np.uint8] = field(init=False)
    contact: NDArray[np.uint8] = field(init=False)
    sprites: NDArray[np.uint8] | None = field(init=False, default=None)
    sprite_ids: list[int] = field(init=False, default_factory=list)
    labels: list[int] = field(init=False, default_factory=list)
    materials: list[int] = field(init=False, default_factory=list)
    variants: list[float] = field(init=False, default_factory=list)
    tones: list[float] = field(init=False, default_factory=list)
    lights: list[float] = field(init=False, default_factory=list)
    planes: list[tuple[float, float, float]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        size = self.camera.size_px
        self.ids = np.zeros(size, np.int32)
        self.cast = np.zeros((size[0] // SUPER, size[1] // SUPER), np.uint8)
        self.contact = np.zeros_like(self.cast)
        self.shape(Label.SKY, Material.SKY)

    def shape(
        self, label: Label, material: Material, variant: float = 0.0, *, tone: float = 1.0, light: float | None = None,
        plane: tuple[float, float, float] | None = None,
    ) -> int:  # fmt: skip
        """Registers a shape; returns its id.

        Args:
            variant: in [0, 1); which of the palette's colours of that material.
            tone: albedo factor.
            light: cosine towards the sun; None: half lit, or the ground's for ground materials.
            plane: (a, b, c) with 1/depth = a·du + b·dv + c; None: the ground for ground materials, else far away.
        """
        if material in GROUND:
            plane = plane or (0.0, 1.0 / (self.camera.focal_px * self.camera.height_m), 0.0)
            light = self.sun.direction[1] if light is None else light
        self.labels.append(int(label))
        self.materials.append(int(material))
        self.variants.append(variant)
        self.tones.append(tone)
        self.lights.append(0.5 if light is None else light)
        self.planes.append(plane or (0.0, 0.0, 1e-3))
        return len(self.labels) - 1

    @staticmethod
    def upright(z: float) -> tuple[float, float, float]:
        """Plane of a thing that faces the camera at depth `z`."""
        return (0.0, 0.0, 1.0 / max(z, NEAR_M))

    def wall(self, start: tuple[float, float], end: tuple[float, float]) -> tuple[float, float, float]:
        """Plane of a vertical wall through two ground points (x, z)."""
        normal_x, normal_z = end[1] - start[1], start[0] - end[0]
        offset = normal_x * (start[0] - self.camera.x_m) + normal_z * start[1]
        if abs(offset) < 1e-3:  # seen edge on
            return self.upright((start[1] + end[1]) / 2)
        return (normal_x / (self.camera.focal_px * offset), 0.0, normal_z / offset)

    def fill(self, shape: int, polygons: Sequence[Float] | Float) -> None:
        """Fills polygons (k×2 pixels each, or n×k×2) with a shape id; where polygons of one call overlap, even-odd."""
        if isinstance(polygons, np.ndarray):
            outlines = list(_fixed(np.asarray(polygons, np.float32)))
        else:
            outlines = [_fixed(np.asarray(polygon, np.float32)) for polygon in polygons]
        cv2.fillPoly(self.ids, outlines, shape, cv2.LINE_8, 4)

    def convex(self, shape: int, polygon: Float) -> None:
        """Fills one convex polygon (k×2 pixels)."""
        cv2.fillConvexPoly(self.ids, _fixed(polygon), shape, cv2.LINE_8, 4)

    def discs(self, shape: int, centres: Float, radii_px: Float | float) -> None:
        """Fills discs (n×2 centres, n radii)."""
        fixed = _fixed(centres).reshape(-1, 2).tolist()
        sizes = np.broadcast_to(np.maximum(np.rint(np.asarray(radii_px) * 16), 1), (len(fixed),)).astype(int).tolist()
        for centre, size in zip(fixed, sizes, strict=True):
            cv2.circle(self.ids, centre, size, shape, -1, cv2.LINE_8, 4)

    def solid(self, solid: Solid, label: Label, variant: float, position: tuple[float, float], yaw: float) -> None:
        """Draws a convex solid and its details, hidden faces left out.

        Args:
            position: x, z of its origin.
            yaw: heading, radians; 0 looks away from the camera, along z.
        """
        cos, sin = float(np.cos(yaw)), float(np.sin(yaw))
        local = solid.points
        x = position[0] + local[:, 0] * cos + local[:, 2] * sin
        z = position[1] - local[:, 0] * sin + local[:, 2] * cos
        pixels = self.camera.project(x, local[:, 1], z)
        sun_x, sun_y, sun_z = self.sun.direction
        towards = np.array([sun_x * cos - sun_z * sin, sun_y, sun_x * sin + sun_z * cos], np.float32)
        lights = np.maximum(solid.normals @ towards, 0).tolist()
        outlines = _fixed(pixels)
        depths = np.add.reduceat(z, solid.starts[:-1]) / np.diff(solid.starts)
        order = sorted(range(solid.shell), key=lambda face: -float(depths[face]))
        plane, starts = self.upright(position[1]), solid.starts.tolist()
        for index in (*order, *range(solid.shell, len(solid.faces))):
            part = slice(starts[index], starts[index + 1])
            if cv2.contourArea(pixels[part], True) <= 0:  # seen from behind
                continue
            face = solid.faces[index]
            shape = self.shape(label, face.material, variant, tone=face.tone, light=lights[index], plane=plane)
            cv2.fillPoly(self.ids, [outlines[part]], shape, cv2.LINE_8, 4)

    def shade(self, polygon: Float, *, contact: bool = False, strength: float = 1.0) -> None:
        """Casts a shadow over the convex hull of a ground polygon (k×2 canvas pixels)."""
        mask = self.contact if contact else self.cast
        hull = cv2.convexHull((polygon / SUPER).astype(np.float32))[:, 0]
        cv2.fillConvexPoly(mask, _fixed(np.asarray(hull, np.float32)), round(255 * strength), cv2.LINE_AA, 4)

    def shade_sprite(self, picture: NDArray[np.uint8], corners: Float) -> None:
        """Casts the outline of an RGBA picture on the ground.

        Args:
            corners: 4×2 canvas pixels where its top left, top right, bottom right and bottom left corner go.
        """
        height, width = picture.shape[:2]
        source = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
        matrix = cv2.getPerspectiveTransform(source, (corners / SUPER).astype(np.float32))
        alpha = np.ascontiguousarray(picture[..., 3])
        cast = cv2.warpPerspective(alpha, matrix, self.cast.shape[::-1], flags=cv2.INTER_LINEAR)
        np.maximum(self.cast, np.asarray(cast, np.uint8), out=self.cast)

    def sprite(self, shape: int, picture: NDArray[np.uint8], corners: Float) -> NDArray[np.bool_]:
        """Draws an RGBA picture (h×w×4) as a shape; returns the H×W mask of the pixels it covers.

        Args:
            corners: 3×2 pixels where its top left, top right and bottom left corner go.
        """
        height, width = picture.shape[:2]
        matrix = cv2.getAffineTransform(np.array([[0, 0], [width, 0], [0, height]], np.float32), corners)
        rows, columns = self.ids.shape
        # Smooth before shrinking, or fine textures turn to noise.
        shrink = width / max(1.0, float(np.linalg.norm(corners[1] - corners[0])))
        if shrink > 2:
            picture = cv2.GaussianBlur(picture, (0, 0), 0.35 * shrink).astype(np.uint8)
        warped = cv2.warpAffine(picture, matrix, (columns, rows), flags=cv2.INTER_LINEAR)
        mask = warped[..., 3] > 127
        if self.sprites is None:
            self.sprites = np.zeros((rows, columns, 3), np.uint8)
        self.sprites[mask] = warped[mask][:, :3]
        self.ids[mask] = shape
        self.sprite_ids.append(shape)
        return mask


def _fixed(points: Float) -> NDArray[np.int32]:
    """Pixels to the 4-bit fixed point numbers that cv2 draws with, bounded so that nothing overflows."""
    return np.rint(np.minimum(np.maximum(points, -8192.0), 16384.0) * 16).astype(np.int32)

"""Buildings along the road: town houses in rows and cottages with gabled roofs, with windows, shops and doors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mgcda_dist.demo_scenes.camera import SUPER, Float
from mgcda_dist.demo_scenes.canvas import Canvas
from mgcda_dist.demo_scenes.ground import Road
from mgcda_dist.demo_scenes.materials import Label, Material

__all__ = ["Plot", "draw_building", "draw_fence"]


@dataclass(frozen=True)
class Plot:
    """Position and size of a building.

    Attributes:
        side: -1 left of the road, +1 right.
        s: offset of its front from the road's centre line, metres.
        z: depths of its near and far end.
        depth_m: how far it reaches away from the road.
        gabled: a pitched roof with its ridge along the road; else flat.
        shop: glass on the ground floor.
    """

    side: int
    s: float
    z: tuple[float, float]
    floors: int
    depth_m: float
    gabled: bool
    shop: bool


class _Wall:
    """Coordinates on a vertical wall: t metres along it, y metres up."""

    def __init__(self, canvas: Canvas, start: tuple[float, float], end: tuple[float, float], normal: Float) -> None:
        self.canvas, self.start = canvas, start
        self.length_m = float(np.hypot(end[0] - start[0], end[1] - start[1]))
        self.step = ((end[0] - start[0]) / self.length_m, (end[1] - start[1]) / self.length_m)
        self.plane = canvas.wall(start, end)
        self.light = canvas.sun.light(normal)

    def points(self, t: ArrayLike, y: ArrayLike) -> Float:
        """Pixels of wall points; shapes broadcast."""
        t = np.asarray(t, np.float32)
        return self.canvas.camera.project(self.start[0] + t * self.step[0], y, self.start[1] + t * self.step[1])

    def boxes(self, t: ArrayLike, y: ArrayLike, width_m: float, height_m: float) -> Float:
        """Quads (n×4×2 pixels) with the lower left corners at all pairs of `t` and `y`."""
        corner_t = np.asarray(t, np.float32)[:, None, None] + np.array([0, width_m, width_m, 0], np.float32)
        corner_y = np.asarray(y, np.float32)[:, None] + np.array([0, 0, height_m, height_m], np.float32)
        return self.points(corner_t, corner_y).reshape(-1, 4, 2)

    def draw(self, material: Material, variant: float, tone: float, polygons: Float | Sequence[Float]) -> None:
        """Fills polygons of this wall."""
        shape = self.canvas.shape(
            Label.BUILDING, material, variant, tone=tone, light=self.light, plane=self.plane
        )  # fmt: skip
        self.canvas.fill(shape, polygons)


def draw_building(canvas: Canvas, road: Road, plot: Plot, rng: np.random.Generator) -> None:
    """Draws one building: its near end, its front, its roof, and the shadow it casts."""
    near, far = plot.z
    start = (float(road.x(plot.side * plot.s, near)), near)
    end = (float(road.x(plot.side * plot.s, far)), far)
    back = (start[0] + plot.side * plot.depth_m, near)
    storey = rng.uniform(2.7, 3.5)
    height = storey * plot.floors + 0.5
    wall, trim, roof = rng.random(), rng.random(), rng.random()
    front = _Wall(canvas, start, end, np.array([-plot.side, 0, road.heading * plot.side]))
    gable = _Wall(canvas, start, back, np.array([0, 0, -1.0]))
    ridge = height + (rng.uniform(0.35, 0.55) * plot.depth_m if plot.gabled else 0.0)
    profile_t = np.array([0, gable.length_m, gable.length_m, gable.length_m / 2, 0])
    gable.draw(Material.WALL, wall, 0.97, [gable.points(profile_t, np.array([0, 0, height, ridge, height]))])
    if plot.gabled:
        _draw_roof(canvas, front, plot, (height, ridge), roof)
    front.draw(Material.WALL, wall, 1.0, front.boxes([0], [0], front.length_m, height))
    detailed = near < 55 and canvas.ids.shape[0] >= 160 * SUPER
    style = (storey, rng.uniform(0.9, 1.5), rng.uniform(1.3, 1.9), rng.uniform(1.0, 2.2))
    for face, ground in ((front, plot.shop), (gable, False)):
        if face is front or plot.gabled or rng.random() < 0.5:
            _draw_windows(face, plot.floors, style, (trim, detailed), ground, rng)
    if plot.shop:
        _draw_shop(front, storey, rng)
    elif detailed and front.length_m > 6:
        door = rng.uniform(0.2, 0.8) * (front.length_m - 2)
        front.draw(Material.TRIM, trim, 0.9, front.boxes([door - 0.15], [0], 1.4, 2.5))
        front.draw(Material.DOOR, rng.random(), 1.0, front.boxes([door], [0], 1.1, 2.25))
    front.draw(Material.TRIM, trim, 0.8, front.boxes([0], [0], front.length_m, 0.45))
    if not plot.gabled and detailed:
        for face in (front, gable):
            face.draw(Material.TRIM, trim, 1.05, face.boxes([0], [height - 0.45], face.length_m, 0.45))
            face.draw(Material.TRIM, trim, 0.7, face.boxes([0], [height - 0.6], face.length_m, 0.15))
    if rng.random() < 0.4 and plot.floors > 2 and detailed:
        levels = storey * np.arange(1, plot.floors) + 0.1
        front.draw(Material.TRIM, trim, 0.95, front.boxes([0], levels, front.length_m, 0.22))
    _cast(canvas, start, end, back, height)


def _draw_roof(canvas: Canvas, front: _Wall, plot: Plot, levels: tuple[float, float], variant: float) -> None:
    """The slope that faces the road, where it can be seen from below."""
    camera, (height, ridge) = canvas.camera, levels
    inward, over = plot.side * plot.depth_m / 2, plot.side * 0.5
    (x0, z0), t = front.start, front.length_m
    x1, z1 = x0 + front.step[0] * t, z0 + front.step[1] * t
    x = np.array([x0 - over, x1 - over, x1 + inward, x0 + inward])
    slope = camera.project(
        x, np.array([height - 0.2, height - 0.2, ridge, ridge]), np.array([z0 - 0.3, z1, z1, z0 - 0.3])
    )
    if slope[2:, 1].mean() > slope[:2, 1].mean():  # the ridge hides behind the eaves
        return
    normal = np.array([-plot.side * (ridge - height), plot.depth_m / 2, 0])
    shape = canvas.shape(Label.BUILDING, Material.ROOF, variant, light=canvas.sun.light(normal), plane=front.plane)
    canvas.fill(shape, [slope])


def _draw_windows(
    face: _Wall, floors: int, style: tuple[float, float, float, float], look: tuple[float, bool], ground: bool,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """A grid of windows with frames and sills; some are lit, some have their blinds down."""
    storey, width, height, gap = style
    trim, detailed = look
    num = int((face.length_m - gap) / (width + gap))
    if num < 1:
        return
    gap = (face.length_m - num * width) / (num + 1)
    t = gap + np.arange(num) * (width + gap)
    y = storey * np.arange(1 if ground else 0, floors) + 0.9
    if not len(y):
        return
    if detailed:
        face.draw(Material.TRIM, trim, 1.0, face.boxes(t - 0.1, y - 0.1, width + 0.2, height + 0.2))
        face.draw(Material.TRIM, trim, 0.72, face.boxes(t - 0.15, y - 0.22, width + 0.3, 0.12))
    glass = face.boxes(t, y, width, height)
    lit = rng.random(len(glass))
    for low, high, variant, tone in ((0, 0.55, 0.1, 1.0), (0.55, 0.8, 0.4, 1.25), (0.8, 1.01, 0.8, 1.0)):
        chosen = glass[(lit >= low) & (lit < high)]
        if len(chosen):
            face.draw(Material.GLASS, variant, tone, chosen)
    if detailed:
        face.draw(Material.TRIM, trim, 0.95, face.boxes(t + width / 2 - 0.04, y, 0.08, height))
        if rng.random() < 0.4:
            shut = face.boxes(t, y + height * 0.55, width, height * 0.45)
            down = shut[rng.random(len(shut)) < 0.3]
            if len(down):
                face.draw(Material.TRIM, trim, 0.85, down)


def _draw_shop(front: _Wall, storey: float, rng: np.random.Generator) -> None:
    """Shop windows, their fascia and awnings on the ground floor."""
    num = max(1, int(front.length_m / rng.uniform(3.5, 5.5)))
    width = front.length_m / num
    t = np.arange(num) * width
    front.draw(Material.TRIM, rng.random(), 0.6, front.boxes([0], [0], front.length_m, storey))
    front.draw(Material.SHOP, rng.random(), 1.0, front.boxes(t + 0.25, [0.5], width - 0.5, storey - 1.2))
    front.draw(Material.DOOR, rng.random(), 0.8, front.boxes(t + 0.3, [0.05], 0.9, storey - 0.9))
    front.draw(Material.AWNING, rng.random(), 0.9, front.boxes([0], [storey - 0.65], front.length_m, 0.6))
    for place in t:
        if rng.random() < 0.45:
            front.draw(Material.AWNING, rng.random(), 1.1, front.boxes([place + 0.1], [storey - 1.1], width - 0.2, 0.7))


def _cast(
    canvas: Canvas, start: tuple[float, float], end: tuple[float, float], back: tuple[float, float], height: float
) -> None:
    """The building's shadow on the ground, and the darkness at its foot."""
    reach_x, reach_z = canvas.sun.reach(height)
    for first, second in ((start, end), (start, back)):
        x = np.array([first[0], second[0], second[0] + reach_x, first[0] + reach_x])
        z = np.array([first[1], second[1], second[1] + reach_z, first[1] + reach_z])
        canvas.shade(canvas.camera.project(x, 0.0, np.maximum(z, 1.0)))
    side = -0.8 if start[0] > 0 else 0.8
    foot = canvas.camera.project(
        np.array([start[0], end[0], end[0] + side, start[0] + side]),
        0.0,
        np.array([start[1], end[1], end[1], start[1]]),
    )
    canvas.shade(foot, contact=True, strength=0.6)


def draw_fence(
    canvas: Canvas, road: Road, s: float, z: tuple[float, float], hedge: bool, rng: np.random.Generator
) -> None:
    """A hedge (vegetation) or a low wall or fence (building) along the road at offset `s`."""
    height = rng.uniform(0.8, 1.6)
    depths = np.linspace(max(z[0], 1.5), max(z[1], 2.5), 16).astype(np.float32)
    rough = rng.normal(0, 0.06 if hedge else 0.0, len(depths))
    x = road.x(s, depths)
    top = canvas.camera.project(x, height + rough, depths)
    foot = canvas.camera.project(x, 0.0, depths)
    plane = canvas.wall((float(x[0]), float(depths[0])), (float(x[-1]), float(depths[-1])))
    light = canvas.sun.light([-np.sign(s), 0.4, 0])
    label, material = (Label.VEGETATION, Material.HEDGE) if hedge else (Label.BUILDING, Material.FENCE)
    variant = rng.random()
    shape = canvas.shape(label, material, variant, light=light, plane=plane)
    canvas.fill(shape, [np.concatenate([top, foot[::-1]])])
    lid = canvas.camera.project(x, height + rough - (0.25 if hedge else 0.12), depths)
    shape = canvas.shape(label, material, variant, tone=1.25, light=canvas.sun.direction[1], plane=plane)
    canvas.fill(shape, [np.concatenate([top, lid[::-1]])])
    reach_x, reach_z = canvas.sun.reach(height)
    far = canvas.camera.project(x + reach_x, 0.0, np.maximum(depths + reach_z, 1.0))
    for part in range(0, len(depths) - 4, 4):
        canvas.shade(np.concatenate([foot[part : part + 5], far[part : part + 5]]))

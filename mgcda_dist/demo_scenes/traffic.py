"""Vehicles as small solids (hatchback to bus) and persons as jointed figures, each with its shadow."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from mgcda_dist.demo_scenes.camera import Float
from mgcda_dist.demo_scenes.canvas import Canvas, Face, Solid
from mgcda_dist.demo_scenes.materials import Label, Material

__all__ = ["VEHICLES", "VehicleModel", "draw_cyclist", "draw_person", "draw_vehicle"]

BODY, GLASS, PLASTIC = Material.BODY, Material.CAR_GLASS, Material.PLASTIC


@dataclass(frozen=True)
class VehicleModel:
    """Shape of a vehicle, metres.

    Attributes:
        profile: from the rear bumper over the roof to the front bumper: (share of the length from the rear, height,
            share of the width, material of the panel from here to the next point).
        windows: side windows, each a polygon of (share of the length, height), clockwise seen from the right.
        wheels: shares of the length where the axles are.
        tail, head: height of the rear and front lamps.
    """

    length_m: float
    width_m: float
    profile: tuple[tuple[float, float, float, Material], ...]
    windows: tuple[tuple[tuple[float, float], ...], ...]
    wheels: tuple[float, ...]
    wheel_m: float
    tail: float
    head: float

    @property
    def height_m(self) -> float:
        """Height of the roof."""
        return max(point[1] for point in self.profile)


VEHICLES: dict[str, VehicleModel] = {
    "sedan": VehicleModel(
        4.6, 1.82,
        ((0, 0.3, 0.93, PLASTIC), (0, 0.48, 1, BODY), (0.004, 0.8, 1, BODY), (0.02, 0.98, 0.95, BODY),
         (0.13, 1.03, 0.9, GLASS),
         (0.27, 1.41, 0.74, BODY), (0.52, 1.45, 0.74, GLASS), (0.70, 1.0, 0.9, BODY), (0.95, 0.84, 0.96, BODY),
         (1, 0.62, 1, PLASTIC), (1, 0.3, 0.93, PLASTIC)),
        (((0.20, 1.02), (0.29, 1.34), (0.405, 1.38), (0.405, 1.0)), ((0.42, 1.0), (0.42, 1.38), (0.52, 1.36),
         (0.645, 0.98))),
        (0.19, 0.81), 0.32, 0.78, 0.66,
    ),
    "hatchback": VehicleModel(
        4.0, 1.76,
        ((0, 0.32, 0.93, PLASTIC), (0, 0.55, 1, BODY), (0.01, 0.95, 0.97, GLASS), (0.09, 1.42, 0.76, BODY),
         (0.48, 1.5, 0.76, GLASS),
         (0.72, 1.02, 0.9, BODY), (0.95, 0.86, 0.96, BODY), (1, 0.62, 1, PLASTIC), (1, 0.3, 0.93, PLASTIC)),
        (((0.09, 1.02), (0.16, 1.36), (0.36, 1.42), (0.36, 1.0)), ((0.38, 1.0), (0.38, 1.42), (0.48, 1.41),
         (0.66, 0.99))),
        (0.18, 0.82), 0.31, 0.85, 0.68,
    ),
    "suv": VehicleModel(
        4.6, 1.92,
        ((0, 0.4, 0.94, PLASTIC), (0, 0.7, 1, BODY), (0.01, 1.12, 0.97, GLASS), (0.05, 1.62, 0.8, BODY),
         (0.5, 1.72, 0.8, GLASS),
         (0.68, 1.18, 0.92, BODY), (0.96, 1.05, 0.97, BODY), (1, 0.75, 1, PLASTIC), (1, 0.38, 0.94, PLASTIC)),
        (((0.06, 1.18), (0.1, 1.56), (0.24, 1.6), (0.24, 1.16)), ((0.26, 1.16), (0.26, 1.6), (0.42, 1.63),
         (0.42, 1.15)),
         ((0.44, 1.15), (0.44, 1.63), (0.51, 1.62), (0.63, 1.15))),
        (0.19, 0.81), 0.38, 0.98, 0.86,
    ),
    "van": VehicleModel(
        5.4, 2.0,
        ((0, 0.42, 0.95, PLASTIC), (0, 0.6, 1, BODY), (0.01, 1.25, 0.98, GLASS), (0.015, 1.8, 0.95, BODY),
         (0.02, 2.1, 0.9, BODY),
         (0.68, 2.15, 0.9, GLASS), (0.86, 1.25, 0.95, BODY), (0.98, 1.0, 0.97, BODY), (1, 0.7, 1, PLASTIC),
         (1, 0.36, 0.95, PLASTIC)),
        (((0.62, 1.25), (0.62, 1.85), (0.71, 1.85), (0.82, 1.25)),),
        (0.18, 0.83), 0.35, 0.95, 0.8,
    ),
    "bus": VehicleModel(
        11.0, 2.5,
        ((0, 0.4, 0.97, PLASTIC), (0, 0.7, 1, BODY), (0, 1.5, 1, GLASS), (0, 2.5, 0.99, BODY),
         (0.005, 3.1, 0.95, BODY),
         (0.98, 3.1, 0.95, BODY), (0.99, 2.7, 0.98, GLASS), (1, 1.2, 1, BODY), (1, 0.7, 1, PLASTIC),
         (1, 0.36, 0.97, PLASTIC)),
        tuple(((a, 1.35), (a, 2.5), (a + 0.1, 2.5),
        (a + 0.1, 1.35)) for a in (0.04, 0.155, 0.27, 0.385, 0.5, 0.615, 0.73, 0.85)),
        (0.25, 0.78), 0.48, 1.1, 0.75,
    ),
    "truck": VehicleModel(
        8.0, 2.45,
        ((0, 0.7, 0.9, PLASTIC), (0, 0.95, 1, BODY), (0, 3.3, 1, BODY), (0.7, 3.3, 1, BODY), (0.72, 2.8, 0.95, BODY),
         (0.93, 2.75, 0.93, GLASS), (0.98, 1.7, 0.96, BODY), (1, 0.8, 0.98, PLASTIC), (1, 0.4, 0.95, PLASTIC)),
        (((0.79, 1.65), (0.79, 2.4), (0.92, 2.4), (0.95, 1.65)),),
        (0.2, 0.85), 0.48, 1.0, 0.8,
    ),
}  # fmt: skip
"""Vehicles by name."""


def _box(x: tuple[float, float], y: tuple[float, float], z: float, front: bool) -> Float:
    """An upright rectangle across the vehicle, facing its rear or its front."""
    corners = [(x[0], y[1], z), (x[1], y[1], z), (x[1], y[0], z), (x[0], y[0], z)]
    return np.array(corners[::-1] if front else corners, np.float32)


@lru_cache(maxsize=64)
def _solid(name: str, detailed: bool) -> Solid:
    """The panels of a vehicle around the middle of its footprint; x to its right, z to its front."""
    model = VEHICLES[name]
    half, length = model.width_m / 2, model.length_m
    at = [((p[0] - 0.5) * length, p[1], p[2] * half, p[3]) for p in model.profile]
    faces: list[Face] = []
    for (z0, y0, w0, material), (z1, y1, w1, _) in pairwise(at):
        corners = [(-w1, y1, z1), (w1, y1, z1), (w0, y0, z0), (-w0, y0, z0)]
        faces.append(Face(np.array(corners, np.float32), material))
    heights = np.array([p[1] for p in at])
    belt = heights.max() * 0.62
    for sign in (1, -1):
        side = np.array([(sign * w, y, z) for z, y, w, _ in at], np.float32)[::sign]
        faces.append(Face(side, BODY, 0.96))
        sill = np.array([(-0.46, 0.3), (-0.48, 0.5), (0.48, 0.5), (0.47, 0.3)]) * [length, 1]
        faces.append(Face(_beside(sill, half, sign), PLASTIC, 1.0, True))
        shoulder = np.array([(-0.47, belt - 0.07), (-0.47, belt), (0.44, belt - 0.08), (0.44, belt - 0.13)]) * [
            length,
            1,
        ]
        faces.append(Face(_beside(shoulder, half, sign), BODY, 1.12, True))
        for window in model.windows:
            outline = (np.array(window) - [0.5, 0]) * [length, 1]
            inset = np.interp(outline[:, 1], [belt, heights.max()], [0.96, 0.76 if length < 5 else 0.97])
            faces.append(Face(_beside(outline, half * inset, sign), GLASS, 0.95, True))
        faces.extend(_wheels(model, half, sign, detailed))
    rear, front = -length / 2 - 0.01, length / 2 + 0.01
    under = _box((-half * 0.9, half * 0.9), (0.12, 0.45), -length / 2 + 0.4, False)
    tyres = [_box((s * half - 0.12, s * half + 0.12), (0.0, 0.4), -length * 0.4, False) for s in (-0.84, 0.84)]
    faces = [Face(part, Material.TYRE, 0.7) for part in (under, *tyres)] + faces
    low, lamp = model.tail - 0.1, 0.34 if length < 5.2 else 0.16
    for sign in (-1, 1):
        outer, inner = sign * half * 0.97, sign * (half * 0.97 - lamp)
        span = (min(outer, inner), max(outer, inner))
        faces.append(Face(_box(span, (low, low + 0.2), rear, False), Material.TAIL_LIGHT, 1.0, True))
        faces.append(
            Face(_box(span, (model.head - 0.07, model.head + 0.1), front, True), Material.HEAD_LIGHT, 1.0, True)
        )
    if detailed:
        faces.append(Face(_box((-0.26, 0.26), (low - 0.12, low), rear, False), Material.PLATE, 1.0, True))
        faces.append(Face(_box((-0.26, 0.26), (0.42, 0.54), front, True), Material.PLATE, 1.0, True))
        faces.append(Face(_box((-half * 0.5, half * 0.5), (0.56, model.head + 0.06), front, True), PLASTIC, 0.8, True))
    return Solid(faces)


def _beside(outline: Float, offset: float | Float, sign: int) -> Float:
    """Points (z, y), clockwise seen from the right, placed on the right (+1) or left (-1) side."""
    across = np.broadcast_to(np.asarray(offset) + 0.012, (len(outline),))
    return np.column_stack([sign * across, outline[:, 1], outline[:, 0]]).astype(np.float32)[::sign]


def _wheels(model: VehicleModel, half: float, sign: int, detailed: bool) -> list[Face]:
    angle = np.linspace(0, -2 * np.pi, 14 if detailed else 8, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    faces = []
    for share in model.wheels:
        hub = np.array([(share - 0.5) * model.length_m, model.wheel_m])
        for radius, material, tone in ((1.18, PLASTIC, 0.4), (1.0, Material.TYRE, 1.0), (0.62, Material.RIM, 1.0)):
            outline = circle * model.wheel_m * radius + hub + [0, 0.03 if radius > 1.1 else 0]
            outline[:, 1] = np.maximum(outline[:, 1], 0.0 if radius < 1.1 else 0.3)
            faces.append(Face(_beside(outline, half, sign), material, tone, True))
    return faces


def draw_vehicle(
    canvas: Canvas, name: str, position: tuple[float, float], yaw: float, rng: np.random.Generator
) -> None:
    """Draws a vehicle whose footprint is centred at (x, z) and which heads along `yaw` (0: away from the camera)."""
    model = VEHICLES[name]
    half, long = model.width_m / 2, model.length_m / 2
    cos, sin = np.cos(yaw), np.sin(yaw)
    local_x = np.array([-half, half, half, -half])
    local_z = np.array([-long, -long, long, long])
    x = position[0] + local_x * cos + local_z * sin
    z = position[1] - local_x * sin + local_z * cos
    project = canvas.camera.project
    reach_x, reach_z = canvas.sun.reach(model.height_m * 0.8)
    ground = np.concatenate([project(x, 0.0, z), project(x + reach_x, 0.0, np.maximum(z + reach_z, 1.0))])
    canvas.shade(ground)
    grown = 1.12
    canvas.shade(
        project(position[0] + (x - position[0]) * grown, 0.0, position[1] + (z - position[1]) * 1.06), contact=True
    )
    canvas.solid(_solid(name, position[1] < 40), Label.VEHICLE, rng.random(), position, yaw)


def _limb(start: tuple[float, float], end: tuple[float, float], width: float, taper: float = 0.75) -> Float:
    """A rounded stroke from start to end, k×2 metres."""
    a, b = np.array(start), np.array(end)
    along = (b - a) / (np.linalg.norm(b - a) + 1e-6)
    across = np.array([-along[1], along[0]]) * width / 2
    return np.array(
        [
            a - along * width * 0.25,
            a + across,
            b + across * taper,
            b + along * width * 0.3,
            b - across * taper,
            a - across,
        ]
    )


def draw_person(
    canvas: Canvas,
    position: tuple[float, float],
    rng: np.random.Generator,
    *,
    riding: bool = False,
    lift_m: float = 0.0,
) -> None:
    """Draws a person that stands or walks at (x, z), or sits on a bicycle."""
    x, z = position
    plane = canvas.upright(z)
    height = float(np.clip(rng.normal(1.72, 0.1), 1.25, 1.95))
    unit, facing = height / 1.75, rng.choice([-1.0, 1.0])
    swing = 0.33 * np.sin(rng.uniform(0, 2 * np.pi)) if not riding else 0.25
    coat, trousers, skin, hair = rng.random(4)
    top = Material.CLOTH

    def part(material: Material, outline: Float, variant: float, tone: float = 1.0) -> None:
        shape = canvas.shape(Label.PERSON, material, variant, tone=tone, light=0.5 + 0.2 * tone, plane=plane)
        canvas.convex(shape, canvas.camera.project(x + outline[:, 0] * unit, lift_m + outline[:, 1] * unit, z))

    for sign, tone in ((-1, 0.72), (1, 1.0)):  # far leg and arm first
        step = swing * sign
        knee = (0.06 * sign + step * 0.45 + 0.05 * facing * abs(step), 0.48)
        foot = (0.07 * sign + step, 0.07 + 0.1 * max(0.0, -step * facing))
        part(Material.CLOTH, _limb((0.05 * sign, 0.9), knee, 0.2), trousers, tone * 0.8)
        part(Material.CLOTH, _limb(knee, foot, 0.15), trousers, tone * 0.75)
        part(Material.PLASTIC, _limb((foot[0] - 0.04 * facing, 0.05), (foot[0] + 0.13 * facing, 0.04), 0.1), 0.2, tone)
        if sign == -1:
            part(top, _limb((0.03 * facing - 0.16, 1.38), (-0.19 - step * 0.5, 0.85), 0.13), coat, 0.75)
            part(Material.SKIN, _limb((-0.19 - step * 0.5, 0.84), (-0.19 - step * 0.6, 0.78), 0.09), skin, 0.8)
    long = rng.random() < 0.3
    hem = 0.62 if long else 0.84
    torso = [
        (-0.17, hem),
        (-0.19, 1.05),
        (-0.23, 1.36),
        (-0.12, 1.47),
        (0.12, 1.47),
        (0.23, 1.36),
        (0.19, 1.05),
        (0.17, hem),
    ]
    part(top, np.array(torso), coat)
    part(top, np.array([(0.02, hem), (0.06, 1.4), (0.23, 1.36), (0.19, 1.05), (0.17, hem)]), coat, 0.85)
    part(top, _limb((0.17, 1.38), (0.2 + swing * 0.5, 0.85), 0.13), coat, 1.08)
    part(Material.SKIN, _limb((0.2 + swing * 0.5, 0.84), (0.2 + swing * 0.6, 0.78), 0.09), skin)
    angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    head = np.stack([0.095 * np.cos(angle) + 0.02 * facing, 1.61 + 0.125 * np.sin(angle)], axis=1)
    part(Material.SKIN, _limb((0, 1.42), (0.01 * facing, 1.52), 0.11), skin, 0.8)
    part(Material.SKIN, head, skin)
    part(Material.HAIR, head[(np.sin(angle) > -0.1)] + [-0.015 * facing, 0.02], hair)
    if rng.random() < 0.35:
        bag = np.array([(-0.3, 0.95), (-0.3, 1.35), (-0.16, 1.4), (-0.16, 0.95)]) * [facing, 1]
        part(Material.CLOTH, bag, rng.random(), 0.8)
    if not riding:
        shadow_x, shadow_z = canvas.sun.reach(height)
        width = np.array([-0.18, 0.18, 0.14, -0.14])
        far = np.array([0, 0, 1, 1])
        canvas.shade(
            canvas.camera.project(x + width + far * shadow_x, 0.0, np.maximum(z + far * shadow_z, 1.0)), strength=0.9
        )
        ring = canvas.camera.project(x + 0.35 * np.cos(angle), 0.0, z + 0.25 * np.sin(angle))
        canvas.shade(ring, contact=True, strength=0.7)


_BICYCLE = (
    ((-0.52, 0.34), (-0.1, 0.85)), ((-0.1, 0.85), (0.4, 0.85)), ((0.4, 0.9), (0.52, 0.34)), ((0.0, 0.34), (0.4, 0.8)),
    ((0.0, 0.34), (-0.14, 0.95)), ((-0.52, 0.34), (0.0, 0.34)), ((0.3, 1.02), (0.42, 0.95)),
)  # fmt: skip
"""The tubes of a bicycle, metres."""


def draw_cyclist(canvas: Canvas, position: tuple[float, float], rng: np.random.Generator) -> None:
    """Draws a bicycle (vehicle) seen from the side, and its rider (person)."""
    x, z = position
    plane, scale = canvas.upright(z), canvas.camera.project
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    tyre = canvas.shape(Label.VEHICLE, Material.TYRE, 0.0, plane=plane)
    for hub in (-0.52, 0.52):
        rings = [scale(x + hub + circle[:, 0] * r, 0.34 + circle[:, 1] * r, z) for r in (0.34, 0.27)]
        canvas.fill(tyre, rings)
    frame = canvas.shape(Label.VEHICLE, Material.BODY, rng.random(), plane=plane)
    for start, end in _BICYCLE:
        bar = _limb(start, end, 0.06, 1.0)
        canvas.convex(frame, scale(x + bar[:, 0], bar[:, 1], z))
    draw_person(canvas, (x - 0.08, z - 0.05), rng, riding=True, lift_m=0.18)
    reach_x, reach_z = canvas.sun.reach(1.4)
    wide = np.array([-0.8, 0.8, 0.5, -0.5])
    far = np.array([0, 0, 1, 1])
    canvas.shade(scale(x + wide + far * reach_x, 0.0, np.maximum(z + far * reach_z, 1.0)), strength=0.9)
    canvas.shade(scale(x + wide, 0.0, z + np.array([-0.15, -0.15, 0.15, 0.15])), contact=True, strength=0.7)

"""Trees, bushes, lamps, traffic lights and signs: what stands between the road and the buildings."""

from __future__ import annotations

from typing import Literal

import numpy as np

from mgcda_dist.demo_scenes.camera import Float
from mgcda_dist.demo_scenes.canvas import Canvas
from mgcda_dist.demo_scenes.materials import Label, Material

__all__ = ["TreeKind", "draw_lamp", "draw_sign", "draw_traffic_light", "draw_tree"]

TreeKind = Literal["broad", "poplar", "conifer", "bush"]


def draw_tree(
    canvas: Canvas, position: tuple[float, float], height_m: float, kind: TreeKind, rng: np.random.Generator
) -> None:
    """Draws a tree that stands at (x, z), and its shadow."""
    x, z = position
    plane, variant = canvas.upright(z), rng.random()
    lean = rng.normal(0, 0.02) * height_m
    if kind != "bush":
        radius, top = 0.022 * height_m + 0.05, 0.6 * height_m
        trunk = np.array([[-radius, 0], [-0.6 * radius + lean, top], [0.6 * radius + lean, top], [radius, 0]])
        bark = canvas.shape(Label.VEGETATION, Material.TRUNK, variant, plane=plane)
        canvas.convex(bark, canvas.camera.project(x + trunk[:, 0], trunk[:, 1], z))
        edge = canvas.shape(Label.VEGETATION, Material.TRUNK, variant, tone=0.65, plane=plane)
        dark = trunk[:2] if canvas.sun.direction[0] > 0 else trunk[2:][::-1]
        half = np.concatenate([dark, dark[::-1] * [0.2, 1]])
        canvas.convex(edge, canvas.camera.project(x + half[:, 0], half[:, 1], z))
    tones = [
        canvas.shape(Label.VEGETATION, Material.LEAF, variant, tone=tone, light=light, plane=plane)
        for tone, light in ((0.5, 0.1), (0.78, 0.45), (1.1, 0.95))
    ]
    if kind == "conifer":
        _draw_conifer(canvas, (x + lean, z), height_m, tones, rng)
        crown = (0.45, 0.2)
    else:
        centre, width, tall = {"broad": (0.66, 0.36, 0.34), "poplar": (0.58, 0.13, 0.42), "bush": (0.42, 0.6, 0.5)}[
            kind
        ]
        _draw_crown(canvas, (x + lean, z), (centre * height_m, width * height_m, tall * height_m), tones, rng)
        crown = (centre, width)
    angle = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    reach_x, reach_z = canvas.sun.reach(crown[0] * height_m)
    ring_x = x + reach_x + crown[1] * height_m * np.cos(angle) * rng.uniform(0.85, 1.1, 14)
    ring_z = z + reach_z + crown[1] * height_m * np.sin(angle) * rng.uniform(0.85, 1.1, 14)
    canvas.shade(canvas.camera.project(ring_x, 0.0, np.maximum(ring_z, 1.0)), strength=0.9)
    _shade_pole(canvas, x, z, 0.02 * height_m, (reach_x, reach_z))
    blob = canvas.camera.project(x + 0.5 * np.cos(angle), 0.0, z + 0.4 * np.sin(angle))
    canvas.shade(blob, contact=True, strength=0.6)


def _draw_crown(
    canvas: Canvas, position: tuple[float, float], crown: tuple[float, float, float], tones: list[int],
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """Clumps of leaves: dark ones first, then lighter ones towards the sun, with a ragged rim."""
    (x, z), (centre, wide, tall) = position, crown
    scale = canvas.camera.pixels_per_metre(z)
    towards = np.array([np.sign(canvas.sun.direction[0]) * 0.22, 0.25])
    big = scale * wide
    layers = ((18, 0.72, 0.42, 0.0), (22, 0.74, 0.26, 0.8), (20, 0.7, 0.17, 1.6))
    for shape, (count, spread, size, shift) in zip(tones, layers, strict=True):
        count = count if big > 14 else count // 2 if big > 7 else count // 4
        angle, radius = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.random(count)) * spread
        around = np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius[:, None] + towards * shift * 0.5
        size_m = size * min(wide, tall) * rng.uniform(0.7, 1.25, count)
        centres = canvas.camera.project(x + around[:, 0] * wide, centre + around[:, 1] * tall, z)
        canvas.discs(shape, centres, size_m * scale)
        if big > 16:
            leaves = _leaves(centres, size_m * scale, rng)
            canvas.fill(shape, leaves)


def _leaves(centres: Float, radii: Float, rng: np.random.Generator) -> Float:
    """Small triangles on the rims of discs, n×3×2 pixels."""
    per_disc = 9
    angle = rng.uniform(0, 2 * np.pi, (len(centres), per_disc))
    rim = centres[:, None] + np.stack([np.cos(angle), np.sin(angle)], -1) * (radii[:, None] * 0.98)[..., None]
    turn = angle[..., None] + rng.uniform(-0.8, 0.8, (*angle.shape, 1)) + np.array([0.0, 2.2, 4.1])
    size = np.clip(radii * 0.3, 1.2, 9.0)[:, None, None, None]
    corners = rim[:, :, None] + np.stack([np.cos(turn), np.sin(turn)], -1) * size
    return corners.reshape(-1, 3, 2).astype(np.float32)


def _draw_conifer(
    canvas: Canvas, position: tuple[float, float], height_m: float, tones: list[int], rng: np.random.Generator
) -> None:
    """Ragged tiers, wide at the foot, the sunny half lighter."""
    (x, z), sunny = position, np.sign(canvas.sun.direction[0]) or 1.0
    for tier in range(6):
        low, high = 0.13 + 0.13 * tier, 0.42 + 0.116 * tier
        wide = 0.22 * (1 - tier / 7.5)
        teeth = np.linspace(-1, 1, 11)
        drop = low + np.where(np.arange(11) % 2, 0.03, -0.02) + 0.02 * np.abs(teeth) + rng.normal(0, 0.008, 11)
        skirt = np.stack([teeth * wide, drop], axis=1)
        for shape, keep in (
            (tones[0], np.ones(11, bool)),
            (tones[1], teeth * sunny >= 0),
            (tones[2], teeth * sunny > 0.5),
        ):
            outline = np.concatenate([skirt[keep], [[0.0, min(high, 1.0)]]]) * height_m
            canvas.fill(shape, [canvas.camera.project(x + outline[:, 0], outline[:, 1], z)])


def _shade_pole(canvas: Canvas, x: float, z: float, radius_m: float, reach: tuple[float, float]) -> None:
    across = np.array([-radius_m, radius_m, radius_m, -radius_m])
    ground_x = x + across + np.array([0, 0, reach[0], reach[0]])
    ground_z = np.maximum(z + np.array([0, 0, reach[1], reach[1]]), 1.0)
    canvas.shade(canvas.camera.project(ground_x, 0.0, ground_z))


def _pole(canvas: Canvas, position: tuple[float, float], height_m: float, radius_m: float, variant: float) -> None:
    """A tapering pole with a lit and a dark half."""
    x, z = position
    for tone, left, right in ((1.0, -1.0, 1.0), (0.6, 0.1, 1.0)):
        shape = canvas.shape(Label.POLE_SIGN, Material.METAL, variant, tone=tone, plane=canvas.upright(z))
        across = np.array([left, left * 0.7, right * 0.7, right]) * radius_m
        canvas.convex(shape, canvas.camera.project(x + across, np.array([0, height_m, height_m, 0]), z))
    _shade_pole(canvas, x, z, radius_m, canvas.sun.reach(height_m))


def draw_lamp(canvas: Canvas, position: tuple[float, float], towards: int, rng: np.random.Generator) -> None:
    """A street lamp whose arm reaches towards the road (`towards` -1 or +1 along x)."""
    (x, z), variant = position, rng.random()
    height, arm = rng.uniform(5.5, 9), rng.uniform(1.0, 2.2) * towards
    _pole(canvas, position, height, 0.09, variant)
    plane = canvas.upright(z)
    bend = np.array([[0, height - 0.05], [arm, height + 0.3], [arm, height + 0.4], [0, height + 0.08]])
    shape = canvas.shape(Label.POLE_SIGN, Material.METAL, variant, plane=plane)
    canvas.convex(shape, canvas.camera.project(x + bend[:, 0], bend[:, 1], z))
    head = np.array(
        [[arm * 0.75, height + 0.2], [arm * 1.2, height + 0.3], [arm * 1.2, height + 0.45], [arm * 0.75, height + 0.45]]
    )
    canvas.convex(shape, canvas.camera.project(x + head[:, 0], head[:, 1], z))
    glow = canvas.shape(Label.POLE_SIGN, Material.LAMP, 0.0, plane=plane)
    glass = np.array(
        [
            [arm * 0.8, height + 0.13],
            [arm * 1.15, height + 0.22],
            [arm * 1.15, height + 0.3],
            [arm * 0.8, height + 0.24],
        ]
    )
    canvas.convex(glow, canvas.camera.project(x + glass[:, 0], glass[:, 1], z))


def draw_traffic_light(canvas: Canvas, position: tuple[float, float], rng: np.random.Generator) -> None:
    """A traffic light that shows red or green."""
    x, z = position
    _pole(canvas, position, 2.6, 0.08, 0.9)
    plane, y = canvas.upright(z), 2.5
    box = canvas.shape(Label.POLE_SIGN, Material.PLASTIC, 0.1, plane=plane)
    canvas.convex(box, canvas.camera.project(x + np.array([-0.2, 0.2, 0.2, -0.2]), y + np.array([0, 0, 1.1, 1.1]), z))
    red = rng.random() < 0.5
    for place, material, on in ((0.9, Material.SIGNAL_RED, red), (0.2, Material.SIGNAL_GREEN, not red)):
        shape = canvas.shape(
            Label.POLE_SIGN, material if on else Material.PLASTIC, 0.5, tone=1.0 if on else 0.7, plane=plane
        )
        canvas.discs(shape, canvas.camera.project(x, y + place, z), 0.13 * canvas.camera.pixels_per_metre(z))


def draw_sign(canvas: Canvas, position: tuple[float, float], rng: np.random.Generator) -> None:
    """A traffic sign on its post: a disc, a triangle, a square or a direction board."""
    (x, z), scale = position, canvas.camera.pixels_per_metre(position[1])
    height, kind = rng.uniform(2.0, 2.7), rng.integers(5)
    _pole(canvas, position, height, 0.05, 0.4)
    plane = canvas.upright(z)

    def plate(material: Material, outline: Float, grow: float = 1.0) -> None:
        shape = canvas.shape(Label.POLE_SIGN, material, 0.0, light=0.7, plane=plane)
        canvas.convex(shape, canvas.camera.project(x + outline[:, 0] * grow, height + outline[:, 1] * grow, z))

    def disc(material: Material, radius_m: float) -> None:
        shape = canvas.shape(Label.POLE_SIGN, material, 0.0, light=0.7, plane=plane)
        canvas.discs(shape, canvas.camera.project(x, height, z), radius_m * scale)

    square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32)
    triangle = np.array([[-1, -0.6], [1, -0.6], [0, 1.13]], np.float32)
    bar = square * [0.6, 0.16]
    if kind == 0:
        disc(Material.SIGN_RED, 0.36)
        disc(Material.SIGN_WHITE, 0.26)
        plate(Material.PLASTIC, bar, 0.3)
    elif kind == 1:
        disc(Material.SIGN_RED, 0.36)
        plate(Material.SIGN_WHITE, bar, 0.4)
    elif kind == 2:
        plate(Material.SIGN_RED, triangle, 0.42)
        plate(Material.SIGN_WHITE, triangle, 0.27)
    elif kind == 3:
        plate(Material.SIGN_BLUE, square, 0.34)
        plate(Material.SIGN_WHITE, triangle * [0.7, 0.7], 0.26)
    else:
        board = square * [1.0, 0.4]
        plate(Material.SIGN_WHITE, board, 0.84)
        plate(Material.SIGN_GREEN if rng.random() < 0.5 else Material.SIGN_BLUE, board, 0.78)
        plate(Material.SIGN_WHITE, square * [0.7, 0.06] + [0, 0.1], 0.78)
        plate(Material.SIGN_WHITE, square * [0.45, 0.06] - [0.15, 0.12], 0.78)

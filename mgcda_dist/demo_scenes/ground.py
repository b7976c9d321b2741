"""The road and everything that lies flat: lanes, markings, kerbs, pavements, verges, a side street, repairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mgcda_dist.demo_scenes.camera import Camera, Float
from mgcda_dist.demo_scenes.canvas import Canvas
from mgcda_dist.demo_scenes.materials import Label, Material

__all__ = ["FAR_M", "Road", "draw_ground", "draw_skyline", "strip"]

FAR_M = 150.0
"""Depth at which the street ends and the painted skyline begins, metres."""
KERB_M = 0.12


@dataclass(frozen=True)
class Road:
    """A road in the frame of its own centre line; offsets s are metres to the right of it.

    Attributes:
        lanes: driving lanes in all; the road carries traffic on the side `drive_side` (+1 right, -1 left).
        lane_m, parking_m, pavement_m, verge_m: widths of a lane, a parking strip, a pavement and the grass beside it.
        heading, curvature: slope and bend (1/m) of the centre line: x = heading·z + curvature·z²/2.
        crossing_z: depth of the side street's axis; None: no side street.
        urban: stone ground beside the pavement instead of grass.
    """

    lanes: int
    lane_m: float
    parking_m: float
    pavement_m: float
    verge_m: float
    heading: float
    curvature: float
    drive_side: int
    crossing_z: float | None
    urban: bool

    @property
    def half_m(self) -> float:
        """From the centre line to the kerb."""
        return self.lanes * self.lane_m / 2 + self.parking_m

    @property
    def border_m(self) -> float:
        """From the centre line to the end of pavement and verge."""
        return self.half_m + self.pavement_m + self.verge_m

    def x(self, s: float | Float, z: float | Float) -> Float:
        """World x of the point at offset `s` and depth `z`."""
        z = np.asarray(z, np.float32)
        return (self.heading * z + 0.5 * self.curvature * z * z + s).astype(np.float32)

    def yaw(self, z: float) -> float:
        """Heading of the road at depth `z`, radians."""
        return float(np.arctan(self.heading + self.curvature * z))

    def lane_centre(self, lane: int) -> float:
        """Offset s of the middle of a lane, counted from the left."""
        return (lane + 0.5 - self.lanes / 2) * self.lane_m

    def is_oncoming(self, lane: int) -> bool:
        """Does traffic in this lane come towards the camera?"""
        return self.lane_centre(lane) * self.drive_side < -1e-6

    def at_crossing(self, z: float, margin_m: float = 0.0) -> bool:
        """Is depth `z` within the side street?"""
        return self.crossing_z is not None and abs(z - self.crossing_z) < 4.0 + margin_m


def strip(
    camera: Camera, road: Road, s: tuple[float, float], z: tuple[float, float], y: tuple[float, float] = (0.0, 0.0)
) -> Float:
    """Polygon (k×2 pixels) of a band along the road between two offsets, each at its own height."""
    depths = np.geomspace(max(z[0], 1.0), z[1], max(2, 2 + int(8 * np.log10(z[1] / max(z[0], 1.0))))).astype(np.float32)
    left = camera.project(road.x(s[0], depths), y[0], depths)
    right = camera.project(road.x(s[1], depths), y[1], depths)
    return np.concatenate([left, right[::-1]])


def _blocks(camera: Camera, road: Road, s: Float, z: Float, width_m: float, length_m: float) -> Float:
    """Quads (n×4×2 pixels) on the road, centred at offsets `s`, starting at depths `z`."""
    offsets = np.asarray([-1, -1, 1, 1], np.float32) * width_m / 2 + np.asarray(s, np.float32)[..., None]
    depths = np.asarray([0, 1, 1, 0], np.float32) * length_m + np.asarray(z, np.float32)[..., None]
    offsets, depths = np.broadcast_arrays(offsets, depths)
    return camera.project(road.x(offsets, depths), 0.0, depths)


def draw_ground(canvas: Canvas, road: Road, rng: np.random.Generator) -> None:
    """Draws all that is flat, from the ground up."""
    camera = canvas.camera
    plain = camera.project([-900, 900, 9, -9], 0.0, [400, 400, 1, 1])
    if road.urban:
        canvas.fill(canvas.shape(Label.PAVEMENT, Material.SLABS, rng.random(), tone=0.9), [plain])
    else:
        canvas.fill(canvas.shape(Label.VEGETATION, Material.GRASS, rng.random()), [plain])
    _draw_sides(canvas, road, rng)
    asphalt = rng.random()
    canvas.fill(
        canvas.shape(Label.ROAD, Material.ASPHALT, asphalt),
        [strip(camera, road, (-road.half_m, road.half_m), (1, FAR_M))],
    )
    if road.crossing_z is not None:
        x = road.x(0.0, road.crossing_z)
        z = road.crossing_z
        side = camera.project(x + np.array([-90, 90, 90, -90]), 0.0, np.array([3.2, 3.2, -3.2, -3.2]) + z)
        canvas.fill(canvas.shape(Label.ROAD, Material.ASPHALT, asphalt), [side])
    _draw_wear(canvas, road, asphalt, rng)
    _draw_markings(canvas, road, rng)


def _draw_sides(canvas: Canvas, road: Road, rng: np.random.Generator) -> None:
    """Pavements with their kerbs, and the verge behind them."""
    camera, half = canvas.camera, road.half_m
    slabs, grass = rng.random(), rng.random()
    strips = rng.random() < 0.3  # a green strip between kerb and pavement
    for side in (-1, 1):
        inner, outer = half + 0.16, half + road.pavement_m
        if road.verge_m > 0:
            band = strip(camera, road, (side * outer, side * (outer + road.verge_m)), (1, FAR_M), (KERB_M, KERB_M))
            canvas.fill(canvas.shape(Label.VEGETATION, Material.GRASS, grass), [band])
        if road.pavement_m <= 0:
            continue
        band = strip(camera, road, (side * inner, side * outer), (1, FAR_M), (KERB_M, KERB_M))
        canvas.fill(canvas.shape(Label.PAVEMENT, Material.SLABS, slabs), [band])
        if strips and road.pavement_m > 2.5:
            band = strip(camera, road, (side * inner, side * (inner + 0.9)), (1, FAR_M), (KERB_M, KERB_M))
            canvas.fill(canvas.shape(Label.VEGETATION, Material.GRASS, grass), [band])
        top = strip(camera, road, (side * half, side * inner), (1, FAR_M), (KERB_M, KERB_M))
        face = strip(camera, road, (side * half, side * half), (1, FAR_M), (0.0, KERB_M))
        canvas.fill(canvas.shape(Label.PAVEMENT, Material.KERB, slabs, tone=1.08), [top])
        canvas.fill(canvas.shape(Label.PAVEMENT, Material.KERB, slabs, tone=0.75), [face])


def _draw_wear(canvas: Canvas, road: Road, asphalt: float, rng: np.random.Generator) -> None:
    """Wheel tracks, repairs, tar seams, manholes: all of them road."""
    camera, half = canvas.camera, road.half_m
    tracks = canvas.shape(Label.ROAD, Material.ASPHALT, asphalt, tone=0.95)
    for lane in range(road.lanes):
        for wheel in (-0.8, 0.8):
            s = road.lane_centre(lane) + wheel
            canvas.fill(tracks, [strip(camera, road, (s - 0.28, s + 0.28), (1, 70))])
    for _ in range(rng.integers(0, 5)):
        s, z = rng.uniform(-half + 1, half - 1), rng.uniform(4, 40)
        patch = canvas.shape(Label.ROAD, Material.ASPHALT_PATCH, rng.random(), tone=rng.uniform(0.78, 1.1))
        canvas.fill(patch, _blocks(camera, road, np.array([s]), np.array([z]), rng.uniform(0.6, 2), rng.uniform(1, 7)))
    for _ in range(rng.integers(0, 4)):
        z = np.cumsum(rng.uniform(0.2, 1.0, 24)) + rng.uniform(3, 25)
        s = np.clip(rng.uniform(-half, half) + np.cumsum(rng.normal(0, 0.07, 24)), -half + 0.1, half - 0.1)
        left = camera.project(road.x(s - 0.02, z), 0.0, z)
        right = camera.project(road.x(s + 0.02, z), 0.0, z)
        canvas.fill(
            canvas.shape(Label.ROAD, Material.ASPHALT_PATCH, 0.0, tone=0.55), [np.concatenate([left, right[::-1]])]
        )
    angle = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    for _ in range(rng.integers(0, 3)):
        s, z = rng.uniform(-half + 1, half - 1), rng.uniform(5, 25)
        for radius, tone in ((0.36, 0.6), (0.28, 0.8)):
            ring = camera.project(road.x(s + radius * np.cos(angle), z), 0.0, z + radius * np.sin(angle))
            canvas.convex(canvas.shape(Label.ROAD, Material.ASPHALT_PATCH, 0.5, tone=tone), ring)


def _draw_markings(canvas: Canvas, road: Road, rng: np.random.Generator) -> None:
    """Centre line, lane lines, edge lines, arrows, zebra crossing."""
    camera = canvas.camera
    worn = rng.uniform(0.75, 1.0)
    white = canvas.shape(Label.ROAD, Material.MARKING, 0.0, tone=worn)
    centre = canvas.shape(Label.ROAD, Material.MARKING, 0.9 if rng.random() < 0.3 else 0.0, tone=worn)
    dashes, gap = rng.uniform(2, 4), rng.uniform(3, 6)
    starts = np.arange(rng.uniform(1, 4), 110, dashes + gap).astype(np.float32)
    for line in range(1, road.lanes):
        s = (line - road.lanes / 2) * road.lane_m
        if abs(s) < 1e-6 and rng.random() < 0.5:
            doubled = rng.random() < 0.5
            for offset in (-0.12, 0.12) if doubled else (0.0,):
                canvas.fill(centre, [strip(camera, road, (s + offset - 0.06, s + offset + 0.06), (1, 120))])
        else:
            shape = centre if abs(s) < 1e-6 else white
            canvas.fill(shape, _blocks(camera, road, np.full_like(starts, s), starts, 0.13, dashes))
    drive = road.half_m - road.parking_m
    if road.parking_m > 0 and rng.random() < 0.5:
        bays = np.arange(3, 70, 5.8).astype(np.float32)
        for side in (-1, 1):
            canvas.fill(white, [strip(camera, road, (side * drive, side * (drive + 0.1)), (1, 80))])
            canvas.fill(white, _blocks(camera, road, np.full_like(bays, side * (drive + 1)), bays, 1.9, 0.1))
    elif rng.random() < 0.6:
        for side in (-1, 1):
            s = side * (drive - 0.25)
            canvas.fill(white, [strip(camera, road, (s - 0.06, s + 0.06), (1, 120))])
    if rng.random() < 0.25 and road.lanes > 2:
        s, z = road.lane_centre(int(rng.integers(road.lanes))), rng.uniform(8, 16)
        shape_s = np.array([-0.08, -0.08, -0.35, 0, 0.35, 0.08, 0.08]) + s
        shape_z = np.array([0, 2.2, 2.2, 3.6, 2.2, 2.2, 0]) + z
        canvas.fill(white, [camera.project(road.x(shape_s, shape_z), 0.0, shape_z)])
    zebra_z = road.crossing_z - 8.5 if road.crossing_z is not None else rng.uniform(7, 30)
    if (road.crossing_z is not None or rng.random() < 0.2) and road.pavement_m > 0:
        bars = np.arange(-road.half_m + 0.5, road.half_m - 0.3, 1.0).astype(np.float32)
        canvas.fill(white, _blocks(camera, road, bars, np.full_like(bars, zebra_z), 0.5, 3.0))
        stop = road.drive_side * road.half_m / 2
        canvas.fill(white, _blocks(camera, road, np.array([stop]), np.array([zebra_z - 2]), road.half_m - 0.3, 0.35))


def draw_skyline(canvas: Canvas, urban: bool, rng: np.random.Generator) -> None:
    """Draws what stands at the end of the street: far roofs, or a line of trees and hills."""
    camera = canvas.camera
    plane = canvas.upright(FAR_M * 2)
    x = np.arange(-420.0, 421.0, 7.0)
    steps = rng.normal(0, 1, len(x))
    smooth = np.convolve(steps, np.ones(9) / 3, mode="same")
    hills = 9 + 4 * smooth + 6 * np.sin(x / rng.uniform(60, 140) + rng.uniform(0, 6))
    _draw_ridge(canvas, x, np.maximum(hills * rng.uniform(0.6, 1.8), 3), (Label.VEGETATION, Material.FAR_TREES), 0.2)
    if urban:
        for tone, height in ((1.06, 26), (0.96, 17)):
            heights = np.repeat(rng.uniform(0.3, 1.0, len(x) // 2 + 1), 2)[: len(x)] * height
            corners = np.repeat(heights, 2)
            across = np.repeat(x, 2) + np.tile([0.0, 6.99], len(x))
            top = camera.project(across, corners, FAR_M * 1.3)
            foot = camera.project([420, -420], -1.0, FAR_M * 1.3)
            shape = canvas.shape(Label.BUILDING, Material.SKYLINE, rng.random(), tone=tone, plane=plane)
            canvas.fill(shape, [np.concatenate([top, foot])])
    x = np.arange(-300.0, 301.0, 1.5)
    fine = 5 + 1.5 * np.convolve(rng.normal(0, 1, len(x)), np.ones(5) / 2, mode="same") + rng.normal(0, 0.4, len(x))
    lift = rng.uniform(0.1, 0.9) if urban else rng.uniform(0.7, 1.6)
    _draw_ridge(canvas, x, np.maximum(fine * lift, 1.0), (Label.VEGETATION, Material.FAR_TREES), 0.7)


def _draw_ridge(canvas: Canvas, x: Float, heights: Float, what: tuple[Label, Material], variant: float) -> None:
    camera = canvas.camera
    shape = canvas.shape(*what, variant, plane=canvas.upright(FAR_M * 1.2))
    top = camera.project(x, heights, FAR_M)
    foot = camera.project([x[-1], x[0]], -1.0, FAR_M)
    canvas.fill(shape, [np.concatenate([top, foot])])

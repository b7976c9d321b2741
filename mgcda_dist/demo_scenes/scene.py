"""Street scenes: one per (seed, index), drawn from far to near, with or without anomalies on the road."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.demo_scenes.camera import SUPER, Camera, Sun
from mgcda_dist.demo_scenes.canvas import Canvas
from mgcda_dist.demo_scenes.ground import Road, draw_ground, draw_skyline
from mgcda_dist.demo_scenes.materials import Label, Material
from mgcda_dist.demo_scenes.objects import FamilySet, ObjectPicture, draw_object, pick_family
from mgcda_dist.demo_scenes.placement import Street, place_buildings, place_roadside, place_traffic
from mgcda_dist.method.randomness import numpy_generator

__all__ = ["Anomaly", "Scene", "scene"]

SETTINGS = ("city", "avenue", "suburb", "country")
SETTING_SHARES = (0.38, 0.2, 0.27, 0.15)


@dataclass(frozen=True)
class Anomaly:
    """An anomalous object.

    Attributes:
        s, z: of its foot: offset from the road's centre line and depth, metres.
        foot_px: the same point in the frame (column, row).
        visible_px: frame pixels that show it.
    """

    family: str
    s: float
    z: float
    foot_px: tuple[float, float]
    height_m: float
    visible_px: int


@dataclass
class Scene:
    """A drawn scene, not yet coloured.

    Attributes:
        setting: `city`, `avenue`, `suburb` or `country`.
        canvas: shape ids and their tables.
        anomalies: the visible ones.
    """

    setting: str
    canvas: Canvas
    road: Road
    anomalies: list[Anomaly] = field(default_factory=list)

    @property
    def shape_ids(self) -> NDArray[np.int32]:
        """h×w int32: the shape seen at the centre of each frame pixel."""
        return self.canvas.ids[SUPER // 2 :: SUPER, SUPER // 2 :: SUPER]

    @property
    def label(self) -> NDArray[np.uint8]:
        """h×w uint8: 0…7 class, 254 anomaly, 255 void (the camera's own bonnet)."""
        return np.asarray(self.canvas.labels, np.uint8)[self.shape_ids]


def scene(seed: int, index: int, size: tuple[int, int] = (256, 512), *, anomalies: FamilySet | None = None) -> Scene:
    """Draws scene `index` of the stream `seed`.

    Args:
        size: height, width of the frame, pixels.
        anomalies: family set (`train`, `val`, `test`) of one to three objects on the road; None: no anomaly. The rest
            of the scene is the same either way.
    """
    rng = numpy_generator(seed, index, "synthetic scene")
    setting = str(rng.choice(SETTINGS, p=SETTING_SHARES))
    road = _road(setting, rng)
    canvas = Canvas(_camera(road, size, rng), _sun(rng))
    draw_skyline(canvas, road.urban, rng)
    draw_ground(canvas, road, rng)
    street = Street(canvas, road, setting, rng)
    place_buildings(street)
    place_roadside(street)
    place_traffic(street)
    result = Scene(setting, canvas, road)
    sprites: list[tuple[int, Anomaly]] = []
    if anomalies:
        _place_anomalies(street, sprites, anomalies, numpy_generator(seed, index, "synthetic anomalies", anomalies))
    for _, draw in sorted(street.items, key=lambda item: -item[0]):
        draw()
    if rng.random() < 0.15:
        _draw_bonnet(canvas, rng)
    for shape, anomaly in sprites:
        visible = int((result.shape_ids == shape).sum())
        if visible:
            result.anomalies.append(Anomaly(**{**vars(anomaly), "visible_px": visible}))
    return result


def _road(setting: str, rng: np.random.Generator) -> Road:
    lanes = int(rng.choice({"city": [2, 2, 3], "avenue": [2, 4, 4], "suburb": [2], "country": [2]}[setting]))
    bend = 0.0 if rng.random() < 0.4 else float(rng.normal(0, {"city": 0.0012, "avenue": 0.001}.get(setting, 0.0025)))
    urban = setting in ("city", "avenue")
    return Road(
        lanes=lanes,
        lane_m=float(rng.uniform(2.9, 3.6)),
        parking_m=2.3 if urban and rng.random() < 0.7 else 0.0,
        pavement_m=float(
            {"city": rng.uniform(2, 4.5), "avenue": rng.uniform(4, 6.5), "suburb": rng.uniform(1.5, 2.6)}.get(
                setting, 0
            )
        )
        or (1.8 if rng.random() < 0.5 else 0.0),
        verge_m=0.0 if urban else float(rng.uniform(1.0, 4.0)),
        heading=float(rng.normal(0, 0.035)),
        curvature=bend,
        drive_side=1 if rng.random() < 0.7 else -1,
        crossing_z=float(rng.uniform(22, 60)) if setting != "country" and rng.random() < 0.4 else None,
        urban=urban,
    )


def _camera(road: Road, size: tuple[int, int], rng: np.random.Generator) -> Camera:
    height, width = size[0] * SUPER, size[1] * SUPER
    own = [lane for lane in range(road.lanes) if not road.is_oncoming(lane)]
    s = road.lane_centre(int(rng.choice(own))) + float(rng.uniform(-0.4, 0.4))
    return Camera(
        size_px=(height, width),
        focal_px=float(rng.uniform(0.72, 1.05)) * width,
        centre_px=float(rng.uniform(0.45, 0.55)) * width,
        horizon_px=float(rng.uniform(0.38, 0.49)) * height,
        height_m=float(rng.uniform(1.25, 1.95)),
        x_m=s,
        roll=float(rng.normal(0, 0.01)),
    )


def _sun(rng: np.random.Generator) -> Sun:
    elevation, azimuth = np.deg2rad(rng.uniform(25, 65)), rng.uniform(0, 2 * np.pi)
    flat = np.cos(elevation)
    return Sun((float(flat * np.sin(azimuth)), float(np.sin(elevation)), float(flat * np.cos(azimuth))))


def _place_anomalies(
    street: Street, sprites: list[tuple[int, Anomaly]], family_set: FamilySet, rng: np.random.Generator
) -> None:
    """Puts one to three objects on free spots of the road, in view and not hidden by nearer things."""
    camera, road = street.canvas.camera, street.road
    for _ in range(rng.integers(1, 4)):
        picture = draw_object(pick_family(family_set, rng), rng)
        height_m = picture.height_m
        for _ in range(40):
            s = rng.uniform(-road.half_m + 0.8, road.half_m - 0.8)
            z = rng.uniform(5.5, 24)
            foot = camera.project(road.x(s, z), 0.0, z)
            if _is_free(street, s, z, picture.width_m / 2) and _in_view(camera, foot):
                break
        else:
            continue
        street.taken.append((s, z, 1.0))
        street.add(z, partial(_draw_anomaly, street, sprites, picture, (s, z), height_m))


def _in_view(camera: Camera, foot: np.ndarray) -> bool:
    height, width = camera.size_px
    return 0.08 * width < foot[0] < 0.92 * width and foot[1] < 0.95 * height


def _is_free(street: Street, s: float, z: float, half_m: float) -> bool:
    """Is the spot free, and the view from the camera to it?"""
    road, own = street.road, street.canvas.camera.x_m
    bearing = (float(road.x(s, z)) - own) / z
    for other_s, other_z, length in street.taken:
        clear = half_m + (1.1 if length > 1.5 else 0.5)
        if abs(other_s - s) < clear and abs(other_z - z) < length / 2 + half_m + 0.3:
            return False
        if other_z < z and abs((float(road.x(other_s, other_z)) - own) - bearing * other_z) < clear:
            return False
    return True


def _draw_anomaly(
    street: Street, sprites: list[tuple[int, Anomaly]], picture: ObjectPicture, spot: tuple[float, float],
    height_m: float,
) -> None:  # fmt: skip
    """Draws an object upright on the road, with its shadow, and remembers it."""
    canvas, (s, z) = street.canvas, spot
    x, wide = float(street.road.x(s, z)), picture.width_m
    project = canvas.camera.project
    reach_x, reach_z = canvas.sun.reach(height_m * 0.9)
    across, far = np.array([-0.5, 0.5, 0.5, -0.5]) * wide, np.array([1, 1, 0, 0])
    # The shadow of a flat picture seen edge on would be a line: every object is a little deep.
    depths = np.maximum(z + far * reach_z + np.array([0.15, 0.15, -0.15, -0.15]) * wide, 1.0)
    canvas.shade_sprite(picture.rgba, project(x + across + far * reach_x, 0.0, depths))
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    foot = project(x + 0.5 * wide * np.cos(angle), 0.0, z + 0.22 * wide * np.sin(angle))
    canvas.shade(foot, contact=True, strength=0.9)
    shape = canvas.shape(Label.ANOMALY, Material.OBJECT, light=0.75, plane=canvas.upright(z))
    sides, heights = np.array([-wide / 2, wide / 2, -wide / 2]), np.array([height_m, height_m, 0.0])
    canvas.sprite(shape, picture.rgba, project(x + sides, heights, z))
    column, row = project(x, 0.0, z) / SUPER
    sprites.append((shape, Anomaly(picture.family, s, z, (float(column), float(row)), height_m, 0)))


def _draw_bonnet(canvas: Canvas, rng: np.random.Generator) -> None:
    """The camera's own car at the lower edge: void."""
    height, width = canvas.camera.size_px
    top = height * rng.uniform(0.93, 0.97)
    across = np.linspace(-0.05, 1.05, 24)
    rise = top + (across - 0.5) ** 2 * height * 0.25
    outline = np.concatenate(
        [np.stack([across * width, rise], 1), [[1.05 * width, height + 4], [-0.05 * width, height + 4]]]
    )
    shape = canvas.shape(Label.VOID, Material.BODY, rng.random(), tone=0.6, plane=canvas.upright(2.0))
    canvas.fill(shape, [outline])
    gloss = np.stack([across * width, rise], 1)
    band = np.concatenate([gloss, gloss[::-1] + np.array([0, 0.012 * height])])
    canvas.fill(canvas.shape(Label.VOID, Material.BODY, 0.5, tone=1.1, plane=canvas.upright(2.0)), [band])

"""Placement of buildings, trees, lamps, vehicles and persons on a street, each drawn in the order of depth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from mgcda_dist.demo_scenes.buildings import Plot, draw_building, draw_fence
from mgcda_dist.demo_scenes.canvas import Canvas
from mgcda_dist.demo_scenes.ground import Road
from mgcda_dist.demo_scenes.roadside import TreeKind, draw_lamp, draw_sign, draw_traffic_light, draw_tree
from mgcda_dist.demo_scenes.traffic import VEHICLES, draw_cyclist, draw_person, draw_vehicle

__all__ = ["Street", "place_buildings", "place_roadside", "place_traffic"]


@dataclass
class Street:
    """A scene under construction.

    Attributes:
        items: what is to be drawn, with its depth.
        taken: spots of vehicles and persons: offset from the centre line, depth, length along the road (metres).
    """

    canvas: Canvas
    road: Road
    setting: str
    rng: np.random.Generator
    items: list[tuple[float, Callable[[], object]]] = field(default_factory=list)
    taken: list[tuple[float, float, float]] = field(default_factory=list)

    def add(self, z: float, draw: Callable[[], object]) -> None:
        """Notes something to be drawn at depth `z`."""
        self.items.append((z, draw))

    def point(self, s: float, z: float) -> tuple[float, float]:
        """World (x, z) of a spot on the street."""
        return float(self.road.x(s, z)), z


def place_buildings(street: Street) -> None:
    """Rows of buildings on both sides, and the fences of a suburb."""
    rng, road = street.rng, street.road
    if street.setting == "country":
        rows = [(side, rng.uniform(12, 30), 0.15) for side in (-1, 1)]
    else:
        gap = {"city": 0.05, "avenue": 0.15, "suburb": 0.25}[street.setting]
        setback = {"city": 0.0, "avenue": 1.0, "suburb": rng.uniform(3, 7)}[street.setting]
        rows = [(side, road.border_m + setback, gap) for side in (-1, 1)]
    for side, s, gap in rows:
        z = rng.uniform(2.0, 7.0)
        shops = street.setting == "city" and rng.random() < 0.7
        while z < 115:
            tall = street.setting in ("city", "avenue")
            length = rng.uniform(9, 22) if tall else rng.uniform(7, 12)
            floors = int(rng.integers(3, 8)) if tall else int(rng.integers(1, 3))
            span = (z, z + length)
            crossing = road.crossing_z is not None and span[0] < road.crossing_z + 7 and span[1] > road.crossing_z - 7
            if not crossing and (street.setting != "country" or rng.random() < 0.2):
                gabled = not tall or rng.random() < 0.2
                plot = Plot(
                    side, s, span, floors, float(rng.uniform(8, 13)), gabled, tall and shops and rng.random() < 0.7
                )
                street.add(span[1], partial(draw_building, street.canvas, road, plot, rng))
            elif crossing and road.crossing_z is not None and z < road.crossing_z:
                z = road.crossing_z + 7
                continue
            z += length + (rng.uniform(2, 8) if rng.random() < gap or not tall else 0.0)
        if street.setting == "suburb":
            for start in np.arange(3.0, 90.0, 14.0):
                if rng.random() < 0.65 and not road.at_crossing(start + 7, 11):
                    fence = partial(draw_fence, street.canvas, road, side * (road.border_m + 0.3))
                    street.add(start + 13, partial(fence, (start, start + 13), bool(rng.random() < 0.6), rng))


def place_roadside(street: Street) -> None:
    """Trees, lamps, signs and traffic lights."""
    rng, road, canvas = street.rng, street.road, street.canvas
    kerb = road.half_m + 0.6
    for side in (-1, 1):
        for kind, s, z in _tree_spots(street, side):
            if not road.at_crossing(z, 2.5):
                height = {"bush": rng.uniform(0.9, 2.2), "poplar": rng.uniform(9, 15)}.get(kind, rng.uniform(5, 11))
                street.add(z, partial(draw_tree, canvas, street.point(side * s, z), height, kind, rng))
        if rng.random() < 0.75:
            for z in np.arange(rng.uniform(5, 25), 120, rng.uniform(22, 34)):
                if not road.at_crossing(z, 1):
                    street.add(z, partial(draw_lamp, canvas, street.point(side * kerb, z), -side, rng))
        for _ in range(rng.integers(0, 5)):
            z = rng.uniform(6, 50)
            street.add(z, partial(draw_sign, canvas, street.point(side * kerb, z), rng))
        if road.crossing_z is not None and rng.random() < 0.7:
            z = road.crossing_z - 9.5
            street.add(z, partial(draw_traffic_light, canvas, street.point(side * kerb, z), rng))


def _tree_spots(street: Street, side: int) -> list[tuple[TreeKind, float, float]]:
    """(kind, distance from the centre line, depth) of the trees on one side."""
    rng, road = street.rng, street.road
    spots: list[tuple[TreeKind, float, float]] = []
    kind: TreeKind
    main: TreeKind = "poplar" if rng.random() < 0.2 else "conifer" if rng.random() < 0.2 else "broad"
    if street.setting == "avenue" or (street.setting == "city" and rng.random() < 0.35):
        step = rng.uniform(7, 12)
        depths = np.arange(rng.uniform(5, 14), 130, step).tolist()
        spots.extend((main, road.half_m + 1.3, z) for z in depths)
    if street.setting == "suburb":
        for _ in range(rng.integers(5, 12)):
            kind = "bush" if rng.random() < 0.35 else main
            spots.append((kind, road.border_m + rng.uniform(0.8, 3.5), rng.uniform(6, 90)))
    if street.setting == "country":
        dense = rng.random() < 0.6
        for _ in range(rng.integers(22, 34) if dense else rng.integers(4, 14)):
            kind = "bush" if rng.random() < 0.4 else main if rng.random() < 0.7 else "broad"
            spots.append((kind, road.border_m + 1.5 + rng.gamma(1.5, 5.0), rng.uniform(6, 120)))
    return spots


def place_traffic(street: Street) -> None:
    """Vehicles in their lanes, parked ones, one that crosses; then persons and cyclists."""
    rng, road, canvas = street.rng, street.road, street.canvas

    def vehicle(s: float, z: float, yaw: float, cars_only: bool = False) -> None:
        kinds = list(VEHICLES)
        shares = [0.28, 0.27, 0.2, 0.25, 0, 0] if cars_only else [0.28, 0.25, 0.2, 0.13, 0.06, 0.08]
        kind = str(rng.choice(kinds, p=shares))
        z += VEHICLES[kind].length_m / 2
        street.taken.append((s, z, VEHICLES[kind].length_m))
        street.add(z, partial(draw_vehicle, canvas, kind, street.point(s, z), yaw, rng))

    busy = rng.uniform(0.35, 1.0) * (1.0 if road.urban else 0.6)
    for lane in range(road.lanes):
        s, oncoming = road.lane_centre(lane), road.is_oncoming(lane)
        own = abs(s - canvas.camera.x_m) < road.lane_m / 2
        z = rng.uniform(9, 45) if own else rng.uniform(5, 30)
        while z < 120:
            if rng.random() < busy:
                turn = np.pi if oncoming else 0.0
                vehicle(s + rng.normal(0, 0.15), z, road.yaw(z) + turn + rng.normal(0, 0.015))
            z += rng.uniform(10, 45)
    if road.parking_m > 0:
        full = rng.uniform(0.3, 0.95)
        for side in (-1, 1):
            for z in np.arange(rng.uniform(3.0, 8.0), 85, 5.9):
                if rng.random() < full and not road.at_crossing(z + 2, 4):
                    turn = np.pi if rng.random() < 0.15 or side != road.drive_side else 0.0
                    vehicle(side * (road.half_m - 1.15), z, road.yaw(z) + turn + rng.normal(0, 0.02), cars_only=True)
    if road.crossing_z is not None and rng.random() < 0.6:
        side = rng.choice([-1, 1])
        vehicle(side * rng.uniform(1, road.half_m + 14), road.crossing_z - 3.5, rng.choice([-1, 1]) * np.pi / 2, True)
    _place_people(street)


def _place_people(street: Street) -> None:
    rng, road, canvas = street.rng, street.road, street.canvas
    num = rng.poisson({"city": 7, "avenue": 6, "suburb": 2.5, "country": 0.8}[street.setting])
    for _ in range(num):
        side, z = rng.choice([-1, 1]), 5 + rng.gamma(2.0, 9.0)
        s = side * (road.half_m + rng.uniform(0.4, max(0.6, road.pavement_m - 0.3)))
        if rng.random() < 0.12:
            s = rng.uniform(-road.half_m, road.half_m)
            z = road.crossing_z - 7 if road.crossing_z is not None else max(z, 12.0)
        for _ in range(1 if rng.random() < 0.7 else 2):
            street.taken.append((s, z, 1.0))
            street.add(z, partial(draw_person, canvas, street.point(s, z), rng))
            s, z = s + rng.uniform(0.5, 0.8), z + rng.normal(0, 0.2)
    for _ in range(rng.poisson(0.6)):
        s, z = rng.uniform(-road.half_m, road.half_m), rng.uniform(9, 40)
        street.taken.append((s, z, 2.0))
        street.add(z, partial(draw_cyclist, canvas, street.point(s, z), rng))

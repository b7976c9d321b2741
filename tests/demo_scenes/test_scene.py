"""Scenes: complete, deterministic, correctly labelled; anomalies stand on the road."""

from __future__ import annotations

import numpy as np
import pytest

from mgcda_dist.demo_scenes.camera import SUPER, Camera
from mgcda_dist.demo_scenes.materials import Label
from mgcda_dist.demo_scenes.objects import FAMILIES
from mgcda_dist.demo_scenes.scene import Scene, scene

SIZE = (128, 256)
NUM = 24


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [scene(0, index, SIZE) for index in range(NUM)]


@pytest.fixture(scope="module")
def strange() -> list[Scene]:
    return [scene(0, index, SIZE, anomalies="test") for index in range(NUM)]


def test_every_class_occurs_and_every_id_is_valid(scenes: list[Scene]) -> None:
    counts = np.bincount(np.concatenate([s.label.ravel() for s in scenes]), minlength=256)
    assert set(np.flatnonzero(counts)) <= {*range(8), 255}
    shares = counts[:8] / counts[:8].sum()
    assert (shares > 0.002).all(), dict(zip(Label, shares.round(4), strict=False))
    assert shares.max() < 0.6
    frames_with = np.mean([[(s.label == label).any() for label in range(8)] for s in scenes], axis=0)
    assert (frames_with > 0.6).all()
    assert {s.setting for s in scenes} == {"city", "avenue", "suburb", "country"}


def test_a_scene_has_the_size_asked_for() -> None:
    for size in ((96, 192), (160, 160)):
        drawn = scene(1, 0, size)
        assert drawn.label.shape == drawn.shape_ids.shape == size
        assert drawn.label.dtype == np.uint8


def test_the_same_name_gives_the_same_scene(scenes: list[Scene]) -> None:
    again, other_index, other_seed = scene(0, 3, SIZE), scene(0, 4, SIZE), scene(1, 3, SIZE)
    assert np.array_equal(again.canvas.ids, scenes[3].canvas.ids)
    assert not np.array_equal(again.label, other_index.label)
    assert not np.array_equal(again.label, other_seed.label)


def test_sky_is_above_and_road_below(scenes: list[Scene]) -> None:
    rows = np.arange(SIZE[0])[:, None]
    for drawn in scenes:
        horizon = drawn.canvas.camera.horizon_px / SUPER
        assert not ((drawn.label == Label.SKY) & (rows > horizon + 6)).any()
        assert not ((drawn.label == Label.ROAD) & (rows < horizon - 6)).any()
        assert not ((drawn.label == Label.PAVEMENT) & (rows < horizon - 8)).any()


def test_projection_agrees_with_the_rays() -> None:
    camera = Camera((256, 512), 400.0, 260.0, 110.0, 1.5, 0.7, 0.02)
    column, row = camera.project(2.0, 0.0, 12.0)
    du, dv = (float(ray[round(float(row)), round(float(column))]) for ray in camera.rays(step=1))
    depth = camera.focal_px * camera.height_m / dv
    assert depth == pytest.approx(12.0, rel=0.02)
    assert du * depth / camera.focal_px + camera.x_m == pytest.approx(2.0, abs=0.03)


def test_anomalies_change_nothing_but_themselves(scenes: list[Scene], strange: list[Scene]) -> None:
    for plain, odd in zip(scenes, strange, strict=True):
        changed = plain.label != odd.label
        assert (odd.label[changed] == Label.ANOMALY).all()
        assert (odd.label == Label.ANOMALY).any() == bool(odd.anomalies)


def test_anomalies_stand_on_the_road(scenes: list[Scene], strange: list[Scene]) -> None:
    """Where an object's foot meets the ground, the same scene without it shows road (or who stands in front of it)."""
    on_road = feet = 0
    for plain, odd in zip(scenes, strange, strict=True):
        for anomaly in odd.anomalies:
            assert abs(anomaly.s) <= odd.road.half_m
            column, row = (round(value) for value in anomaly.foot_px)
            assert 0 <= column < SIZE[1] and 0 <= row < SIZE[0]
            assert row > odd.canvas.camera.horizon_px / SUPER
            feet += 1
            on_road += int(plain.label[min(row, SIZE[0] - 1), column] == Label.ROAD)
    assert feet >= NUM
    assert on_road / feet > 0.9, f"{on_road} of {feet}"


def test_anomalies_shrink_with_distance_as_the_camera_says(strange: list[Scene]) -> None:
    """The top of an object that nothing hides is as high over its foot as its height and depth demand."""
    checked = 0
    for odd in strange:
        if len(odd.anomalies) != 1:
            continue
        anomaly = odd.anomalies[0]
        rows = np.flatnonzero((odd.label == Label.ANOMALY).any(axis=1))
        expected = anomaly.height_m * odd.canvas.camera.focal_px / SUPER / anomaly.z
        assert rows.max() <= anomaly.foot_px[1] + 2
        assert rows.max() - rows.min() + 1 <= expected * 1.1 + 3
        checked += 1
    assert checked >= 4


def test_most_frames_show_an_anomaly_that_can_be_seen(strange: list[Scene]) -> None:
    visible = [sum(anomaly.visible_px for anomaly in odd.anomalies) for odd in strange]
    assert np.mean([pixels >= 20 for pixels in visible]) > 0.85
    assert {anomaly.family for odd in strange for anomaly in odd.anomalies} <= set(FAMILIES["test"])

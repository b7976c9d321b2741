"""Health in words: each alarm on a series of numbers that shows it, none on a run that went well."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from mgcda_dist.config.schema import Config
from mgcda_dist.training.health import HealthWatch
from tests.support.configs import plain_config

STEPS = 1000


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return plain_config(runs=str(tmp_path), optim={"steps": STEPS})


def _healthy(step: int) -> dict[str, float]:
    """What a run logs when all is well: losses fall, with noise; the queue turns over."""
    noise = random.Random(step)
    return {
        "loss/total": 8.0 * math.exp(-step / 200) + 1.0 + noise.gauss(0, 0.1),
        "norm": (5.0 * math.exp(-step / 200) + 1.0) * math.exp(noise.gauss(0, 0.4)),
        "mdat/stride16/accuracy": 0.7,
        "mdat/embedding/accuracy": 0.75,
        "mdat/embedding/near_objects": 0.7 + noise.gauss(0, 0.1),
        "mdat/embedding/far_from_objects": 0.6 + noise.gauss(0, 0.1),
        "mdat/embedding/aligned_share": 0.6 + noise.gauss(0, 0.1),
        "cacl/anchors": 30.0,
        "cacl/crossing_anomaly": 0.5 * noise.random() if step > 30 else 0.0,  # the memory fills
        "cacl/queue_age_steps": min(step / 2, 20.0) + noise.random(),
        "time/data_wait_share": 0.05,
    }


def _alarms(config: Config, change: Callable[[int, dict[str, float]], object], every: int = 10) -> dict[str, str]:
    watch, found = HealthWatch(config), dict[str, str]()
    for step in range(STEPS):
        metrics = _healthy(step)
        change(step, metrics)
        watch.see(step, metrics["loss/total"], metrics.pop("norm"))
        if step % every == 0:
            new = watch.read(step, metrics)
            assert not found.keys() & new.keys(), "said twice"
            found |= new
    return found


def _set(name: str, value: float, first: int, last: int = STEPS) -> Callable[[int, dict[str, float]], object]:
    return lambda step, metrics: metrics.update({name: value}) if first <= step < last else None


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        (_set("mdat/stride16/accuracy", 0.52, 0), "dead_discriminator.stride16", "optim.lr_discriminators"),
        (_set("mdat/embedding/accuracy", 0.99, 500), "strong_discriminator.embedding", "mdat.lambda_max"),
        (_set("mdat/embedding/near_objects", 0.95, 300), "leak.embedding", "data.streams.*.paste.probability"),
        (_set("mdat/embedding/aligned_share", 0.05, 300), "thin_alignment.embedding", "data.augment.class_mix"),
        (_set("cacl/anchors", 0.0, 500, 600), "no_anchors", "cacl.anomaly_pixels"),
        (_set("cacl/crossing_anomaly", 0.0, 500), "anomalies_apart", "data.streams.*.paste"),
        (lambda step, m: m.update({"cacl/queue_age_steps": max(step - 500, 12)}), "still_queue", "cacl.inlier_pixels"),
        (_set("norm", 80.0, 500, 503), "gradient_norm", "optim.clip_norm"),
        (_set("loss/total", 20.0, 500, 504), "loss_spike", "optim.lr_heads"),
        (_set("time/data_wait_share", 0.5, 300), "data_wait", "data.loader_workers"),
    ],
)  # fmt: skip
def test_each_alarm_is_raised_once_and_names_the_key(
    config: Config, change: Callable[[int, dict[str, float]], object], name: str, words: str
) -> None:
    found = _alarms(config, change)
    assert list(found) == [name]
    assert words in found[name] and found[name].startswith("step ")


@pytest.mark.parametrize(
    "change",
    [
        lambda step, metrics: None,
        _set("norm", 1000.0, 500, 501),  # one step: clipping has it
        _set("loss/total", 30.0, 500, 502),
        _set("mdat/embedding/near_objects", 1.0, 300, 330),
        _set("mdat/embedding/aligned_share", 0.0, 300, 340),  # four readings
        _set("cacl/anchors", 0.0, 500, 530),  # three readings
        _set("cacl/queue_age_steps", 5.0, 500, 540),  # four readings
        _set("time/data_wait_share", 0.9, 0, 30),  # the loader starts
        _set("loss/total", math.nan, 500, 600),  # refused steps are said where they are refused
        _set("mdat/stride16/accuracy", 0.52, 300),  # it was better once
    ],
)
def test_no_alarm_without_evidence(config: Config, change: Callable[[int, dict[str, float]], object]) -> None:
    assert _alarms(config, change) == {}


@pytest.mark.parametrize(("rows_per_image", "alarms"), [(4, ["short_memory"]), (None, [])])
def test_a_memory_of_the_last_steps_is_named_where_one_of_many_images_is_asked(
    rows_per_image: int | None, alarms: list[str]
) -> None:
    config = plain_config(cacl={"queue_rows_per_image": rows_per_image}, optim={"steps": STEPS})
    found = _alarms(config, _set("cacl/queue_age_steps", 1.3, 0))
    assert list(found) == alarms
    assert all("or lower cacl.queue_rows_per_image" in text for text in found.values())


def test_wide_masks_are_named_where_hardly_a_cell_is_aligned() -> None:
    config = plain_config(mdat={"mask_width": "receptive_field"}, optim={"steps": STEPS})
    (text,) = _alarms(config, _set("mdat/embedding/aligned_share", 0.06, 0)).values()
    assert "aligns only 6% of the cells of embedding" in text and "larger crops (data.crop_px)" in text
    assert text.endswith("or mdat.mask_width=cell")


def test_a_restart_does_not_repeat_an_alarm(config: Config) -> None:
    watch = HealthWatch(config, raised=["data_wait"])
    assert all(watch.read(step, {"time/data_wait_share": 0.9}) == {} for step in range(10, 100, 10))


def test_a_restart_knows_that_a_discriminator_was_once_better(config: Config) -> None:
    peaks = dict[str, float]()
    before, after = (HealthWatch(config, peak_accuracy=peaks) for _ in range(2))
    assert all(before.read(step, {"mdat/stride16/accuracy": 0.9}) == {} for step in range(0, 400, 10))
    assert all(after.read(step, {"mdat/stride16/accuracy": 0.52}) == {} for step in range(800, STEPS, 10))


@pytest.mark.parametrize(("name", "value"), [("cacl/crossing_anomaly", 0.0), ("cacl/queue_age_steps", None)])
def test_a_step_without_a_number_keeps_what_was_seen_before(config: Config, name: str, value: float | None) -> None:
    """A step without an anomaly has no share of anomalies that cross domains."""
    watch, found = HealthWatch(config), dict[str, str]()
    for step in range(10, 100, 10):
        found |= watch.read(step, {name: float(step) if value is None else value})
    assert found
    assert watch.read(110, {}) == {}, "and does not fail"

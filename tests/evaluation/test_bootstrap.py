from pathlib import Path

import numpy as np
import pytest

from mgcda_dist.errors import MgcdaError
from mgcda_dist.evaluation.bootstrap import (
    RESAMPLED_METRICS,
    ImageTables,
    PairedDifference,
    bootstrap,
    image_weights,
    paired_difference,
    replicates_of,
)
from mgcda_dist.evaluation.miou import Confusion
from mgcda_dist.evaluation.pixel import split_scores
from mgcda_dist.method.randomness import numpy_generator

from .reference import labels, pooled

NOTHING = np.zeros(0, np.float32)


def images(num: int, gain: float = 0.0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(3)
    result = {}
    for index in range(num):
        anomaly = rng.random(4000) < 0.1 * rng.random()
        score = rng.standard_normal(4000) + rng.standard_normal() * 0.5 + (1.5 + gain) * anomaly
        result[f"image_{index:03d}"] = (score.astype(np.float32), anomaly)
    return result


def tables(of: dict[str, tuple[np.ndarray, np.ndarray]]) -> ImageTables:
    result = ImageTables()
    for key, (score, anomaly) in of.items():
        result.add(key, *split_scores(score, labels(anomaly), key))
    return result


def test_replicates_equal_exact_metrics_of_the_drawn_images() -> None:
    frames = images(12)
    found = bootstrap(tables(frames), replicates=40, level=0.9, seed=5)
    ordered = [frames[key] for key in sorted(frames)]
    drawn = numpy_generator(5, "bootstrap").integers(0, 12, (40, 12))
    exact = [pooled([ordered[i] for i in row]) for row in drawn]
    whole = pooled(ordered)
    for name in RESAMPLED_METRICS:
        values = [each[name] for each in exact]
        assert found[name].value == pytest.approx(whole[name], abs=1e-3)
        assert found[name].low == pytest.approx(np.quantile(values, 0.05), abs=2e-3)
        assert found[name].high == pytest.approx(np.quantile(values, 0.95), abs=2e-3)


def test_scores_that_need_all_of_their_double_precision_are_told_apart(tmp_path: Path) -> None:
    frames = {
        key: (
            0.5 + 1e-14 * score.astype(np.float64) if index else score,
            anomaly,
        )  # the first image is in single precision
        for index, (key, (score, anomaly)) in enumerate(images(6).items())
    }
    wide = tables(frames)
    wide.save(tmp_path / "tables.npz")
    expected = pooled(list(frames.values()))
    for found in (wide, ImageTables.load(tmp_path / "tables.npz")):
        values = bootstrap(found, replicates=3)
        assert {name: values[name].value for name in RESAMPLED_METRICS} == pytest.approx(expected, abs=1e-3)


def test_intervals_do_not_depend_on_world_size_and_narrow_with_images() -> None:
    frames = images(30)
    whole = bootstrap(tables(frames), replicates=200)
    halves = [tables(dict(list(frames.items())[rank::2])) for rank in (1, 0)]
    halves[0].merge(halves[1])
    assert bootstrap(halves[0], replicates=200) == whole
    few = bootstrap(tables(images(6)), replicates=200)
    assert few["ap"].high - few["ap"].low > whole["ap"].high - whole["ap"].low
    assert whole["ap"].low < whole["ap"].value < whole["ap"].high


def test_paired_differences_see_what_unpaired_intervals_hide() -> None:
    before, after = tables(images(20)), tables(images(20, gain=0.1))
    one, two = bootstrap(before, replicates=300), bootstrap(after, replicates=300)
    assert one["ap"].high > two["ap"].low  # the intervals overlap
    ap = _paired(before, after, "ap")
    assert ap.low > 0 and ap.p_value < 0.02
    assert _paired(before, after, "fpr95").high < 0
    same = _paired(before, before, "ap")
    assert same.value == 0 and same.p_value == 1.0


def _paired(first: ImageTables, second: ImageTables, metric: str) -> PairedDifference:
    before, after = (replicates_of(each, replicates=300)[metric] for each in (first, second))
    return paired_difference(after - before, 0.95)


def test_tables_are_saved_and_read_back(tmp_path: Path) -> None:
    original = tables(images(5))
    original.add("empty", NOTHING, NOTHING)
    original.save(tmp_path / "tables.npz")
    read = ImageTables.load(tmp_path / "tables.npz")
    assert read.keys == original.keys and len(read) == 6
    assert bootstrap(read, replicates=20) == bootstrap(original, replicates=20)
    with pytest.raises(MgcdaError, match="image_000: this image was counted before"):
        read.add("image_000", NOTHING, NOTHING)


def with_classes(num: int, right: float) -> tuple[ImageTables, dict[str, Confusion]]:
    """Images of three classes, of which the last is in the first image only; and each image's confusion."""
    rng = np.random.default_rng(5)
    result, confusions = tables(images(num)), dict[str, Confusion]()
    for index, key in enumerate(result.keys):
        label = rng.integers(0, 3 if index == 0 else 2, 500)
        predicted = np.where(rng.random(500) < right, label, rng.integers(0, 3, 500))
        confusions[key] = Confusion(3)
        confusions[key].update(predicted, label)
        result.add_classes(key, confusions[key].counts())
    return result, confusions


def test_replicates_of_miou_are_those_of_the_drawn_images(tmp_path: Path) -> None:
    found, confusions = with_classes(6, right=0.7)
    drawn = image_weights(6, 20, seed=0).astype(int)
    for row, value in zip([np.ones(6, int), *drawn], replicates_of(found, replicates=20)["miou"], strict=True):
        pooled = Confusion(3)
        for times, key in zip(row, found.keys, strict=True):
            for _ in range(times):
                pooled.merge(confusions[key])
        assert value == pytest.approx(pooled.miou(), abs=1e-12)
    assert any(row[0] == 0 for row in drawn), "a class is missing in some replicates"
    found.save(tmp_path / "frames.npz")
    assert bootstrap(ImageTables.load(tmp_path / "frames.npz"), replicates=20) == bootstrap(found, replicates=20)


def test_classes_of_some_images_only_give_no_miou(tmp_path: Path) -> None:
    found, other = with_classes(4, right=0.7)[0], tables({"another": images(1)["image_000"]})
    found.merge(other)
    assert set(bootstrap(found, replicates=3)) == {*RESAMPLED_METRICS}
    other.save(tmp_path / "frames.npz")
    assert ImageTables.load(tmp_path / "frames.npz").class_counts() is None


def test_ranks_and_pairs_with_classes() -> None:
    (worse, confusions), (better, _) = with_classes(12, right=0.7), with_classes(12, right=0.75)
    halves = [tables({key: images(12)[key] for key in worse.keys[rank::2]}) for rank in (1, 0)]
    for half in halves:
        for key in half.keys:
            half.add_classes(key, confusions[key].counts())
    halves[0].merge(halves[1])
    assert bootstrap(halves[0], replicates=50) == bootstrap(worse, replicates=50)
    difference = _paired(worse, better, "miou")
    assert difference.low > 0 and difference.p_value < 0.05


@pytest.mark.parametrize("inliers", [0, 8])
def test_images_without_anomalies_or_without_any_valid_pixel_have_no_number(inliers: int) -> None:
    nothing = ImageTables()
    nothing.add("a", np.zeros(inliers, np.float32), NOTHING)
    nothing.add_classes("a", Confusion(2).counts())
    assert all(np.isnan(each.value) for each in bootstrap(nothing, replicates=3).values())

import pickle
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mgcda_dist.errors import MgcdaError
from mgcda_dist.evaluation.pixel import PixelHistogram

from .reference import SCORES, adversarial_frames, assert_metrics, labels, pooled, sklearn_metrics


def counted(frames: list[tuple[Any, Any]], **settings: Any) -> PixelHistogram:
    histogram = PixelHistogram(**settings)
    for number, (score, anomaly) in enumerate(frames):
        histogram.update(score, labels(anomaly), f"frame {number}")
    return histogram


@pytest.mark.parametrize("name", list(SCORES))
def test_equals_sklearn_whatever_the_scores_also_when_rows_are_joined(name: str) -> None:
    frames = adversarial_frames(name, pixels=100_000)
    expected, joined = pooled(frames), counted(frames, max_rows=1 << 16)
    assert joined.counts().threshold.size <= 2 * (1 << 16)
    for histogram in (counted(frames), joined):
        assert_metrics(histogram.result(), expected, 1e-4)


def test_a_tie_of_anomalies_and_inliers_stays_one_when_rows_are_joined() -> None:
    rng = np.random.default_rng(0)
    constant = np.full(20_000, 0.7, np.float32)
    frames: list[tuple[Any, Any]] = [(constant, rng.random(20_000) < 0.02)]
    for power in range(4):
        frames.append(((10.0**power * rng.standard_normal(20_000)).astype(np.float32), np.zeros(20_000, np.bool_)))
    histogram, expected = counted(frames, max_rows=1 << 12), pooled(frames)
    assert histogram._inlier.shift > 0  # the inliers' rows were joined
    assert_metrics(histogram.result(), expected, 1e-3)


@pytest.mark.parametrize(
    "name", ["normal", "clipped", "each frame its own scale", "agreeing to 14 digits", "single and double precision"]
)
@pytest.mark.parametrize("max_rows", [1 << 19, 1 << 12])
def test_the_state_does_not_depend_on_world_size_order_or_grouping(name: str, max_rows: int) -> None:
    frames = adversarial_frames(name, pixels=20_000, num_frames=12)
    settings: Any = {"max_rows": max_rows, "per_octave": 512, "parts": 512}
    whole = _rows(counted(frames, **settings))
    for world_size in (2, 3, 4):
        ranks = [counted(frames[rank::world_size], **settings) for rank in range(world_size)]
        for order in (ranks, ranks[::-1]):
            merged = counted([], **settings)
            for histogram in order:
                merged.merge(histogram)
            for found, expected in zip(_rows(merged), whole, strict=True):
                np.testing.assert_array_equal(found, expected)


def _rows(histogram: PixelHistogram) -> list[Any]:
    tables = (histogram._inlier, histogram._anomaly)
    return [histogram.num_frames, *(part for table in tables for part in (*table.rows(), table.shift))]


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_small_frames_are_exact(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 60))
    pool = data.draw(
        st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=size, unique=True)
    )
    score = data.draw(hnp.arrays(np.float32, size, elements=st.sampled_from([np.float32(x) for x in pool])))
    anomaly = data.draw(hnp.arrays(np.bool_, size))
    anomaly[:2] = True, False
    cut = data.draw(st.integers(0, size))
    histogram = counted([(score[:cut], anomaly[:cut]), (score[cut:], anomaly[cut:])])
    result = histogram.result()
    assert_metrics(result, sklearn_metrics(score, anomaly), 1e-12)
    predicted = score >= result.best_f1_threshold
    assert 2 * (predicted & anomaly).sum() / (predicted.sum() + anomaly.sum()) == pytest.approx(result.best_f1)


@settings(max_examples=40, deadline=None)
@given(
    offset=st.floats(-1e6, 1e6), scale=st.floats(1e-6, 1e6), ties=st.integers(0, 3), share=st.floats(0.001, 0.5),
    distance=st.floats(-1, 4), seed=st.integers(0, 1 << 30),
)  # fmt: skip
def test_coarse_rows_stay_within_their_bound(
    offset: float, scale: float, ties: int, share: float, distance: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    anomaly = rng.random(20_000) < share
    anomaly[:2] = True, False
    score = rng.standard_normal(anomaly.size) + distance * anomaly
    score = (offset + scale * (np.round(score, ties) if ties else score)).astype(np.float32)
    result, expected = counted([(score, anomaly)], per_octave=256, parts=1024).result(), sklearn_metrics(score, anomaly)
    assert result.ap == pytest.approx(expected["ap"], abs=0.25 * (1 / 256 + 1 / 1024))
    assert result.auroc == pytest.approx(expected["auroc"], abs=0.5 * (1 / 256 + 1 / 1024))


def test_rare_anomalies_and_void() -> None:
    rng = np.random.default_rng(0)
    score = rng.standard_normal(1_000_000).astype(np.float32)
    anomaly = np.zeros(score.size, np.bool_)
    anomaly[rng.integers(0, score.size, 20)] = True
    score[anomaly] += 3
    label = labels(anomaly)
    label[::10] = 255
    score[::20] = np.nan  # void pixels may hold anything
    histogram = PixelHistogram()
    histogram.update(score, label)
    keep = label != 255
    assert_metrics(histogram.result(), sklearn_metrics(score[keep], anomaly[keep]), 1e-5)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("unit", [1e30, 0.1, 1e-45])
def test_the_threshold_of_the_best_f1_reaches_it_in_double_precision(unit: float, sign: int) -> None:
    score = sign * unit * np.array([1.0, 2, 3, 4, 5, 6, 7, 8])
    anomaly = np.array([0, 0, 1, 0, 0, 1, 1, 0], np.bool_)
    result = counted([(score, anomaly)]).result()
    marked = score >= result.best_f1_threshold
    f1 = 2 * np.count_nonzero(marked & anomaly) / (np.count_nonzero(marked) + np.count_nonzero(anomaly))
    assert f1 == pytest.approx(result.best_f1)


def test_tensors_of_any_float_type_are_counted() -> None:
    score, label = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0, 254], [255, 254]], dtype=torch.uint8)
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        histogram = PixelHistogram()
        histogram.update(score.to(dtype), label)
        result = histogram.result()
        assert (result.ap, result.num_inlier, result.num_anomaly, result.num_frames) == (1.0, 1, 2, 1)


def test_a_set_without_one_class_has_no_metrics() -> None:
    empty = PixelHistogram().result()
    assert np.isnan(empty.ap) and empty.num_frames == 0
    assert PixelHistogram().curves(9).recall.size == 0
    histogram = PixelHistogram()
    histogram.update(np.zeros(4, np.float32), np.zeros(4, np.uint8))
    assert np.isnan(histogram.result().ap) and np.isnan(histogram.result().fpr95)
    histogram = PixelHistogram()
    histogram.update(np.zeros(4, np.float32), np.full(4, 254, np.uint8))
    assert histogram.result().ap == 1.0 and np.isnan(histogram.result().auroc)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 3])
def test_nan_and_infinity_are_refused_and_the_frame_is_named(bad: float, at: int) -> None:
    score = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    score[at] = bad
    with pytest.raises(MgcdaError, match="val/frame_0042: 1 valid pixel") as caught:
        PixelHistogram().update(score, np.array([0, 0, 0, 254], np.uint8), "val/frame_0042")
    assert pickle.loads(pickle.dumps(caught.value)).where == "val/frame_0042"


def test_other_mistakes_are_named() -> None:
    histogram = PixelHistogram()
    with pytest.raises(MgcdaError, match="shape"):
        histogram.update(np.zeros((2, 2), np.float32), np.zeros((2, 3), np.uint8))
    with pytest.raises(MgcdaError, match="dtype uint8"):
        histogram.update(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8))


def test_memory_does_not_grow_with_the_number_of_frames() -> None:
    rng = np.random.default_rng(0)
    histogram = PixelHistogram(max_rows=1 << 13, per_octave=1 << 10, parts=1 << 10)
    peaks: list[int] = []
    tracemalloc.start()
    for number in range(40):
        anomaly = rng.random(30_000) < 0.1
        histogram.update((rng.standard_normal(30_000) * (1 + number)).astype(np.float32), labels(anomaly))
        peaks.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert max(peaks[20:]) < 1.2 * max(peaks[:20])
    assert max(peaks) < 4e6


def test_curves_run_through_the_metrics() -> None:
    frames = adversarial_frames("normal", pixels=50_000)
    curves, result = counted(frames).curves(300), counted(frames).result()
    assert curves.recall.size <= 300
    assert np.all(np.diff(curves.recall) >= 0) and np.all(np.diff(curves.fpr) >= 0)
    assert np.all(np.diff(curves.threshold) < 0)
    assert np.trapezoid(curves.recall, curves.fpr) == pytest.approx(result.auroc, abs=2e-3)
    assert curves.recall[-1] == 1 and curves.fpr[-1] == 1

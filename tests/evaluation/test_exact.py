from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mgcda_dist.choices import CONVENTIONS
from mgcda_dist.errors import MgcdaError
from mgcda_dist.evaluation.exact import ExactPixelMetrics

from .reference import adversarial_frames, labels, sklearn_metrics

NAMES = ("ap", "auroc", "fpr95", "best_f1")


def counted(frames: list[tuple[Any, Any]]) -> ExactPixelMetrics:
    metrics = ExactPixelMetrics()
    for score, anomaly in frames:
        metrics.update(score, labels(anomaly))
    return metrics


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_pooled_equals_sklearn(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 60))
    elements = st.floats(-5, 5, width=32) | st.sampled_from([0.0, 1.0, -2.5])
    score = data.draw(hnp.arrays(np.float32, size, elements=elements))
    anomaly = data.draw(hnp.arrays(np.bool_, size))
    anomaly[:2] = True, False
    result, expected = (
        counted([(score[:1], anomaly[:1]), (score[1:], anomaly[1:])]).result(),
        sklearn_metrics(score, anomaly),
    )
    for metric in NAMES:
        assert getattr(result, metric) == pytest.approx(expected[metric], abs=1e-12), metric


def test_per_image_is_the_mean_over_frames_with_both_classes() -> None:
    frames = adversarial_frames("drifting", pixels=2_000)
    metrics = counted(frames)
    complete = [sklearn_metrics(score, anomaly) for score, anomaly in frames if anomaly.any()]
    result = metrics.result("per_image")
    assert result.num_frames == len(complete) == 6
    for metric in NAMES:
        assert getattr(result, metric) == pytest.approx(np.mean([each[metric] for each in complete])), metric
    assert np.isnan(metrics.per_image()[0].ap) and len(metrics.per_image()) == 8


def test_skip_empty_pools_the_frames_with_an_anomaly() -> None:
    frames = adversarial_frames("drifting", pixels=2_000)
    kept = [frame for frame in frames if frame[1].any()]
    result = counted(frames).result("skip_empty")
    expected = sklearn_metrics(np.concatenate([s for s, _ in kept]), np.concatenate([a for _, a in kept]))
    assert result.ap == pytest.approx(expected["ap"]) and result.num_frames == len(kept)


def test_nearest_may_be_below_the_level() -> None:
    # TPR jumps 0.90 → 0.94 → 1: the first >= 0.95 is 1, the nearest is 0.94.
    anomaly = np.repeat([True, False, True, False, True, False], [90, 10, 4, 20, 6, 70])
    score = np.repeat(np.arange(6, 0, -1), [90, 10, 4, 20, 6, 70]).astype(np.float32)
    metrics = counted([(score, anomaly)])
    assert metrics.result("pooled").fpr95 == pytest.approx(0.30)
    # Among equal TPR (0.94 before and after 20 inliers) the lower threshold counts.
    assert metrics.result("pooled_nearest").fpr95 == pytest.approx(0.30)
    assert metrics.result("pooled_nearest").ap == metrics.result("pooled").ap


def test_smiyc_is_close_to_pooled_and_reproduces_a_hand_computed_case() -> None:
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(4):
        anomaly = rng.random(20_000) < 0.05
        frames.append(((1 / (1 + np.exp(-rng.standard_normal(20_000) - 2 * anomaly))).astype(np.float32), anomaly))
    metrics = counted(frames)
    pooled, smiyc = metrics.result(), metrics.result("smiyc")
    assert smiyc.ap == pytest.approx(pooled.ap, abs=0.02) and smiyc.ap != pooled.ap
    assert smiyc.fpr95 == pytest.approx(pooled.fpr95, abs=0.02)
    # Three pixels: edges 0, 0.25 (inlier), 0.5, 0.75 (anomaly quantiles), 1. All separable, so AP is 1.
    tiny = counted([(np.array([0.25, 0.5, 0.75], np.float32), np.array([False, True, True]))]).result("smiyc")
    assert tiny.ap == 1.0 and tiny.fpr95 == 0.0


def test_unknown_convention_and_empty_sets() -> None:
    with pytest.raises(MgcdaError, match="pooled, pooled_nearest, per_image"):
        counted([]).result("median")
    for convention in CONVENTIONS:
        result = counted([]).result(convention)
        assert np.isnan(result.ap) and result.convention == convention

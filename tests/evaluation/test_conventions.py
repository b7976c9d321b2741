from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mgcda_dist.choices import CONVENTIONS
from mgcda_dist.errors import MgcdaError
from mgcda_dist.evaluation.conventions import PixelEvaluation

from .reference import METRICS, adversarial_frames, assert_metrics, labels, merged, pooled, sklearn_metrics


def counted(frames: list[tuple[Any, Any]], numbers: Any = None, conventions: Any = CONVENTIONS) -> PixelEvaluation:
    evaluation = PixelEvaluation(conventions)
    for number in range(len(frames)) if numbers is None else numbers:
        score, anomaly = frames[number]
        evaluation.update(f"frame_{number:02d}", score, labels(anomaly))
    return evaluation


@pytest.mark.parametrize("name", ["normal", "drifting", "saturated sigmoid", "integers", "clipped", "float16"])
def test_conventions_equal_sklearn_on_the_frames_that_they_count(name: str) -> None:
    frames = adversarial_frames(name, pixels=20_000)
    complete = [frame for frame in frames if frame[1].any()]
    each = [sklearn_metrics(*frame) for frame in complete]
    means = {metric: float(np.mean([numbers[metric] for numbers in each])) for metric in METRICS}
    found = counted(frames).results()
    for convention, expected, num in (
        ("pooled", pooled(frames), 8), ("skip_empty", pooled(complete), 6), ("per_image", means, 6)
    ):  # fmt: skip
        assert_metrics(found[convention], expected, 1e-4)
        assert (found[convention].convention, found[convention].num_frames) == (convention, num)


def test_the_nearest_true_positive_rate_may_be_below_the_level() -> None:
    # True positive rates 0.90, 0.94, 0.99, 1: the first >= 0.95 is 0.99, the nearest 0.94. At 0.94 the false positive
    # rate is 0.10 before two more inliers and 0.12 after them, where the lower threshold is. 0.99 comes at 0.30.
    anomaly = np.repeat([True, False, True, False, True, False, True], [90, 10, 4, 2, 5, 88, 1])
    score = np.repeat([6.0, 5, 4, 3, 2, 1, 0], [90, 10, 4, 2, 5 + 18, 70, 1]).astype(np.float32)
    result = counted([(score, anomaly)]).results()
    assert (result["pooled"].fpr95, result["pooled_nearest"].fpr95) == pytest.approx((0.30, 0.12))


def test_an_empty_set_has_no_metrics_under_any_convention() -> None:
    results = counted([]).results()
    assert [(name, found.convention) for name, found in results.items()] == [(name, name) for name in CONVENTIONS]
    assert all(np.isnan(found.ap) for found in results.values())


def test_results_do_not_depend_on_world_size_or_order() -> None:
    frames = adversarial_frames("normal", pixels=5_000)
    whole = counted(frames)
    for world_size in (2, 3):
        found = merged(lambda part: counted(frames, part), 8, world_size)
        assert found.results() == whole.results() and found.tables.keys == whole.tables.keys
    with pytest.raises(MgcdaError, match="frame_00: this image was counted before"):
        whole.merge(counted(frames, [0]))


def smiyc_by_the_rules(frames: list[tuple[NDArray[np.float16], NDArray[np.bool_]]]) -> tuple[list[float], float]:
    """AP, AUROC, FPR95, best F1, and the reported threshold: bin by bin, as the benchmark describes its curve."""
    bins: list[tuple[float, int, int]] = []
    for score, anomaly in frames:
        values = score.astype(np.float64)
        edges = {0.0, 1.0}
        for part in (values[anomaly], values[~anomaly]):
            num = min(384, part.size)
            edges |= set(np.quantile(part, np.linspace(0, 1, num)).tolist())
        ordered = sorted(edges)
        for k, (low, high) in enumerate(pairwise(ordered)):
            inside = (values >= low) & ((values <= high) if k == len(ordered) - 2 else (values < high))
            bins.append((low, int((inside & anomaly).sum()), int((inside & ~anomaly).sum())))
    bins.sort(key=lambda each: -each[0])
    positives, negatives = sum(b[1] for b in bins), sum(b[2] for b in bins)
    points: list[tuple[int, int]] = []
    tp = fp = 0
    for k, (edge, p, n) in enumerate(bins):
        tp, fp = tp + p, fp + n
        if k == 0:
            points.append((tp, fp))
        if k == len(bins) - 1 or bins[k + 1][0] != edge:
            points.append((tp, fp))
    if points[0] != (0, 0):
        points.insert(0, (0, 0))
    ap = sum((b[0] - a[0]) / positives * b[0] / max(sum(b), 1) for a, b in pairwise(points))
    auroc = sum((b[1] - a[1]) * (b[0] + a[0]) / 2 / positives / negatives for a, b in pairwise(points))
    fpr95 = next(fp / negatives for tp, fp in points if tp / positives >= 0.95)
    f1 = [2 * tp / (tp + fp + positives) for tp, fp in points]
    return [ap, auroc, fpr95, max(f1)], bins[f1.index(max(f1))][0]


@pytest.mark.parametrize("kind", ["sigmoid", "energy", "saturated"])
def test_smiyc_equals_its_description_bin_by_bin(kind: str) -> None:
    rng = np.random.default_rng(4)
    frames: list[tuple[NDArray[np.float16], NDArray[np.bool_]]] = []
    for _ in range(3):
        anomaly = rng.random(1500) < 0.1
        raw = rng.standard_normal(1500) + 1.5 * anomaly
        score = {"sigmoid": 1 / (1 + np.exp(-raw)), "energy": 3 * raw - 8, "saturated": np.clip(raw, 0, 1)}[kind]
        frames.append((score.astype(np.float16), anomaly))
    expected, threshold = smiyc_by_the_rules(frames)
    result = counted(frames).results()["smiyc"]
    # With many equal edges the first bin depends on how ties are broken, hence not 1e-12.
    assert [getattr(result, name) for name in METRICS] == pytest.approx(
        expected, abs=1e-4 if kind == "saturated" else 1e-12
    )
    if kind != "saturated":
        assert result.best_f1_threshold == threshold


def test_the_smiyc_threshold_is_not_where_its_best_f1_is() -> None:
    # Edges: 0 and 1, the anomalies' quantiles 0.6 and 0.75, the inliers' 0.1 and 0.25. Bins by lower edge, the
    # highest first: 0.75 (1 anomaly), 0.6 (1 anomaly), 0.25 (1 inlier), 0.1 (1 inlier), 0 (none).
    # The curve opens with (0, 0), then the first bin twice: (1, 0), (1, 0), (2, 0), (2, 1), (2, 2), (2, 2).
    # F1 is best at point 3, the two anomalies: threshold 0.6. Entry 3 of the list of edges is 0.1.
    score, anomaly = np.array([0.1, 0.25, 0.6, 0.75]), np.array([False, False, True, True])
    result = counted([(score, anomaly)]).results()
    assert result["smiyc"].best_f1 == 1.0 and result["smiyc"].ap == 1.0
    assert result["smiyc"].best_f1_threshold == pytest.approx(0.1, abs=1e-4)
    assert result["pooled"].best_f1_threshold == pytest.approx(0.6, abs=1e-9)


def test_smiyc_refuses_what_float16_cannot_hold() -> None:
    evaluation = PixelEvaluation(["smiyc"])
    with pytest.raises(MgcdaError, match="frame_7: a score is beyond ±65504"):
        evaluation.update("frame_7", np.array([1e6, 0.0], np.float32), np.array([0, 254], np.uint8))


def test_categories_are_measured_against_all_inliers() -> None:
    rng = np.random.default_rng(0)
    evaluation = PixelEvaluation()
    every: list[tuple[Any, Any, Any]] = []
    for number in range(6):
        anomaly = rng.random((40, 50)) < 0.1
        category = rng.integers(2, 6, (40, 50))
        score = (rng.standard_normal((40, 50)) + anomaly * category * 0.5).astype(np.float32)
        evaluation.update(
            f"{number}", torch.from_numpy(score), torch.from_numpy(labels(anomaly)), category=category,
            names={2: "ball", 3: "ball", 4: "crate"},
        )  # fmt: skip
        every.append((score, anomaly, category))
    score, anomaly, category = (np.concatenate([frame[i].ravel() for frame in every]) for i in range(3))
    found = evaluation.by_category()
    assert list(found) == ["ball", "crate", "other"]
    for name, ids in {"ball": (2, 3), "crate": (4,), "other": (5,)}.items():
        kept = ~anomaly | np.isin(category, ids)
        assert_metrics(found[name], sklearn_metrics(score[kept], anomaly[kept]), 1e-9)
        assert found[name].num_anomaly == int((anomaly & np.isin(category, ids)).sum())
        assert found[name].num_frames == 6
    assert sum(each.num_anomaly for each in found.values()) == evaluation.results()["pooled"].num_anomaly


def test_groups_are_sets_of_their_own_and_both_breakdowns_merge() -> None:
    frames = adversarial_frames("drifting", pixels=4_000)
    ranks = [PixelEvaluation(), PixelEvaluation()]
    for number, (score, anomaly) in enumerate(frames):
        category = np.full(anomaly.shape, 1 + number // 4)
        names, group = {1: "early", 2: "late"}, "night" if number >= 4 else "day"
        ranks[number % 2].update(str(number), score, labels(anomaly), category=category, names=names, group=group)
    ranks[0].merge(ranks[1])
    groups = ranks[0].by_group()
    assert list(groups) == ["day", "night"]
    for name, part in (("day", frames[:4]), ("night", frames[4:])):
        assert groups[name].num_frames == 4
        assert_metrics(groups[name], pooled(part), 1e-9)
    assert {name: each.num_frames for name, each in ranks[0].by_category().items()} == {"early": 3, "late": 3}


def test_mistakes_are_named() -> None:
    with pytest.raises(MgcdaError, match=r"'median' is unknown\n.*pooled, pooled_nearest, per_image"):
        PixelEvaluation(["median"])
    evaluation = PixelEvaluation()
    score, label = np.zeros((2, 2), np.float32), np.full((2, 2), 254, np.uint8)
    with pytest.raises(MgcdaError, match=r"a/1: the category map has shape \(2,\)"):
        evaluation.update("a/1", score, label, category=np.zeros(2, np.int64))
    many = np.arange(100).reshape(10, 10)
    with pytest.raises(MgcdaError, match="more than 64 categories"):
        evaluation.update(
            "b", np.zeros((10, 10), np.float32), np.full((10, 10), 254, np.uint8), category=many,
            names={number: f"kind {number}" for number in range(100)},
        )  # fmt: skip

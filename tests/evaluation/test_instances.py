from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from mgcda_dist.errors import MgcdaError
from mgcda_dist.evaluation.instances import OVERLAPS, InstanceEvaluation, PredictedInstances, connected_instances

from .reference import merged

Prediction = tuple[set[int], float]
Picture = tuple[list[Prediction], list[set[int]], set[int]]
"""Predictions, ground-truth instances and void of a frame, as sets of pixel numbers."""


def by_definition(frames: list[Picture], overlap: float, min_px: int) -> float:
    """AP at one overlap, prediction by prediction."""
    outcomes = list[tuple[float, bool]]()  # confidence, is it true
    total = 0
    for predictions, truths, void in frames:
        counted = [t for t in truths if len(t) >= min_px]
        total += len(counted)
        small = set[int]().union(*(t for t in truths if len(t) < min_px))
        for t in counted:
            matching = sorted(c for p, c in predictions if p and len(p & t) / len(p | t) > overlap)
            outcomes += [(c, False) for c in matching[:-1]] + [(c, True) for c in matching[-1:]]
        for p, c in predictions:
            if p and not any(len(p & t) / len(p | t) > overlap for t in truths):
                if len(p & (void | small)) / len(p) <= overlap:
                    outcomes.append((c, False))
    if total == 0:
        return float("nan")
    area, recall, precision = 0.0, 0.0, 1.0
    for threshold in sorted({c for c, _ in outcomes}, reverse=True):
        taken = [true for c, true in outcomes if c >= threshold]
        here, now = sum(taken) / total, sum(taken) / len(taken)
        area += (here - recall) * (now + precision) / 2
        recall, precision = here, now
    return area


def from_masks(masks: list[Any], confidence: list[float], shape: tuple[int, ...]) -> PredictedInstances:
    return PredictedInstances([np.flatnonzero(mask) for mask in masks], np.asarray(confidence, np.float64), shape)


def counted(frames: list[Picture], size: int, min_px: int, numbers: range | None = None) -> InstanceEvaluation:
    evaluation = InstanceEvaluation(min_px)
    for number in range(len(frames)) if numbers is None else numbers:
        predictions, truths, void = frames[number]
        ids = np.zeros((1, size), np.int32)
        for index, truth in enumerate(truths):
            ids[0, sorted(truth)] = 1000 + 7 * index
        masks = [np.isin(np.arange(size), sorted(pixels))[None] for pixels, _ in predictions]
        predicted = from_masks(masks, [c for _, c in predictions], ids.shape)
        evaluation.update(f"frame_{number}", predicted, ids, np.isin(np.arange(size), sorted(void))[None])
    return evaluation


@st.composite
def pictures(draw: st.DrawFn, size: int) -> Picture:
    # Ground truth and void are disjoint, as in one label picture; predictions are not.
    kinds = draw(hnp.arrays(np.int8, size, elements=st.integers(-1, 3)))
    truths = [set(np.flatnonzero(kinds == k).tolist()) for k in (1, 2, 3) if (kinds == k).any()]
    predictions = list[Prediction]()
    for _ in range(draw(st.integers(0, 4))):
        pixels = set(draw(st.sampled_from(truths))) if truths and draw(st.booleans()) else set[int]()
        pixels ^= draw(st.sets(st.integers(0, size - 1), max_size=3))
        predictions.append((pixels, draw(st.sampled_from([0.1, 0.5, 0.9]))))
    return predictions, truths, set(np.flatnonzero(kinds == -1).tolist())


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_equals_the_definition(data: st.DataObject) -> None:
    size, min_px = data.draw(st.integers(4, 24)), data.draw(st.integers(1, 4))
    frames = [data.draw(pictures(size)) for _ in range(data.draw(st.integers(1, 3)))]
    result = counted(frames, size, min_px).result()
    expected = [by_definition(frames, float(overlap), min_px) for overlap in OVERLAPS]
    assert result.ap50 == pytest.approx(expected[0], nan_ok=True, abs=1e-12)
    assert result.ap == pytest.approx(float(np.mean(expected)), nan_ok=True, abs=1e-12)


def span(begin: int, end: int) -> set[int]:
    return set(range(begin, end))


def test_a_worked_example() -> None:
    # One frame of 100 pixels. True: A 0…9, B 20…29, and C 40…43, which is too small to count. Void 60…69.
    truths, void = [span(0, 10), span(20, 30), span(40, 44)], span(60, 70)
    predictions: list[Prediction] = [
        (span(0, 9), 0.9),  # IoU with A 9/10
        (span(0, 7), 0.8),  # IoU with A 7/10: the second one of A
        (span(24, 30), 0.7),  # IoU with B 6/10
        (span(38, 44), 0.6),  # IoU with C 4/6: neither true nor false up to 0.65
        (span(60, 64), 0.5),  # all void: never false
        (span(80, 90), 0.4),  # false
    ]
    evaluation = counted([(predictions, truths, void)], 100, 10)
    result = evaluation.result()
    assert (result.num_truth, result.num_predicted, result.num_frames) == (2, 6, 1)
    # θ = 0.50 and 0.55: true 0.9, false 0.8, true 0.7, false 0.4. (recall, precision): (0, 1), (1/2, 1), (1/2, 1/2),
    # (1, 2/3), (1, 1/2): area 1/2 · 1 + 1/2 · (1/2 + 2/3)/2 = 0.5 + 7/24.
    low = 0.5 + 7 / 24
    assert result.ap50 == pytest.approx(low)
    # θ = 0.60 and 0.65: 6/10 is not > 0.60, so 0.7 is false. Recall ends at 1/2 with precision 1: area 1/2. So it stays
    # up to θ = 0.85, whatever else is false at lower confidence. 9/10 is not > 0.90 in exact numbers, but NumPy's grid
    # has 0.9 a hair above; from there on A is missed: 0.
    assert OVERLAPS[8] > 0.9 - 1e-9
    assert result.ap == pytest.approx((2 * low + 6 * 0.5 + 2 * 0) / 10)


def test_nothing_to_find_and_nothing_found() -> None:
    assert np.isnan(InstanceEvaluation().result().ap)
    nothing: Picture = ([], [], set())
    assert np.isnan(counted([nothing], 20, 10).result().ap50)
    assert counted([([], [span(0, 12)], set())], 20, 10).result().ap == 0.0
    perfect = counted([([(span(0, 12), -3.0)], [span(0, 12)], set())], 20, 10).result()
    assert (perfect.ap, perfect.ap50) == (1.0, 1.0)


def test_results_do_not_depend_on_world_size_and_images_are_counted_once() -> None:
    rng = np.random.default_rng(0)
    frames = list[Picture]()
    for _ in range(7):
        begins = rng.integers(0, 80, 4).tolist()
        predictions = [(span(b, b + 12), float(rng.random())) for b in begins]
        frames.append((predictions, [span(b + 2, b + 14) for b in begins[:2] if b < 80][:1], set()))
    whole = counted(frames, 100, 10)
    for world_size in (2, 3):
        found = merged(lambda part: counted(frames, 100, 10, part), 7, world_size)
        assert found.result() == whole.result()
    with pytest.raises(MgcdaError, match="frame_0: this image was counted before"):
        whole.merge(counted(frames, 100, 10, range(1)))


def test_components_of_a_score_map_become_instances() -> None:
    score = np.zeros((6, 8), np.float32)
    score[0:2, 0:3] = [[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]]  # 6 px, mean 1.5
    score[2, 3] = 5.0  # touches the first at a corner: 7 px, mean 2
    score[4:6, 6:8] = 4.0  # 4 px
    score[5, 0] = 9.0  # 1 px, too small
    found = connected_instances(score, 1.0, min_px=2)
    assert found.confidence.tolist() == [2.0, 4.0]
    masks = [np.isin(np.arange(48), pixels).reshape(6, 8) for pixels in found.pixels]
    expected: list[NDArray[np.bool_]] = [score >= 1, score == 4]
    expected[0] = expected[0] & (score != 4) & (score != 9)
    for mask, wanted in zip(masks, expected, strict=True):
        np.testing.assert_array_equal(mask, wanted)
    assert connected_instances(score, 10.0).pixels == []


def test_mistakes_are_named() -> None:
    evaluation = InstanceEvaluation()
    truth = np.zeros((2, 3), np.int32)
    with pytest.raises(MgcdaError, match="f: 1 instances, confidences"):
        evaluation.update("f", from_masks([truth == 0], [float("nan")], (2, 3)), truth)
    with pytest.raises(MgcdaError, match="f: 1 instances, confidences"):
        evaluation.update("f", from_masks([truth == 0], [], (2, 3)), truth)
    with pytest.raises(MgcdaError, match="f: predictions have shape"):
        evaluation.update("f", from_masks([], [], (2, 3)), truth, np.zeros((3, 2), np.bool_))

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from mgcda_dist.errors import MgcdaError
from mgcda_dist.evaluation.components import TAUS, TRACKS, ComponentEvaluation, ComponentSizes
from mgcda_dist.evaluation.conventions import PixelEvaluation

from .reference import merged

Pixel = tuple[int, int]
ALL = ComponentSizes(0, 0)


def components(pixels: set[Pixel]) -> list[set[Pixel]]:
    """8-connected components, by walking from pixel to pixel."""
    left, found = set(pixels), list[set[Pixel]]()
    while left:
        queue, component = deque([left.pop()]), set[Pixel]()
        while queue:
            row, column = queue.popleft()
            component.add((row, column))
            around = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= around
            queue.extend(around)
        found.append(component)
    return found


def where(mask: NDArray[np.bool_]) -> set[Pixel]:
    return {(int(row), int(column)) for row, column in np.argwhere(mask)}


def by_definition(frames: list[tuple[NDArray[np.bool_], NDArray[np.uint8]]], sizes: ComponentSizes) -> list[float]:
    """sIoU, PPV, mean F1 of (predicted, label) frames, from the definitions, set by set."""
    siou, ppv = list[float](), list[float]()
    for predicted, label in frames:
        guesses = [g for g in components(where(predicted & (label != 255))) if len(g) >= sizes.predicted_px]
        truths = components(where(label == 254))
        ignored = set[Pixel]().union(*(k for k in truths if len(k) < sizes.truth_px))
        truths = [k for k in truths if len(k) >= sizes.truth_px]
        guesses = [g - ignored for g in guesses if g - ignored]
        everything = set[Pixel]().union(*truths)
        for k in truths:
            touching = set[Pixel]().union(*(g for g in guesses if g & k))
            siou.append(len(k & touching) / len((k | touching) - (everything - k)))
        ppv += [len(g & everything) / len(g) for g in guesses]
    f1 = list[float]()
    for tau in np.linspace(0.25, 0.75, 11):
        tp, fp = sum(s >= tau for s in siou), sum(p < tau for p in ppv)
        total = 2 * tp + (len(siou) - tp) + fp
        f1.append(2 * tp / total if total else float("nan"))
    mean = [sum(values) / len(values) if values else float("nan") for values in (siou, ppv, f1)]
    return [*mean, *f1]


def counted(
    frames: list[tuple[NDArray[np.bool_], NDArray[np.uint8]]], sizes: ComponentSizes, numbers: range | None = None
) -> ComponentEvaluation:
    evaluation = ComponentEvaluation(0.5, sizes)
    for number in range(len(frames)) if numbers is None else numbers:
        predicted, label = frames[number]
        evaluation.update(f"frame_{number}", predicted.astype(np.float32), label)
    return evaluation


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_equals_the_definitions(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    sizes = ComponentSizes(data.draw(st.integers(0, 4)), data.draw(st.integers(0, 4)))
    frames = [
        (
            data.draw(hnp.arrays(np.bool_, shape)),
            data.draw(hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 253, 254, 254, 255]))),
        )
        for _ in range(data.draw(st.integers(1, 3)))
    ]
    result = counted(frames, sizes).result()
    expected = by_definition(frames, sizes)
    assert [result.siou, result.ppv, result.mean_f1, *result.f1] == pytest.approx(expected, nan_ok=True, abs=1e-12)


def test_a_worked_example() -> None:
    # Row by row: T ground truth, P predicted, B both, v void, w void and predicted.
    picture = ["TBBPP...PP", "TBBPP...PP", "..........", "BB..BPwPBB", "BB..BPwPBB"]
    code = np.array([list(row) for row in picture])
    label = np.select([np.isin(code, ["T", "B"]), np.isin(code, ["v", "w"])], [254, 255], 0).astype(np.uint8)
    predicted = np.isin(code, ["P", "B", "w"])
    # Ground truth: k1 (6 px, top left), k2 (4 px, bottom left), k3 (2 px, column 4), k4 (4 px, bottom right).
    # Predicted, after void has cut columns 5 and 7 apart: g1 (8 px, top left), g2 (4 px, top right), g3 (4 px = k2),
    # g4 (4 px, columns 4 and 5), g5 (6 px, columns 7 to 9).
    # sIoU: k1: hit 4, g1 has 4 px outside: 4/(6 + 4) = 0.4.  k2: 4/4 = 1.  k3: 2/(2 + 2) = 0.5.  k4: 4/(4 + 2) = 2/3.
    # PPV: g1 4/8 = 0.5, g2 0, g3 1, g4 2/4 = 0.5, g5 4/6 = 2/3.
    result = counted([(predicted, label)], ALL).result()
    assert (result.num_truth, result.num_predicted, result.num_frames) == (4, 5, 1)
    assert result.siou == pytest.approx((0.4 + 1 + 0.5 + 2 / 3) / 4)
    assert result.ppv == pytest.approx((0.5 + 0 + 1 + 0.5 + 2 / 3) / 5)
    # τ = 0.25 … 0.40: TP 4, FN 0, FP 1 → 8/9 (0.40 is reached);  0.45 and 0.50: TP 3, FN 1, FP 1 → 6/8.
    # τ = 0.55 … 0.65: TP 2, FN 2, FP 3 → 4/9;  0.70 and 0.75: TP 1, FN 3, FP 4 → 2/9.
    f1 = [8 / 9] * 4 + [6 / 8] * 2 + [4 / 9] * 3 + [2 / 9] * 2
    assert result.f1 == pytest.approx(f1)
    assert result.mean_f1 == pytest.approx(sum(f1) / 11)
    assert result.as_json()["f1"]["0.50"] == pytest.approx(6 / 8)
    # From 5 px on: g2, g3 and g4 go; from 4 px on: k3 becomes void. sIoU: 0.4, 0, 2/3; PPV: 0.5, 2/3.
    result = counted([(predicted, label)], ComponentSizes(5, 4)).result()
    assert (result.num_truth, result.num_predicted) == (3, 2)
    assert result.siou == pytest.approx((0.4 + 0 + 2 / 3) / 3)
    assert result.ppv == pytest.approx((0.5 + 2 / 3) / 2)


def test_nothing_predicted_and_nothing_to_find() -> None:
    label = np.zeros((4, 4), np.uint8)
    result = counted([(np.zeros((4, 4), np.bool_), label)], ALL).result()
    assert np.isnan([result.siou, result.ppv, result.mean_f1, *result.f1]).all()
    label[0, 0] = 254
    result = counted([(np.zeros((4, 4), np.bool_), label)], ALL).result()
    assert (result.siou, result.mean_f1) == (0.0, 0.0) and np.isnan(result.ppv)
    assert np.isnan(ComponentEvaluation(0.5, ALL).result().siou)


def pictures(num: int) -> list[tuple[NDArray[np.bool_], NDArray[np.uint8]]]:
    rng = np.random.default_rng(1)
    frames = list[tuple[NDArray[np.bool_], NDArray[np.uint8]]]()
    for _ in range(num):
        label = np.where(rng.random((30, 40)) < 0.1, 254, 0).astype(np.uint8)
        frames.append(((label == 254) ^ (rng.random((30, 40)) < 0.05), label))
    return frames


def test_results_do_not_depend_on_world_size_and_images_are_counted_once() -> None:
    frames = pictures(7)
    whole = counted(frames, ALL)
    for world_size in (2, 3):
        found = merged(lambda part: counted(frames, ALL, part), 7, world_size)
        assert found.result() == whole.result()
        assert found.bootstrap(replicates=50) == whole.bootstrap(replicates=50)
    with pytest.raises(MgcdaError, match="frame_0: this image was counted before"):
        whole.merge(counted(frames, ALL, range(1)))


def test_intervals_are_those_of_drawn_images() -> None:
    frames = pictures(5)
    intervals = counted(frames, ALL).bootstrap(replicates=400, level=0.9)
    alone = [counted(frames, ALL, range(number, number + 1)).result().siou for number in range(5)]
    assert intervals["siou"].value == pytest.approx(counted(frames, ALL).result().siou)
    assert min(alone) < intervals["siou"].low < intervals["siou"].value < intervals["siou"].high < max(alone)
    assert list(intervals) == ["siou", "ppv", "mean_f1"]


def test_the_threshold_of_the_best_f1_on_the_same_data() -> None:
    rng = np.random.default_rng(0)
    label = np.zeros((40, 60), np.uint8)
    label[10:20, 10:30] = 254
    score = (rng.random((40, 60)) * 0.5 + 0.4 * (label == 254)).astype(np.float32)
    pixel = PixelEvaluation(["pooled", "smiyc"])
    pixel.update("a", score, label)
    for convention, result in pixel.results().items():
        evaluation = ComponentEvaluation.at_best_f1(result, TRACKS["obstacle"])
        evaluation.update("a", score, label)
        rounded = score.astype(np.float16).astype(np.float64)
        predicted = rounded > result.best_f1_threshold if convention == "smiyc" else score >= result.best_f1_threshold
        expected = by_definition([(predicted, label)], TRACKS["obstacle"])
        assert evaluation.result().siou == pytest.approx(expected[0])
        assert evaluation.result().threshold == result.best_f1_threshold


def test_mistakes_are_named() -> None:
    with pytest.raises(MgcdaError, match="need a threshold, not nan"):
        ComponentEvaluation(float("nan"), ALL)
    evaluation = ComponentEvaluation(0.5, ALL)
    with pytest.raises(MgcdaError, match="f: scores have shape"):
        evaluation.update("f", np.zeros((2, 3), np.float32), np.zeros((3, 2), np.uint8))
    score, label = np.zeros((2, 2), np.float32), np.zeros((2, 2), np.uint8)
    score[0, 0] = np.nan
    with pytest.raises(MgcdaError, match="f: 1 valid pixels have a score that is NaN"):
        evaluation.update("f", score, label)
    label[0, 0] = 255
    evaluation.update("f", score, label)
    assert TAUS.tolist() == pytest.approx([0.25 + 0.05 * i for i in range(11)])

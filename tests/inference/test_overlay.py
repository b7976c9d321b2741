"""Anomalies of a score map, and the overlay: uncoloured for low scores, coloured for high ones, even sides."""

from __future__ import annotations

import numpy as np
import pytest

from mgcda_dist.inference.anomalies import find_anomalies
from mgcda_dist.inference.overlay import Legend, overlay


def _score() -> np.ndarray:
    score = np.full((90, 121), -10.0, np.float32)
    score[10:20, 5:25] = -2.0
    score[12, 7] = -1.0
    score[20, 25] = -3.0  # touches by a corner
    score[60:63, 60:63] = -1.5
    return score


def test_components_have_boxes_areas_and_scores() -> None:
    found, mask = find_anomalies(_score(), -5.0)
    assert [each.box for each in found] == [(60, 60, 3, 3), (5, 10, 21, 11)]
    assert [each.area_px for each in found] == [9, 201]
    assert found[1].max_score == -1.0
    assert found[1].score == pytest.approx((199 * -2 - 1 - 3) / 201)
    assert mask.sum() == 210
    assert found[1].as_json() == {"box": [5, 10, 21, 11], "area_px": 201, "score": -2.0, "max_score": -1.0}
    large, mask = find_anomalies(_score(), -5.0, min_area_px=10)
    assert [each.area_px for each in large] == [201] and mask.sum() == 201
    assert find_anomalies(_score(), 0.0)[0] == []
    everything, _ = find_anomalies(_score(), -10.0)
    assert [each.box for each in everything] == [(0, 0, 121, 90)]


def test_a_score_at_the_threshold_counts_and_is_not_rounded() -> None:
    score = np.full((4, 4), np.float32(0.1))
    assert len(find_anomalies(score, float(np.float32(0.1)))[0]) == 1
    assert find_anomalies(score, float(np.float32(0.1)) + 1e-12)[0] == []


def test_colour_follows_the_score() -> None:
    image, score = np.full((90, 121, 3), 100, np.uint8), _score()
    shown = overlay(image, score, Legend("energy", -8.0, -2.0))
    # Enlarged four times, to a width at which the legend can be read.
    assert shown.shape[1] == 484 and shown.shape[0] % 2 == 0 and shown.shape[0] > 360
    assert (shown[160, 160] == 100).all()  # under the range: the frame (greyed, were it not grey)
    assert np.ptp(shown[60, 60].astype(int)) > 50  # over it: a colour


def test_anomalies_are_outlined_and_counted() -> None:
    image, score = np.full((90, 121, 3), 100, np.uint8), _score()
    found, mask = find_anomalies(score, -5.0)
    plain = overlay(image, score, Legend("energy", -8.0, -2.0))
    marked = overlay(image, score, Legend("energy", -8.0, -2.0, -5.0, "given"), found, mask, "frame 1")
    changed = (plain[:360] != marked[:360]).any(axis=2)
    assert changed[36:84, 16:104].sum() > 160 and not changed[120:160, 360:].any()
    assert (plain[360:] != marked[360:]).any()  # threshold, count and name are in the legend


@pytest.mark.parametrize(
    "size",
    [
        (1, 1),
        (2, 3),
        (31, 17),
        (40, 2000),
        (700, 30),
        (500, 1),
        (1, 500),
        (2160, 1),
        (9000, 1),
        (1, 9000),
        (9000, 3),
        (500, 2),
        (2000, 8),
    ],
)
def test_any_size_can_be_drawn(size: tuple[int, int]) -> None:
    score = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    found, mask = find_anomalies(score, 0.0)
    legend = Legend("energy", 0.0, 0.0, 0.0, "a source with many words " * 9)
    shown = overlay(np.zeros((*size, 3), np.uint8), score, legend, found, mask, "a long name, 日本" * 20)
    assert shown.dtype == np.uint8 and shown.shape[0] % 2 == 0 and shown.shape[1] % 2 == 0

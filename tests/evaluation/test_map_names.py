"""The file that belongs to a frame: by its whole name first, one file for one frame, and never by guessing."""

from __future__ import annotations

from itertools import permutations

import pytest

from mgcda_dist.evaluation.map_names import match_names

EXACT = [
    (["f1", "f1_rgb"], ["f1", "f1_rgb"]),
    (["f1", "f1_rgb"], ["f1_score", "f1_rgb_score"]),
    (["f1", "f1_rgb"], ["f1.score", "f1_rgb"]),
    (["a/0001", "b/0001"], ["a/0001", "b/0001"]),
    (["a/0001", "b/0001"], ["theirs/a/0001_score", "theirs/b/0001_score"]),
    (["a/0001", "b/0002"], ["out/0001", "out/0002"]),
    (["0001", "0002"], ["method/set/0001", "method/set/0002"]),
    (["x_rgb", "y_rgb"], ["x_anomaly", "y_anomaly"]),
    (["u/u_1", "u/u_2"], ["u_1_leftImg8bit_anomaly_score", "u_2_leftImg8bit_anomaly_score"]),
    (["0000_u_1", "0001_u_1"], ["0000_anomaly", "0001_anomaly"]),
    (["a%2Eb", "a_b"], ["a.b", "a_b"]),
    (["道路", "天空"], ["道路_score", "天空_score"]),
    (["_bung_3"], ["Übung.3"]),
]


@pytest.mark.parametrize(("keys", "names"), EXACT)
def test_every_frame_has_its_own_in_any_order(keys: list[str], names: list[str]) -> None:
    for order in permutations(range(len(keys))):
        found, unclear = match_names(keys, [names[i] for i in order])
        assert (found, unclear) == (dict(zip(keys, names, strict=True)), {})


@pytest.mark.parametrize(("keys", "names"), [pair for pair in EXACT if len(pair[0]) == 2])
@pytest.mark.parametrize("lost", [0, 1])
def test_a_frame_without_a_map_gets_no_other_frames_map(keys: list[str], names: list[str], lost: int) -> None:
    found, _ = match_names(keys, [names[1 - lost]])
    assert found.keys() <= {keys[1 - lost]}


@pytest.mark.parametrize(
    ("keys", "names", "problem"),
    [
        (["f1"], ["f1_score", "f1_anomaly"], "2 maps and 1 frames are called 'f1'"),
        (["a/x", "b/x"], ["x"], "1 maps and 2 frames are called 'x'"),
        (["x"], ["a/x", "b/x"], "2 maps and 1 frames are called 'a/x'"),
        (["2024_1", "2024_2"], ["2024"], "1 maps and 2 frames are called '2024'"),
        (["_"], ["道路", "天空"], "2 maps and 1 frames are called '_'"),
    ],
)
def test_what_several_could_own_nobody_gets(keys: list[str], names: list[str], problem: str) -> None:
    assert match_names(keys, names) == ({}, dict.fromkeys(keys, problem))


def test_a_file_named_as_one_frame_is_never_another_frames() -> None:
    found, _ = match_names(["f1", "f1_anomaly"], ["f1_anomaly", "f1_anomaly_anomaly"])
    assert found == {"f1_anomaly": "f1_anomaly"}


def test_folders_that_both_sides_have_are_equal() -> None:
    found, unclear = match_names(["a/0001", "b/0002"], ["a/0001", "a/0002"])
    assert found == {"a/0001": "a/0001"} and not unclear
    assert match_names(["c/0001"], ["a/0001", "b/0002"]) == ({}, {})

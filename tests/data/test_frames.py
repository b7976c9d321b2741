"""Evaluation frames: the same pictures every time, at the network's size, judged at their own."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from mgcda_dist.data.frames import EvaluationFrames
from mgcda_dist.data.paste import ObjectLibrary, PasteParams, PasteSource
from mgcda_dist.data.pixels import InputSize
from mgcda_dist.data.reader import ShardReader
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.method.batch import ANOMALY, VOID
from tests.support.shards import LUT, frame, write_frames, write_objects


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_frames(tmp_path_factory.mktemp("frames") / "frames", 6)


@pytest.fixture(scope="module")
def paste(tmp_path_factory: pytest.TempPathFactory) -> PasteSource:
    objects = write_objects(tmp_path_factory.mktemp("frames") / "objects", 3)
    return PasteSource(ObjectLibrary(ShardReader(objects)), PasteParams(scale=(0.2, 0.5)))


def test_frames_come_whole_and_in_order(manifest: Manifest):
    frames = EvaluationFrames(manifest, LUT)
    assert len(frames) == 6
    for number, (image, label, key, _) in enumerate(frames[i] for i in range(6)):
        expected_image, expected_label = frame(number)
        assert key == f"frames-{number:05d}"
        assert np.abs(image.astype(int) - expected_image).mean() < 5  # JPEG
        np.testing.assert_array_equal(label, LUT[expected_label])


def test_the_image_gets_the_network_size_and_the_label_keeps_its_own(manifest: Manifest):
    image, label, *_ = EvaluationFrames(manifest, LUT, size=InputSize(33))[0]
    assert image.shape == (33, 44, 3)
    assert label.shape == (60, 80)
    assert InputSize(33).applied(image) is image
    assert InputSize(66).applied(image).shape == (66, 88, 3)


@pytest.mark.parametrize(
    ("size", "found"), [((60, 80), (30, 40)), ((80, 60), (40, 30)), ((40, 2), (40, 2)), ((4000, 8), (40, 1))]
)
def test_the_longer_side_is_brought_to_a_length(size: tuple[int, int], found: tuple[int, int]):
    assert InputSize(longest_side_px=40).of(*size) == found
    assert InputSize().of(*size) == size


def test_max_frames_takes_the_first(manifest: Manifest):
    frames = EvaluationFrames(manifest, LUT, max_frames=2)
    assert [one.key for one in frames] == ["frames-00000", "frames-00001"]
    with pytest.raises(IndexError):
        frames[2]
    assert len(EvaluationFrames(manifest, LUT, max_frames=100)) == 6


def test_pasted_objects_are_the_same_every_time(manifest: Manifest, paste: PasteSource):
    frames = EvaluationFrames(manifest, LUT, paste, size=InputSize(30), seed=4)
    again = pickle.loads(pickle.dumps(EvaluationFrames(manifest, LUT, paste, size=InputSize(30), max_frames=5, seed=4)))
    other = EvaluationFrames(manifest, LUT, paste, size=InputSize(30), seed=5)
    first, second = frames[3], again[3]
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.label, second.label)
    assert (first.label == ANOMALY).sum() >= 16
    assert not np.array_equal(other[3].label, first.label)
    assert not np.array_equal(frames[2].label == ANOMALY, first.label == ANOMALY)


def test_frames_without_labels_are_void(tmp_path: Path):
    label = EvaluationFrames(write_frames(tmp_path / "bare", 2, labelled=False), LUT)[0].label
    assert (label == VOID).all()
    assert label.shape == (60, 80)

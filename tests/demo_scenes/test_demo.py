"""Samples and shards of generated data: the same bytes from the same seed, complete, without leaks into the test."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.demo_scenes.demo import Part, demo_size, samples, write_demo_shards
from mgcda_dist.demo_scenes.objects import FAMILIES
from mgcda_dist.errors import ConfigError, ShardError

SIZE = (64, 128)


def _decode(code: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(code, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return image


def _digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_seed_gives_the_same_bytes() -> None:
    part = Part("real_day", "test", 3, anomalies=True)
    first, again = (list(samples(part, 5, SIZE)) for _ in range(2))
    assert first == again
    assert list(islice(samples(replace(part, count=99), 5, SIZE), 3)) == first
    other = list(samples(part, 6, SIZE))
    assert all(a.image != b.image for a, b in zip(first, other, strict=True))
    objects = Part("objects", "train", 4, "objects")
    assert list(samples(objects, 5)) == list(samples(objects, 5))


def test_domains_and_splits_show_other_scenes() -> None:
    labels = [next(samples(Part("render_a", split, 1), 0, SIZE)).label for split in ("train", "val")]
    labels += [next(samples(Part(domain, "train", 1), 0, SIZE)).label for domain in ("render_b", "real_day")]
    assert len(set(labels)) == 4


def test_a_frame_sample_is_well_formed() -> None:
    sample = next(samples(Part("render_a", "train", 1, anomalies=True), 0, SIZE))
    assert sample.label is not None
    image, label = _decode(sample.image), _decode(sample.label)
    assert sample.image_ext == "jpg" and image.shape == (*SIZE, 3)
    assert label.shape == SIZE and label.dtype == np.uint8
    assert set(np.unique(label)) <= {*range(8), 254, 255}
    assert set(str(sample.meta["anomalies"]).split()) <= set(FAMILIES["train"])
    assert next(samples(Part("real_day", "train", 1, labelled=False), 0, SIZE)).label is None


def test_an_object_sample_is_a_cut_out_of_its_set() -> None:
    for sample in samples(Part("objects", "val", 6, "objects")):
        picture = _decode(sample.image)
        assert sample.image_ext == "png" and picture.shape[2] == 4 and sample.label is None
        assert sample.meta["category"] in FAMILIES["val"]


@pytest.mark.parametrize("size", [(31, 64), (64, 63), (0, 0)])
def test_an_impossible_size_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="even"):
        samples(Part("render_a", "train", 1), 0, size)


def test_an_unknown_domain_is_refused() -> None:
    with pytest.raises(ConfigError, match="real_day"):
        samples(Part("real_night", "train", 1))


def test_the_demo_set_is_complete_and_not_written_a_second_time(tiny_shards: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny_shards.rglob("*")}
    finished: list[int] = []
    paths = write_demo_shards(tiny_shards, frames_per_domain=8, image_px=SIZE, progress=finished.append)
    assert {path: path.stat().st_mtime_ns for path in tiny_shards.rglob("*")} == before
    manifests = {str(path.relative_to(tiny_shards)): Manifest.open(path) for path in paths}
    assert sum(finished) == demo_size(8) == sum(manifest.num_samples for manifest in manifests.values())
    for name in ("render_a/train", "render_b/train", "real_day/val", "real_day/test"):
        assert manifests[name].label_format == "road8"
        assert manifests[name].kind == "frames"
        strange = manifests[name].label_histogram.get(254, 0) > 0
        assert strange == name.endswith("test"), name
    assert not manifests["real_day/train"].label_histogram, "it stands for frames without annotation"
    assert manifests["objects/train"].kind == manifests["objects/val"].kind == "objects"


def test_folders_of_other_arguments_are_kept_unless_told(tiny_shards: Path) -> None:
    with pytest.raises(ShardError, match="overwrite"):
        write_demo_shards(tiny_shards, frames_per_domain=8, seed=1, image_px=SIZE, workers=1)


def test_the_number_of_processes_changes_no_byte(tiny_shards: Path, tmp_path: Path) -> None:
    finished: list[int] = []
    write_demo_shards(tmp_path, frames_per_domain=8, image_px=SIZE, progress=finished.append, workers=2)
    assert sum(finished) == demo_size(8)
    assert _digest(tmp_path) == _digest(tiny_shards)


def test_labels_of_the_third_renderer_on_request(tmp_path: Path) -> None:
    """The same frames, and their labels."""
    for label_all in (False, True):
        write_demo_shards(tmp_path / str(label_all), frames_per_domain=2, label_all=label_all, image_px=SIZE, workers=1)
    bare, labelled = (Manifest.open(tmp_path / name / "real_day/train") for name in ("False", "True"))
    assert not bare.label_histogram and sum(labelled.label_histogram.values()) == 2 * SIZE[0] * SIZE[1]
    train = Manifest.open(tmp_path / "True" / "render_a/train"), Manifest.open(tmp_path / "False" / "render_a/train")
    assert train[0].digest == train[1].digest


def test_the_objects_alone_are_those_of_the_whole_set(tiny_shards: Path, tmp_path: Path) -> None:
    paths = write_demo_shards(tmp_path, frames_per_domain=8, image_px=SIZE, only="objects", workers=1)
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == ["objects/train", "objects/val"]
    assert demo_size(8, only="objects") == sum(Manifest.open(path).num_samples for path in paths)
    assert _digest(tmp_path / "objects") == _digest(tiny_shards / "objects")

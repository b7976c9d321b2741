"""Every file of a folder is taken or counted; links are followed; a label belongs to one image, and is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mgcda_dist.data.labels import known_ids
from mgcda_dist.data.shards.sources import SOURCES
from mgcda_dist.data.shards.sources.source import SourceSet
from mgcda_dist.data.shards.write import write_shards
from mgcda_dist.errors import MgcdaError, ShardError
from tests.data.shards.test_sources import LAYOUTS, image, label, put


def counts(opened: SourceSet) -> dict[str, int]:
    return {each["why"]: each["count"] for each in opened.passed_over.as_json(len(opened.samples))["passed_over"]}


def keys(opened: SourceSet) -> list[str]:
    return [sample.key for sample in opened.samples]


def plain(folder: Path, **options: Any) -> SourceSet:
    return SOURCES["plain"].open(folder, "train", **options)


@pytest.mark.parametrize(("dataset", "images", "labels", "label_format", "first_key"), LAYOUTS)
def test_what_lies_beside_the_images_of_a_layout_is_counted(
    tmp_path: Path, dataset: str, images: str, labels: str, label_format: str, first_key: str
) -> None:
    frame = put(tmp_path / images.format("s"), image())
    put(tmp_path / labels.format("s"), label(*sorted(known_ids(label_format))[:2]))
    assert counts(SOURCES[dataset].open(tmp_path, "train")) == {}
    (frame.parent / ".ipynb_checkpoints").mkdir()
    for name in (".ipynb_checkpoints/x.jpg", "._s.png", "x.heic", "notes", ".DS_Store"):
        (frame.parent / name).write_bytes(b"x")
    (frame.parent / "gone.png").symlink_to("nowhere.png")
    opened = SOURCES[dataset].open(tmp_path, "train")
    assert len(opened.samples) == 1
    assert counts(opened) == {"hidden": 2, "a suffix that is not read": 2, "a broken link, or no regular file": 1}


def test_linked_folders_are_read_once_and_circles_end(tmp_path: Path) -> None:
    put(tmp_path / "store" / "images" / "x.jpg", image())
    put(tmp_path / "store" / "labels" / "x.png", label(0, 1))
    for kind, suffix in (("images", "jpg"), ("labels", "png")):
        put(tmp_path / "src" / kind / f"a.{suffix}", image() if kind == "images" else label(1))
        (tmp_path / "src" / kind / "drive").symlink_to(tmp_path / "store" / kind)
        (tmp_path / "src" / kind / "again").symlink_to("drive")
        (tmp_path / "src" / kind / "circle").symlink_to("..")
    opened = plain(tmp_path / "src")
    assert keys(opened)[:2] == ["a", "again/x"]
    assert "drive/x" not in keys(opened) and counts(opened)["a link back, or to a folder that is read already"] >= 2


def test_a_linked_city_is_read(tmp_path: Path) -> None:
    for kind, name, picture in (("leftImg8bit", "leftImg8bit", image()), ("gtFine", "gtFine_labelIds", label(7))):
        put(tmp_path / "disk2" / kind / f"ulm_1_{name}.png", picture)
        (tmp_path / "src" / kind / "train").mkdir(parents=True)
        (tmp_path / "src" / kind / "train" / "ulm").symlink_to(tmp_path / "disk2" / kind)
    put(tmp_path / "src" / "leftImg8bit" / "train" / "bonn" / "preview.png", image())
    opened = SOURCES["cityscapes"].open(tmp_path / "src", "train")
    assert keys(opened) == ["ulm/ulm_1"] and counts(opened) == {"the name does not end with _leftImg8bit": 1}


@pytest.mark.parametrize("suffix", ["bmp", "BMP", "tif", "TIFF", "PNG", "ppm", "JPG", "jfif"])
def test_every_suffix_that_is_a_picture_is_read(tmp_path: Path, suffix: str) -> None:
    form = "jpg" if suffix == "jfif" else suffix.lower()
    path = put(tmp_path / "images" / f"a.{form}", image(7))
    path.rename(path.with_suffix(f".{suffix}"))
    put(tmp_path / "labels" / "a.png", label(0, 1))
    assert keys(plain(tmp_path)) == ["a"] and counts(plain(tmp_path)) == {}


@pytest.mark.parametrize("suffix", ["PNG", "bmp", "tif"])
def test_a_label_may_have_any_lossless_suffix(tmp_path: Path, suffix: str) -> None:
    put(tmp_path / "images" / "a.jpg", image())
    path = put(tmp_path / "labels" / f"a.{suffix.lower()}", label(0, 1))
    path = path.rename(path.with_suffix(f".{suffix}"))
    assert keys(plain(tmp_path)) == ["a"]
    put(tmp_path / "labels" / "a.tiff", label(0, 1))
    with pytest.raises(ShardError, match=r"is there, too, so which is the label of a\?"):
        keys(plain(tmp_path))


def test_names_that_end_like_labels(tmp_path: Path) -> None:
    """`f1_gt` is a frame of its own, not the label of `f1`, wherever it has a label of its own."""
    for name in ("f1", "f1_gt", "street_gt"):
        put(tmp_path / "a" / "images" / f"{name}.jpg", image())
        put(tmp_path / "a" / "labels" / f"{name}.png", label(0, 1))
        put(tmp_path / "b" / f"{name}.png", image())
        put(tmp_path / "b" / f"{name}_label.png", label(0, 1))
    assert keys(plain(tmp_path / "a")) == keys(plain(tmp_path / "b")) == ["f1", "f1_gt", "street_gt"]
    (tmp_path / "a" / "labels" / "f1.png").unlink()
    with pytest.raises(ShardError, match=r"labels/f1\.png: no such label file \(1 of 3"):
        keys(plain(tmp_path / "a"))
    put(tmp_path / "b" / "other_gt.png", label(1))
    opened = plain(tmp_path / "b")
    assert len(opened.samples) == 3 and counts(opened) == {"named as a label, but there is no such image": 1}


def test_labels_without_images_and_pictures_in_subfolders_are_counted(tmp_path: Path) -> None:
    put(tmp_path / "a" / "images" / "x.jpg", image())
    for name in ("x", "y", "x_gt"):
        put(tmp_path / "a" / "labels" / f"{name}.png", label(0, 1))
    assert counts(plain(tmp_path / "a")) == {"a label without an image": 2}
    put(tmp_path / "b" / "x.jpg", image())
    put(tmp_path / "b" / "drive2" / "y.jpg", image())
    (tmp_path / "b" / "drive2" / "shard-000000.tar").write_bytes(b"x")
    assert counts(plain(tmp_path / "b", unlabelled=True)) == {"in a folder below the images": 1}


def test_an_image_is_no_label(tmp_path: Path) -> None:
    put(tmp_path / "images" / "a.png", label(0, 1))
    (tmp_path / "labels").symlink_to("images")
    with pytest.raises(ShardError, match="it is an image, and would be a label, too"):
        keys(plain(tmp_path))


def test_pictures_are_stored_in_a_format_of_shards(tmp_path: Path) -> None:
    from mgcda_dist.data.shards.encode import EncodeOptions, encode_sample

    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    for suffix in ("bmp", "tif", "ppm"):
        put(tmp_path / "images" / f"{suffix}.{suffix}", pixels)
    for sample in plain(tmp_path, unlabelled=True).samples:
        encoded = encode_sample(sample, EncodeOptions())
        stored = cv2.imdecode(np.frombuffer(encoded.image, np.uint8), cv2.IMREAD_UNCHANGED)
        assert encoded.image_ext == "png" and stored is not None and (stored == pixels).all()


@pytest.mark.parametrize("kind", ["images", "labels"])
@pytest.mark.parametrize("content", [b"", b"not a picture"])
def test_a_damaged_file_is_named_with_its_folder_and_the_key_that_skips_it(
    tmp_path: Path, kind: str, content: bytes
) -> None:
    for name in ("1", "2"):
        put(tmp_path / "images" / f"{name}.png", image())
        put(tmp_path / "labels" / f"{name}.png", label(1))
    (tmp_path / kind / "1.png").write_bytes(content)
    with pytest.raises(MgcdaError) as raised:
        write_shards(plain(tmp_path).samples, tmp_path / "out", dataset="plain", split="train", label_format="ids")
    assert raised.value.where == f"1 ({tmp_path}/{kind}/1.png)"


def test_a_label_of_another_size_is_named_with_its_folder(tmp_path: Path) -> None:
    put(tmp_path / "images" / "1.png", image())
    put(tmp_path / "labels" / "1.png", np.zeros((5, 8), np.uint8))
    with pytest.raises(MgcdaError, match=rf"1 \({tmp_path}/labels/1.png\): the label is 8×5 px, the image 8×6"):
        write_shards(plain(tmp_path).samples, tmp_path / "out", dataset="plain", split="train", label_format="ids")

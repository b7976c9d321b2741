"""Readers of datasets: miniatures in each official layout, and the real data where it is there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mgcda_dist.data.decode import decode_ids
from mgcda_dist.data.labels import FORMATS, LABEL_FORMATS, known_ids, lookup_table
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.data.shards.record import SourceSample
from mgcda_dist.data.shards.sources import SOURCES
from mgcda_dist.data.shards.sources.carla import _COLOURS_0913, _COLOURS_0914
from mgcda_dist.data.shards.sources.coco import KNOWN_TO_CITYSCAPES
from mgcda_dist.data.shards.sources.source import Source
from mgcda_dist.data.shards.write import write_shards
from mgcda_dist.errors import ConfigError, ShardError
from tests.support.commands import invoke, refusal
from tests.support.shards import verified


def put(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, array)[1].tobytes())
    return path


def image(value: int = 90) -> np.ndarray:
    return np.full((6, 8, 3), value, np.uint8)


def label(*values: int) -> np.ndarray:
    return np.resize(np.array(values, np.uint8), (6, 8))


def read(dataset: str, folder: Path, split: str, **options: Any) -> tuple[list[SourceSample], str]:
    opened = SOURCES[dataset].open(folder, split, **options)
    samples = list(opened.samples)
    assert len(samples) == len(opened.samples)
    return samples, opened.label_format


def ids(sample: SourceSample) -> set[int]:
    assert sample.label is not None
    return set(np.unique(decode_ids(sample.label, sample.key)).tolist())


def test_every_reader_has_its_name_and_says_where_its_data_is_from() -> None:
    assert all(SOURCES[name].name == name for name in SOURCES)
    assert all(source.licence and source.url for source in SOURCES.values())


LAYOUTS = [
    ("camvid", "train/{}.png", "trainannot/{}.png", "camvid", "s%2E00"),
    ("cityscapes", "leftImg8bit/train/bonn/{}_leftImg8bit.png", "gtFine/train/bonn/{}_gtFine_labelIds.png",
     "cityscapes_ids", "bonn/s%2E00"),
    ("idd_lite", "leftImg8bit/train/12/{}_image.jpg", "gtFine/train/12/{}_label.png", "idd_lite", "12/s%2E00"),
    ("lost_and_found", "leftImg8bit/train/01_Hanns/{}_leftImg8bit.png",
     "gtCoarse/train/01_Hanns/{}_gtCoarse_labelIds.png", "lost_and_found_ids", "01_Hanns/s%2E00"),
    ("road_anomaly", "frames/{}.webp", "frames/{}.labels/labels_semantic.png", "road_anomaly", "s%2E00"),
    ("gta5", "images/{}.png", "labels/{}.png", "gta5_ids", "s%2E00"),
    ("plain", "train/images/x/{}.jpeg", "train/labels/x/{}_labelIds.png", "binary", "x/s%2E00"),
    ("carla", "images/train/{}.jpg", "labels/train/{}.png", "carla_ids", "s%2E00"),
    *(
        ("bdd100k", f"{top}{images}", f"{top}{labels}", "cityscapes_train_ids", "s%2E00")
        for top in ("", "bdd100k/")
        for images, labels in (
            ("images/10k/train/{}.jpg", "labels/sem_seg/masks/train/{}.png"),
            ("seg/images/train/{}.jpg", "seg/labels/train/{}_train_id.png"),  # the first release
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize(("dataset", "images", "labels", "label_format", "first_key"), LAYOUTS)
def test_official_layouts(
    tmp_path: Path, dataset: str, images: str, labels: str, label_format: str, first_key: str
) -> None:
    raw = sorted(known_ids(label_format))[:2]
    for i in (2, 0, 1):
        put(tmp_path / images.format(f"s.0{i}"), image(i))
        if i < 2:
            put(tmp_path / labels.format(f"s.0{i}"), label(*raw))
    with pytest.raises(ShardError, match=r"1 of 3 images have none.*\n.*`unlabelled`"):
        read(dataset, tmp_path, "train")
    unlabelled, no_format = read(dataset, tmp_path, "train", unlabelled=True)
    assert no_format == "unlabelled" and all(sample.label is None for sample in unlabelled)
    put(tmp_path / labels.format("s.02"), label(raw[0]))
    samples, found_format = read(dataset, tmp_path, "train")
    assert found_format == label_format
    assert [sample.key for sample in samples] == [first_key, first_key[:-1] + "1", first_key[:-1] + "2"]
    assert [ids(sample) for sample in samples] == [set(raw), set(raw), {raw[0]}]
    assert {sample.image_ext for sample in samples} <= {"jpg", "png", "webp"}
    manifest = write_shards(SOURCES[dataset].open(tmp_path, "train").samples, tmp_path / "shards", dataset="toy",
                            split="train", label_format=label_format)  # fmt: skip
    assert manifest.num_samples == 3


def test_gta5_counts_number_plates_on(tmp_path: Path) -> None:
    """Cityscapes gives them -1, Playing for Data 34; in all else the ids are the same."""
    put(tmp_path / "images" / "00001.png", image())
    put(tmp_path / "labels" / "00001.png", label(7, 26, 34))
    write_shards(SOURCES["gta5"].open(tmp_path, "train").samples, tmp_path / "shards", dataset="gta5", split="train",
                 label_format="gta5_ids")  # fmt: skip
    assert verified(tmp_path / "shards").problems == []
    table, of_cityscapes = lookup_table("gta5_ids", "cityscapes19"), lookup_table("cityscapes_ids", "cityscapes19")
    assert table[34] == 255 and (table == of_cityscapes).all()
    assert known_ids("gta5_ids") - known_ids("cityscapes_ids") == {34}


def test_missing_folders_say_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "leftImg8bit").mkdir()
    with pytest.raises(ShardError, match=r"expected SPLIT/NAME\.png.*; there is leftImg8bit"):
        read("camvid", tmp_path, "train")
    for dataset in set(SOURCES) - {"camvid"}:
        with pytest.raises(ShardError, match="expected"):
            read(dataset, tmp_path, "train")
    put(tmp_path / "leftImg8bit" / "train" / "a.png", image())
    with pytest.raises(ShardError, match="no image named"):
        read("cityscapes", tmp_path, "train")


def test_plain_pairs_side_by_side(tmp_path: Path) -> None:
    for name in ("a", "b"):
        put(tmp_path / f"{name}.jpg", image())
        put(tmp_path / f"{name}_label.png", label(0, 1))
    samples, _ = read("plain", tmp_path, "test")
    assert [sample.key for sample in samples] == ["a", "b"] and ids(samples[0]) == {0, 1}
    _, label_format = read("plain", tmp_path, "test", label_format="cityscapes_train_ids")
    assert label_format == "cityscapes_train_ids" and label_format in LABEL_FORMATS
    with pytest.raises(ConfigError, match="no label format"):
        read("plain", tmp_path, "test", label_format="mine")


def test_carla_red_channel_and_colours(tmp_path: Path) -> None:
    red = np.dstack([label(0), label(0), label(7, 10), np.full((6, 8), 255, np.uint8)])
    colours = np.zeros((6, 8, 3), np.uint8)
    colours[:3], colours[3:] = (128, 64, 128), (142, 0, 0)  # BGR of road and vehicle
    for name, array in (("a", red), ("b", colours), ("c", label(7, 10))):
        put(tmp_path / f"{name}.jpg", image())
        put(tmp_path / f"{name}_label.png", array)
    samples, label_format = read("carla", tmp_path, "train")
    assert label_format == "carla_ids" and [ids(sample) for sample in samples] == [{7, 10}] * 3
    put(tmp_path / "b_label.png", colours + 1)
    with pytest.raises(ShardError, match=r"b_label\.png: the colour \(1, 1, 143\) is none of CARLA's"):
        read("carla", tmp_path, "train")


def test_carla_from_0914_has_other_ids_for_its_colours(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", image())
    colours = np.zeros((6, 8, 3), np.uint8)
    colours[:2], colours[2:4], colours[4:] = (128, 64, 128), (0, 0, 255), (50, 234, 157)  # BGR: road, rider, marking
    put(tmp_path / "a_label.png", colours)
    (sample,), label_format = read("carla", tmp_path, "train", label_format="carla_0914_ids")
    assert (label_format, ids(sample)) == ("carla_0914_ids", {1, 13, 24})
    with pytest.raises(ShardError, match=r"\(255, 0, 0\) is none of CARLA's\n.*give `label_format` carla_0914_ids"):
        read("carla", tmp_path, "train")
    with pytest.raises(ShardError, match="no labels of format 'camvid'"):
        read("carla", tmp_path, "train", label_format="camvid")


def test_both_palettes_of_carla_mean_the_same_things() -> None:
    for colour, raw in _COLOURS_0913.items():
        if colour in _COLOURS_0914:
            old, new = FORMATS["carla_ids"][raw], FORMATS["carla_0914_ids"][_COLOURS_0914[colour]]
            assert old == new or (old, new) == ("vehicle", "car"), colour
    assert set(_COLOURS_0913.values()) == set(range(23)) and set(_COLOURS_0914.values()) == set(range(29))


def cityscapes(folder: Path, split: str, *, archives: bool = False) -> None:
    """Two frames with fine and coarse labels."""
    images, fine, coarse = (
        ("leftImg8bit_trainvaltest/leftImg8bit", "gtFine_trainvaltest/gtFine", "gtCoarse/gtCoarse")
        if archives
        else ("leftImg8bit", "gtFine", "gtCoarse")
    )
    for name in ("ulm_000000_000019", "ulm_000001_000019"):
        put(folder / images / split / "ulm" / f"{name}_leftImg8bit.png", image())
        for kind, place, raw in (("gtFine", fine, 7), ("gtCoarse", coarse, 8)):
            put(folder / place / split / "ulm" / f"{name}_{kind}_labelIds.png", label(raw))
            put(folder / place / split / "ulm" / f"{name}_{kind}_color.png", image())


@pytest.mark.parametrize("archives", [False, True])
def test_cityscapes_fine_and_coarse(tmp_path: Path, archives: bool) -> None:
    cityscapes(tmp_path, "train", archives=archives)
    cityscapes(tmp_path, "train_extra", archives=archives)
    for split, options, raw, kind in (
        ("train", {}, 7, "fine"),
        ("train", {"coarse": True}, 8, "coarse"),
        ("train_extra", {}, 8, "coarse"),
    ):
        opened = SOURCES["cityscapes"].open(tmp_path, split, **options)
        assert [ids(sample) for sample in opened.samples] == [{raw}, {raw}]
        assert opened.metadata == {"annotation": kind} and opened.label_format == "cityscapes_ids"
    (kept,) = opened.samples.without(["ulm/ulm_000000_000019"])
    assert kept.key == "ulm/ulm_000001_000019"
    with pytest.raises(ShardError, match=r"no sample has the key ulm_000000_000019\n.*keys look like ulm/ulm_000000"):
        opened.samples.without(["ulm_000000_000019"])
    put(tmp_path / "copy" / "leftImg8bit" / "train" / "x" / "a_leftImg8bit.png", image())
    if archives:
        with pytest.raises(ShardError, match="there 2 times: copy/leftImg8bit/train, leftImg8bit_trainvaltest/"):
            read("cityscapes", tmp_path, "train")


def test_hidden_files_of_macos_are_no_images(tmp_path: Path) -> None:
    cityscapes(tmp_path, "val")
    for file in list(tmp_path.rglob("*.png")):
        file.with_name(f"._{file.name}").write_bytes(b"\0\5\x16\7")
        (file.parent / ".DS_Store").write_bytes(b"x")
        (file.parent / "Thumbs.db").write_bytes(b"x")
    assert len(read("cityscapes", tmp_path, "val")[0]) == 2


def coco(folder: Path, notes: list[dict[str, Any]]) -> Path:
    put(folder / "val2017" / "000000000007.jpg", np.full((100, 120, 3), 50, np.uint8))
    names = ["person", "bench", "dog", "cup"]
    content = {
        "images": [{"id": 7, "file_name": "000000000007.jpg", "width": 120, "height": 100}],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(names)],
        "annotations": [{"image_id": 7, "iscrowd": 0, "area": 1600, "id": i} | note for i, note in enumerate(notes)],
    }
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return folder


def square(x: int, y: int, side: int = 40) -> dict[str, Any]:
    box = [x, y, x + side, y, x + side, y + side, x, y + side]
    return {"segmentation": [box], "bbox": [x, y, side, side]}


def test_coco_objects(tmp_path: Path) -> None:
    overlapping = {
        "segmentation": square(30, 30)["segmentation"] + square(50, 30)["segmentation"],
        "bbox": [30, 30, 60, 40],
    }
    notes = [
        {"category_id": 3} | square(20, 30),
        {"category_id": 1} | square(20, 30),
        {"category_id": 2} | square(0, 30),
        {"category_id": 3, "iscrowd": 1, "segmentation": {"counts": [1], "size": [100, 120]}, "bbox": [0, 0, 9, 9]},
        {"category_id": 4, "area": 100} | square(20, 30, 10),
        {"category_id": 4} | overlapping,
    ]
    coco(tmp_path, notes)
    samples, label_format = read("coco", tmp_path, "val")
    assert label_format == "binary" and [s.key for s in samples] == [f"000000000007_{i}" for i in (0, 2, 5)]
    assert samples[0].meta == {"category": "dog", "photo": "000000000007.jpg"} and samples[0].label is None
    cutout = cv2.imdecode(np.frombuffer(samples[0].image, np.uint8), cv2.IMREAD_UNCHANGED)
    assert cutout is not None and cutout.shape == (41, 41, 4) and (cutout == (50, 50, 50, 255)).all()
    both = cv2.imdecode(np.frombuffer(samples[2].image, np.uint8), cv2.IMREAD_UNCHANGED)
    assert both is not None and (both[..., 3] == 255).all(), "where polygons overlap there is no hole"
    assert len(read("coco", tmp_path, "val", drop_cut=True)[0]) == 2
    assert len(read("coco", tmp_path, "val", drop_street_furniture=True)[0]) == 2
    assert len(read("coco", tmp_path, "val2017", min_area_px=50)[0]) == 4


def test_coco_faults(tmp_path: Path) -> None:
    coco(tmp_path, [{"category_id": 3} | square(20, 30)])
    (tmp_path / "val2017" / "000000000007.jpg").unlink()
    with pytest.raises(ShardError, match=r"000000000007\.jpg: no such photo"):
        read("coco", tmp_path, "val")
    coco(tmp_path, [{"category_id": 3, "image_id": 8} | square(20, 30)])
    with pytest.raises(ShardError, match="photo 8, which is not listed"):
        read("coco", tmp_path, "val")
    (tmp_path / "annotations" / "instances_val2017.json").write_text("{")
    with pytest.raises(ShardError, match="download the annotations again"):
        read("coco", tmp_path, "val")


@pytest.mark.parametrize(
    ("dataset", "folder", "split", "count", "options"),
    [
        ("camvid", "camvid", "val", 101, {}),
        ("idd_lite", "idd20k_lite", "val", 204, {}),
        ("idd_lite", "idd20k_lite", "test", 404, {"unlabelled": True}),
        ("cityscapes", "cityscapes", "val", 10, {}),
        ("road_anomaly", "road_anomaly", "test", 33, {}),
        ("lost_and_found", "lost_and_found", "test", 10, {}),
        ("gta5", "rendered/gta5", "train", 3, {}),
        ("carla", "rendered/carla_lyft", "train", 4, {}),
        ("carla", "rendered/carla_color", "train", 6, {}),
        ("carla", "rendered/carlascapes", "train", 4, {"label_format": "carla_0914_ids"}),
        ("coco", "coco", "val", 102, {}),
    ],
)
def test_real_data(
    real_data: Path, tmp_path: Path, dataset: str, folder: str, split: str, count: int, options: dict[str, Any]
) -> None:
    source = SOURCES[dataset]
    opened = source.open(real_data / folder, split, **options)
    manifest = write_shards(opened.samples, tmp_path / "a", dataset=dataset, split=split, kind=source.kind,
                            label_format=opened.label_format)  # fmt: skip
    assert manifest.num_samples == count
    assert verified(tmp_path / "a", partial=True).problems == []


def test_real_objects_are_unknown_to_cityscapes(real_data: Path) -> None:
    samples = SOURCES["coco"].open(real_data / "coco", "val").samples
    assert not {sample.meta["category"] for sample in samples} & KNOWN_TO_CITYSCAPES


def _no_label(folder: Path) -> str:
    for name in "ab":
        put(folder / f"images/{name}.png", image())
    put(folder / "labels/a.png", label(1))
    return "b"


def _two_labels(folder: Path) -> str:
    _no_label(folder)
    put(folder / "labels/b.png", label(1))
    put(folder / "labels/b.bmp", label(1))
    return "b"


def _no_photo(folder: Path) -> str:
    for number, place in enumerate(("a_0_0", "b_0_0")):
        put(folder / f"fishyscapes_lostandfound/000{number}_{place}_labels.png", label(0, 1))
    put(folder / "leftImg8bit/test/a/a_0_0_leftImg8bit.png", image())
    return "0001_b_0_0"


def _no_overlay(folder: Path) -> str:
    put(folder / "leftImg8bit/val/a/a_0_0_leftImg8bit.png", image())
    for number in (0, 1):
        put(folder / f"fs_val_v3/000{number}_a_0_0_labels.png", label(0, 1))
    put(folder / "fs_val_v3/0000_a_0_0_rgb.png", image())
    return "0001_a_0_0"


def _no_object_photo(folder: Path) -> str:
    coco(folder, [{"category_id": 3} | square(20, 30), {"category_id": 3, "image_id": 9} | square(20, 30)])
    file = folder / "annotations/instances_val2017.json"
    content = json.loads(file.read_text())
    content["images"].append(content["images"][0] | {"id": 9, "file_name": "gone.jpg"})
    file.write_text(json.dumps(content))
    return "gone_1"


@pytest.mark.parametrize(
    ("dataset", "split", "make", "problem"),
    [
        ("plain", "train", _no_label, "no such label file"),
        ("gta5", "train", _no_label, "no such label file"),
        ("python:tests.data.shards.test_sources:OWN", "train", _no_label, "no such label file"),
        ("plain", "train", _two_labels, "which is the label of b"),
        ("fishyscapes_lost_and_found", "val", _no_photo, "no such photo"),
        ("fishyscapes_static", "val", _no_overlay, "no overlay 0001_"),
        ("coco", "val", _no_object_photo, "no such photo"),
    ],
)
@pytest.mark.parametrize("option", ["--skip", "--only"])
def test_samples_that_are_left_out_may_be_broken(
    tmp_path: Path, dataset: str, split: str, make: Callable[[Path], str], problem: str, option: str
) -> None:
    key = make(tmp_path / "src")
    words = ("shards", "write", dataset, tmp_path / "src", tmp_path / "out", "--split", split)
    assert problem in str(refusal(*words))
    others = f"[!{key[0]}]*" if key[0] != "0" else "0000*"
    done = invoke(*words, option, key if option == "--skip" else others)
    assert done.exit_code == 0, (done.output, done.exception)
    assert Manifest.open(tmp_path / "out").num_samples == 1
    wrong = invoke(*words, "--overwrite", option, others if option == "--skip" else key)
    assert isinstance(wrong.exception, ShardError)


OWN = Source("own_pairs", SOURCES["plain"].open, "", "")

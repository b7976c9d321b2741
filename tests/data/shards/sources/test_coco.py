"""Annotation files in COCO's format as people have them: read right, counted as passed over, or refused by name."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mgcda_dist.data.decode import decode_cutout
from mgcda_dist.data.shards.record import SourceSample
from mgcda_dist.data.shards.sources import SOURCES
from mgcda_dist.data.shards.sources.source import safe_key
from mgcda_dist.errors import ShardError
from tests.support.commands import refusal
from tests.support.pictures import frame_file, turned

OUTLINE = [20, 30, 60, 30, 60, 70, 20, 70]
CONTENT = {
    "images": [{"id": 7, "file_name": "a.png", "width": 120, "height": 100}],
    "categories": [{"id": 1, "name": "person"}, {"id": 3, "name": "dog"}],
    "annotations": [
        {"id": 5, "image_id": 7, "category_id": 3, "segmentation": [OUTLINE], "area": 1600, "bbox": [20, 30, 40, 40],
         "iscrowd": 0}
    ],
}  # fmt: skip


def content(**changes: Any) -> dict[str, Any]:
    """A file of one annotation of one photo, with other values for fields of that annotation."""
    new = copy.deepcopy(CONTENT)
    new["annotations"][0] |= changes
    return new


def write(folder: Path, file: Any, name: str = "a.png", size: tuple[int, int] = (100, 120)) -> Path:
    photo = folder / "val2017" / name
    photo.parent.mkdir(parents=True, exist_ok=True)
    photo.write_bytes(cv2.imencode(".png", np.full((*size, 3), 50, np.uint8))[1].tobytes())
    (folder / "annotations").mkdir(exist_ok=True)
    data = file if isinstance(file, bytes) else json.dumps(file).encode()
    (folder / "annotations" / "instances_val2017.json").write_bytes(data)
    return folder


def read(folder: Path, **options: Any) -> list[SourceSample]:
    return list(SOURCES["coco"].open(folder, "val", **options).samples)


def dropped(value: dict[str, Any], *path: Any) -> dict[str, Any]:
    """The same without one key."""
    inner = value = copy.deepcopy(value)
    for part in path[:-1]:
        inner = inner[part]
    del inner[path[-1]]
    return value


def ids_as_text() -> dict[str, Any]:
    new = content(id="5", image_id="7", category_id="3")
    new["images"][0] |= {"width": "120", "height": "100"}
    return new


AS_USUAL = {
    "no area": dropped(content(), "annotations", 0, "area"),
    "no bbox, no iscrowd": dropped(dropped(content(), "annotations", 0, "bbox"), "annotations", 0, "iscrowd"),
    "area of something else": content(area=0.1, bbox=None, iscrowd=None),
    "a flat polygon": content(segmentation=OUTLINE),
    "numbers as text": ids_as_text(),
    "with a byte order mark": b"\xef\xbb\xbf" + json.dumps(content()).encode(),
    "in UTF-16": json.dumps(content()).encode("utf-16"),
    "beside a line of two points": content(segmentation=[[20, 30, 40, 40], OUTLINE]),
}


@pytest.mark.parametrize("name", AS_USUAL)
def test_what_tools_write_is_read_as_the_usual_file(tmp_path: Path, name: str) -> None:
    (expected,) = read(write(tmp_path / "usual", content()), drop_cut=True)
    assert expected.key == "a_5" and expected.meta == {"category": "dog", "photo": "a.png"}
    assert read(write(tmp_path / "other", AS_USUAL[name]), drop_cut=True) == [expected]


@pytest.mark.parametrize(
    "name",
    [
        "Person",
        "PERSON ",
        "Traffic_Light",
        "traffic-light",
        "Stop Sign",
        "Rider",
        "vegetation",
        "car_(automobile)",
        "Motorbike",
    ],
)
def test_known_categories_are_known_in_any_spelling(tmp_path: Path, name: str) -> None:
    new = content()
    new["categories"][1]["name"] = name
    assert read(write(tmp_path, new)) == []


PASSED_OVER: dict[str, dict[str, Any]] = {
    "without an outline": {"segmentation": None},
    "without an outline ": {"segmentation": []},
    "without an outline  ": {"segmentation": [[1, 2, 3, 4]]},
    "run-length coded": {"segmentation": {"counts": [5, 7], "size": [100, 120]}},
    "crowds": {"iscrowd": 1},
    "under 1024 px": {"segmentation": [[20, 30, 30, 30, 30, 40]], "area": 5000},
    "of a category that Cityscapes knows": {"category_id": 1},
    "cut by the border": {"segmentation": [[0, 30, 60, 30, 60, 70]]},
}


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    new = content()
    new["annotations"] += [
        content(**changes, id=i)["annotations"][0] for i, changes in enumerate(PASSED_OVER.values(), 9)
    ]
    new["annotations"].append(dropped(content(id=99), "annotations", 0, "segmentation")["annotations"][0])
    opened = SOURCES["coco"].open(write(tmp_path, new), "val", drop_cut=True)
    assert len(opened.samples) == 1
    expected = dict.fromkeys(map(str.strip, PASSED_OVER), 1) | {"without an outline": 4}
    listed = opened.passed_over.as_json(1)["passed_over"]
    assert {each["why"]: each["count"] for each in listed} == expected
    assert "annotation 9" in str(listed)


def with_entry(key: str, **changes: Any) -> dict[str, Any]:
    """The usual file with another entry in a list: the first one, changed."""
    new = content()
    new[key].append(new[key][0] | changes)
    return new


def resized(width: Any, height: Any) -> dict[str, Any]:
    new = content()
    new["images"][0] |= {"width": width, "height": height}
    return new


def named(name: str) -> dict[str, Any]:
    new = content()
    new["images"][0]["file_name"] = name
    return new


REFUSED: dict[str, tuple[Any, str]] = {
    "no categories": (dropped(content(), "categories"), "'categories': is missing"),
    "no annotations": (dropped(content(), "annotations"), "'annotations': is missing"),
    "a list": ([content()], "the file: .*an object"),
    "detections": (content()["annotations"], "the file: .*an object"),
    "null": (None, "the file: .*an object"),
    "cut off": (json.dumps(content()).encode()[:-40], "not readable .*EOF while parsing"),
    "not UTF-8": (json.dumps(content()).replace("dog", "h\xfcnd").encode("latin-1"), "not readable"),
    "empty": (b"", "not readable"),
    "without end": (b"[" * 100_000, "not readable .*recursion"),
    "no id": (dropped(content(), "annotations", 0, "id"), r"annotations\.0, id: is missing"),
    "no image_id": (dropped(content(), "annotations", 0, "image_id"), "annotation 5, image_id: is missing"),
    "a null polygon": (content(segmentation=[None]), r"annotation 5, segmentation\.0: .*array .*None"),
    "a null coordinate": (content(segmentation=[[None, *OUTLINE[1:]]]), r"annotation 5, segmentation\.0\.0: "),
    "NaN": (content(segmentation=[[float("nan"), *OUTLINE[1:]]]), r"annotation 5, segmentation\.0\.0: .*finite"),
    "infinity": (content(segmentation=[[float("inf"), *OUTLINE[1:]]]), r"annotation 5, segmentation\.0\.0: .*finite"),
    "odd": (content(segmentation=[OUTLINE[1:]]), r"annotation 5, segmentation\.0: 7 numbers are not pairs"),
    "text": (content(segmentation="20,30"), "annotation 5, segmentation: "),
    "no size": (dropped(content(), "images", 0, "width"), "image 7, width: is missing"),
    "no real size": (resized(0, 100), "image 7, width: .*greater than 0"),
    "no category name": (with_entry("categories", id=9, name=None), "category 9, name: .*None"),
    "a photo twice": (with_entry("images", file_name="b.png"), "image id 7 is given 2 times"),
    "a category twice": (with_entry("categories", name="cat"), "category id 1 is given 2 times"),
    "an annotation twice": (with_entry("annotations"), "annotation id 5 is given 2 times"),
    "text and number": (with_entry("images", id="7"), "image id 7 is given 2 times"),
    "no such photo": (content(image_id=8), "annotation 5 is of photo 8, which is not listed"),
    "no such category": (content(category_id=8), "annotation 5 is of category 8, which is not listed"),
    "normalised": (content(segmentation=[[0.2, 0.3, 0.5, 0.3, 0.5, 0.7]]), "look normalised"),
    "outside": (content(segmentation=[[20, 30, 60, 30, 60, 170]]), "annotation 5 reaches out of its photo of 120×100"),
    "far outside": (content(segmentation=[[20, 30, 60, 30, -1e30, 1e30]]), "annotation 5 reaches out of its photo"),
    "another size": (resized(160, 120), "the photo is 120×100 px, the annotations are of 160×120"),
    "another place": (named("../../a.png"), "image 7, file_name: leads out of its folder"),
    "an absolute place": (named("/etc/a.png"), "image 7, file_name: leads out of its folder"),
    "a long name": (named("a" * 300), "no such photo"),
    "half a character": (json.dumps(named("X")).replace("X", "\\ud800").encode(), "not readable|file_name"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_contradicts_itself_is_refused_by_name(tmp_path: Path, name: str) -> None:
    file, message = REFUSED[name]
    with pytest.raises(ShardError, match=message) as caught:
        read(write(tmp_path, file))
    assert caught.value.remedy


def test_many_problems_are_counted(tmp_path: Path) -> None:
    new = content(segmentation=[[None] * 8])
    with pytest.raises(ShardError, match=r"annotation 5, segmentation\.0\.2: .*; and 5 problems more"):
        read(write(tmp_path, new))


def test_any_file_name_gives_a_key(tmp_path: Path) -> None:
    name = "straße (1).v2.png"
    (sample,) = read(write(tmp_path, named(name), name))
    assert sample.key == safe_key("straße (1).v2_5") and sample.meta["photo"] == name


def test_an_outline_over_the_border_is_cut(tmp_path: Path) -> None:
    (sample,) = read(write(tmp_path, content(segmentation=[[80, 30, 125, 30, 125, 70, 80, 70]])))
    cutout = cv2.imdecode(np.frombuffer(sample.image, np.uint8), cv2.IMREAD_UNCHANGED)
    assert cutout is not None and cutout.shape == (41, 40, 4)


def test_outlines_of_a_turned_photo_need_a_choice(tmp_path: Path) -> None:
    write(tmp_path, content())
    pixels = np.random.default_rng(0).integers(0, 256, (100, 120, 3)).astype(np.uint8)
    (tmp_path / "val2017" / "a.png").write_bytes(frame_file("png rgb 8", pixels, 3)[0])
    with pytest.raises(ShardError, match=r"a\.png: the image is turned by 180° by its EXIF mark"):
        read(tmp_path)
    for exif, photo in (("stored", pixels), ("upright", turned(pixels, 3))):
        (sample,) = read(tmp_path, exif=exif)
        np.testing.assert_array_equal(decode_cutout(sample.image, "")[..., :3], photo[30:71, 20:61])


def test_a_file_without_an_object_says_what_was_passed_over(tmp_path: Path) -> None:
    folder = write(tmp_path / "coco", content(segmentation=None))
    error = refusal("shards", "write", "coco", folder, tmp_path / "out", "--split", "val")
    assert error.problem == "\n".join((
        "coco val has no samples", "0 taken, 1 passed over, because", "  without an outline: 1 (a.png: annotation 5)"
    ))  # fmt: skip


def licensed() -> dict[str, Any]:
    """The usual file with three photos: under licence 4, under licence 3, and one of which nothing is known."""
    new = content()
    new["licenses"] = [{"id": 3, "name": "BY-NC-ND"}, {"id": 4, "name": "BY"}, {"id": 0, "name": ""}]
    new["images"][0] |= {"license": 4, "flickr_url": "http://farm1.example/1/2_3.jpg"}
    for number, licence in ((8, {"license": 3}), (9, {})):
        new["images"].append(CONTENT["images"][0] | {"id": number, "file_name": "a.png"} | licence)
        new["annotations"].append(content(id=number, image_id=number)["annotations"][0])
    return new


def test_photos_are_chosen_by_their_licence(tmp_path: Path) -> None:
    folder = write(tmp_path, licensed())
    assert len(read(folder)) == 3
    (sample,) = read(folder, licence=["4"])
    assert sample.key == "a_5"
    assert sample.meta["licence"] == "BY" and sample.meta["origin"] == "http://farm1.example/1/2_3.jpg"
    assert len(read(folder, licence=["3", "4"])) == 2
    opened = SOURCES["coco"].open(folder, "val", licence=["4"])
    (listed,) = opened.passed_over.as_json(1)["passed_over"]
    assert listed["why"] == "of a photo under another licence, or of none" and listed["count"] == 2


@pytest.mark.parametrize(("file", "said"), [(licensed(), "3 (BY-NC-ND), 4 (BY)"), (content(), "it lists no licences")])
def test_a_licence_that_is_not_listed_is_refused(tmp_path: Path, file: dict[str, Any], said: str) -> None:
    with pytest.raises(ShardError, match="licence '7' is none of the annotation file") as caught:
        read(write(tmp_path, file), licence=["7"])
    assert said in str(caught.value)


@pytest.mark.parametrize("licences", [None, "none", [None], [{"id": 4}], [{"id": 4, "name": ""}], {}])
def test_licences_of_other_tools_are_no_obstacle(tmp_path: Path, licences: Any) -> None:
    assert len(read(write(tmp_path, licensed() | {"licenses": licences}))) == 3

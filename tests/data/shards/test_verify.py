"""Damage and wrong labels: each kind is found, named with its sample, and nothing else is reported."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from mgcda_dist.data.shards.encode import png_bytes
from mgcda_dist.data.shards.index import index_shards
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.data.shards.record import SourceSample
from mgcda_dist.data.shards.verify import Problem, shared_images, verify_shards
from mgcda_dist.data.shards.write import write_shards
from mgcda_dist.errors import ShardError, TransientError
from tests.support.commands import invoke
from tests.support.shards import all_samples, verified
from tests.support.tars import plain_tar

LABEL = np.arange(24 * 32, dtype=np.uint8).reshape(24, 32) % 8


def scene(i: int) -> np.ndarray:
    """A smooth picture of its own, as frames of different places are; uint8 H×W×3."""
    coarse = np.random.default_rng(i).integers(0, 256, (9, 12, 3), np.uint8)
    return cv2.resize(coarse, (96, 72), interpolation=cv2.INTER_CUBIC)


def frame(i: int) -> SourceSample:
    image = cv2.resize(scene(i), (32, 24), interpolation=cv2.INTER_AREA)
    return SourceSample(f"frame{i}", cv2.imencode(".png", image)[1].tobytes(), "png", png_bytes(LABEL))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shards([frame(i) for i in range(6)], tmp_path / "a", dataset="toy", split="train", label_format="road8",
                 samples_per_shard=3)  # fmt: skip
    return tmp_path / "a"


def foreign(folder: Path, samples: list[SourceSample], label_format: str = "road8", *, prefix: str = "") -> Path:
    """A folder of tar files of another tool, which nobody checked."""
    folder.mkdir()
    plain_tar(folder / "a.tar", {f"{prefix}{s.key}.{s.image_ext}": s.image for s in samples}
              | {f"{prefix}{s.key}.label.png": s.label for s in samples if s.label})  # fmt: skip
    index_shards(folder, dataset="toy", split="train", label_format=label_format)
    return folder


def test_sound_folders_have_no_problem(folder: Path) -> None:
    steps: list[int] = []
    found = verify_shards(Manifest.open(folder), progress=steps.append, workers=2)
    assert found.problems == [] and steps == [3, 3] and len(found.fingerprints) == 6
    assert verified(folder, contents=False).fingerprints == []


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    row = Manifest.open(path.parent).shard_index(1)[0]
    data[int(row["image_offset"]) + 60] ^= 255
    path.write_bytes(data)


def zero_header(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[:512] = bytes(512)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "whys"),
    [
        (Path.unlink, ["the file is missing"]),
        (lambda path: path.write_bytes(b""), ["the file is empty"]),
        (cut, ["cut off: 6656 bytes instead of 13312; 2 of its 3 samples are lost, from frame4 on"]),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), ["too long: 13313 bytes instead of 13312"]),
        (flip, ["altered: the checksum", "the image is damaged"]),
        (zero_header, ["altered: the checksum", "3 of its 3 samples are not where the sample table says, from frame3"]),
        (lambda path: path.write_bytes(bytes([255]) * 512 + path.read_bytes()[512:]),
         ["altered: the checksum", "not a whole tar file"]),
        (lambda path: path.with_name("shard-000001.idx.npy").write_bytes(b""), ["its sample table: not a readable"]),
        (lambda path: path.with_name("shard-000001.idx.npy").unlink(), ["its sample table: no such file"]),
    ],
)  # fmt: skip
def test_damaged_files(folder: Path, damage: Callable[[Path], object], whys: list[str]) -> None:
    damage(folder / "shard-000001.tar")
    problems = verified(folder).problems
    assert len(problems) == len(whys), "one fault is one problem, not one per sample"
    for problem, why in zip(problems, whys, strict=True):
        assert why in problem.why and problem.remedy
    assert {problem.shard for problem in problems} == {"shard-000001.tar"}


def swap_labels(index: np.ndarray) -> None:
    for field in ("label_offset", "label_bytes"):
        index[field][[0, 1]] = index[field][[1, 0]]


def set_field(field: str, value: object) -> Callable[[np.ndarray], None]:
    def alter(index: np.ndarray) -> None:
        index[field][1] = value

    return alter


@pytest.mark.parametrize(
    ("alter", "lost"),
    [
        (swap_labels, 2),
        (set_field("label_offset", 2**63), 1),
        (set_field("label_bytes", 1), 1),
        (set_field("meta_offset", 8), 1),
        (set_field("meta_bytes", 0), 1),
        (set_field("image_ext", b"jpg"), 1),
        (set_field("category", b"sheep"), 1),
        (set_field("key", b"frame5"), 1),
    ],
)
def test_sample_tables_that_name_other_bytes(tmp_path: Path, alter: Callable[[np.ndarray], None], lost: int) -> None:
    """The tables have no checksum of their own: the tar's headers and members are what they are held against."""
    samples = [replace(frame(i), meta={"category": "cow", "photo": f"{i}"}) for i in range(6)]
    write_shards(samples, tmp_path / "a", dataset="toy", split="train", label_format="road8", samples_per_shard=3)
    index = Manifest.open(tmp_path / "a").shard_index(1)
    alter(index)
    np.save(tmp_path / "a" / "shard-000001.idx.npy", index)
    problems = verified(tmp_path / "a").problems
    assert f"{lost} of its 3 samples are not where the sample table says" in problems[0].why
    assert {problem.shard for problem in problems} == {"shard-000001.tar"}


@pytest.mark.parametrize("damage", [(20, b"(("), (-200, b"\xb0\xb1"), (0, b"PK"), (8, b"\xff\xff")])
def test_sample_tables_of_garbage(folder: Path, damage: tuple[int, bytes]) -> None:
    place, garbage = damage
    path = folder / "shard-000001.idx.npy"
    data = bytearray(path.read_bytes())
    if place < 0:  # within the key of the first sample
        place = data.index(b"frame3")
    data[place : place + len(garbage)] = garbage
    path.write_bytes(data)
    problems = verified(folder).problems
    assert problems and {problem.shard for problem in problems} == {"shard-000001.tar"}
    assert "sample table" in problems[0].why


def test_a_shard_table_of_garbage(folder: Path) -> None:
    table = Manifest.open(folder).table.copy()
    table["name"][1] = b"shard-\xff\xfe.tar"
    np.save(folder / "shards.npy", table)
    whys = [problem.why for problem in verified(folder).problems]
    assert any("digest" in why for why in whys) and any("is no file name" in why for why in whys)


def test_uncounted_shards(folder: Path) -> None:
    (folder / "shard-000007.tar").write_bytes((folder / "shard-000000.tar").read_bytes())
    problems = verified(folder).problems
    assert [problem.shard for problem in problems] == ["shard-000007.tar"]
    assert "not in the shard table" in problems[0].why


def test_sums_that_do_not_match(folder: Path) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    histogram = content["label_histogram"] | {"3": content["label_histogram"]["3"] - 5, "9": 5}
    (folder / "manifest.json").write_text(json.dumps(content | {"num_bytes": 1, "label_histogram": histogram}))
    whys = [problem.why for problem in verified(folder).problems]
    assert whys == [
        f"the shard table counts {content['num_bytes']} bytes, the manifest 1",
        "the labels hold other ids, or other numbers of pixels, than the manifest counts: 3, 9",
    ]
    assert len(verified(folder, contents=False).problems) == 1, "nothing is decoded, nothing is counted"


def test_counts_that_do_not_match(folder: Path) -> None:
    np.save(folder / "shard-000001.idx.npy", Manifest.open(folder).shard_index(1)[:2])
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"num_samples": 6', '"num_samples": 7'))
    whys = [problem.why for problem in verified(folder).problems]
    assert "the shard table counts 6 samples, the manifest 7" in whys
    assert any("2 samples, but the manifest counts 3" in why for why in whys)


def test_another_manifest_has_another_digest(folder: Path) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(content | {"label_format": "camvid"}))
    assert any("digest" in problem.why for problem in verified(folder).problems)


@pytest.mark.parametrize(
    ("label", "why", "label_format"),
    [
        (png_bytes(np.where(LABEL == 3, 99, LABEL).astype(np.uint8)), "ids 99 are none of road8's", "road8"),
        (png_bytes(np.full((24, 32), 255, np.uint8)), "every pixel is void", "road8"),
        (png_bytes(np.full((24, 32), 4, np.uint8)), "every pixel is void", "cityscapes_ids"),
        (png_bytes(LABEL[:12]), "the label is 32×12 px, the image 32×24", "road8"),
        (png_bytes((LABEL * 20 + 60).astype(np.uint8)), "looks like colours turned to grey", "road8"),
        (None, "no label", "road8"),
    ],
)
def test_unfit_labels(tmp_path: Path, label: bytes | None, why: str, label_format: str) -> None:
    good = png_bytes(np.full((24, 32), 7, np.uint8))
    samples = [replace(frame(0), label=good), replace(frame(1), label=label), replace(frame(2), label=good)]
    problems = verified(foreign(tmp_path / "a", samples, label_format)).problems
    assert [(problem.shard, problem.key) for problem in problems] == [("a.tar", "frame1")]
    assert why in problems[0].why


def test_names_that_start_with_a_dot_and_sets_without_any_label_are_fine(tmp_path: Path) -> None:
    samples = [frame(i) for i in range(3)]  # as `tar -cf a.tar .` writes them
    assert verified(foreign(tmp_path / "dots", samples, prefix="./")).problems == []
    bare = [replace(sample, label=None) for sample in samples]
    assert verified(foreign(tmp_path / "bare", bare)).problems == []


@pytest.mark.parametrize(
    ("left_out", "whys"),
    [
        (0, ["3 samples, but road_anomaly test has 60"]),
        (56, ["3 samples, but road_anomaly test has 60 (56 left out by `skip`)"]),
        (57, []),
    ],
)
def test_known_datasets_have_their_size(tmp_path: Path, left_out: int, whys: list[str]) -> None:
    label = png_bytes(np.where(LABEL > 3, 2, 0).astype(np.uint8))
    skipped = {"selection": {"skip": [f"s{i}" for i in range(left_out)]}} if left_out else {}
    write_shards([replace(frame(i), label=label) for i in range(3)], tmp_path / "a", dataset="road_anomaly",
                 split="test", label_format="road_anomaly", provenance=skipped)  # fmt: skip
    assert [problem.why for problem in verified(tmp_path / "a").problems] == whys
    assert verified(tmp_path / "a", partial=True).problems == []


def test_objects_need_alpha(tmp_path: Path) -> None:
    clear, solid = np.zeros((8, 8, 4), np.uint8), np.full((8, 8, 4), 255, np.uint8)
    plain_tar(tmp_path / "a.tar", {f"o{i}.png": png_bytes(a) for i, a in enumerate([solid, clear, solid[..., :3]])})
    index_shards(tmp_path, dataset="toy", split="train", label_format="binary", kind="objects")
    problems = [(problem.key, problem.why) for problem in verified(tmp_path).problems]
    assert problems[0] == ("o1", "nothing of the object is visible")
    assert problems[1] == ("o2", "the object is a PNG of mode RGB, without readable alpha") and len(problems) == 2
    opaque = SourceSample("o", png_bytes(solid[..., :3]), "png")
    with pytest.raises(ShardError, match="o: the object is a PNG of mode RGB"):
        write_shards([opaque], tmp_path / "b", dataset="toy", split="val", label_format="binary", kind="objects")


def test_the_same_image_in_two_splits(tmp_path: Path) -> None:
    def write(name: str, images: dict[str, bytes], extension: str) -> Path:
        samples = [SourceSample(key, image, extension) for key, image in images.items()]
        write_shards(samples, tmp_path / name, dataset="toy", split=name, label_format="unlabelled")
        return tmp_path / name

    pngs = {f"t{i}": cv2.imencode(".png", scene(i))[1].tobytes() for i in range(30)}
    small = cv2.resize(scene(7), (48, 36), interpolation=cv2.INTER_AREA)
    jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 70])[1].tobytes()
    train = verified(write("train", pngs, "png"))
    others = {f"v{i}": cv2.imencode(".png", scene(i))[1].tobytes() for i in range(100, 130)}
    assert list(shared_images(train, verified(write("val", others, "png")))) == []
    copied = list(shared_images(train, verified(write("copied", others | {"w": pngs["t3"]}, "png"))))
    assert [(problem.key, "the same image as t3 in" in problem.why) for problem in copied] == [("w", True)]
    altered = list(shared_images(train, verified(write("altered", {"w": jpeg}, "jpg"))))
    assert [problem.key for problem in altered] == ["w"] and "bits differ) as t7 in" in altered[0].why


def test_a_folder_without_manifest_is_an_error_not_a_problem(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="mgcda shards index"):
        verified(tmp_path)
    assert Problem("a", "b", "c", "d").remedy == "d"


def _mixed_up(folder: Path, kind: str) -> None:
    """Files of another split among those of this one, or numbers that somebody changed."""
    other = folder.parent / "other"
    write_shards([frame(i) for i in range(10, 17)], other, dataset="toy", split="val", label_format="road8",
                 samples_per_shard=3)  # fmt: skip
    if kind == "a shard":
        for name in ("shard-000001.tar", "shard-000001.idx.npy"):
            (folder / name).write_bytes((other / name).read_bytes()[: None if "idx" in name else -512])
    elif kind == "a cut shard":
        (folder / "shard-000000.tar").write_bytes((folder / "shard-000000.tar").read_bytes()[:-512])
    elif kind == "the table":
        write_shards([frame(i) for i in range(10, 16)], other, dataset="toy", split="val", label_format="road8",
                     samples_per_shard=3, overwrite=True)  # fmt: skip
        (folder / "shards.npy").write_bytes((other / "shards.npy").read_bytes())
    else:
        content = json.loads((folder / "manifest.json").read_text())
        content[kind] = "0" * 64 if kind == "digest" else content[kind] + 1
        (folder / "manifest.json").write_text(json.dumps(content))


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize(
    "kind", ["a shard", "a cut shard", "the table", "num_samples", "num_bytes", "digest", "split", "label_format"]
)
def test_a_mixed_up_folder_is_not_read_and_verify_says_all_of_it(folder: Path, kind: str, indexed: bool) -> None:
    if indexed:
        index_shards(folder, dataset="toy", split="train", label_format="road8", overwrite=True)
    assert len(all_samples(Manifest.open(folder))) == 6
    if kind in ("split", "label_format"):
        content = json.loads((folder / "manifest.json").read_text()) | {kind: "unlabelled"}
        (folder / "manifest.json").write_text(json.dumps(content))
    else:
        _mixed_up(folder, kind)
    with pytest.raises(ShardError, match="`mgcda shards verify`") as caught:
        all_samples(Manifest.open(folder))
    done = invoke("shards", "verify", folder)
    assert done.exit_code == 1 and re.search("copy the (shard|folder) again", done.output), done.output
    if "shard" not in kind:  # whoever edits a manifest is told that this is what happened, and what to do instead
        for said in (caught.value.remedy, done.output):
            assert "manifest.json was changed" in said and "label_format" in said


def test_a_label_format_that_nobody_knows_is_one_problem_of_its_folder(folder: Path) -> None:
    """… and ends neither the check of this folder nor that of those after it."""
    other = foreign(folder.parent / "b", [frame(i) for i in range(10, 12)])
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(content | {"label_format": "bin"}))
    cut(folder / "shard-000001.tar")
    problems = verified(folder).problems
    unknown = [problem for problem in problems if "no label format 'bin'" in problem.why]
    assert len(unknown) == 1 and unknown[0].shard == "manifest.json" and unknown[0].remedy
    assert any("cut off" in problem.why for problem in problems) and not any("ids" in each.why for each in problems)
    done = invoke("shards", "verify", folder, other)
    assert done.exit_code == 1 and f"{folder}: manifest.json: no label format 'bin'" in done.output
    assert f"{other}: 2 samples in 1 shard, no problem" in done.output


def test_a_folder_that_cannot_be_fetched_does_not_end_the_check_of_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, path = foreign(folder.parent / "b", [frame(i) for i in range(10, 12)]), Manifest.shard_path

    def away(manifest: Manifest, shard: int) -> Path:
        if manifest.folder == folder:
            raise TransientError("shard-000000.tar", "the server does not answer")
        return path(manifest, shard)

    monkeypatch.setattr(Manifest, "shard_path", away)
    done = invoke("shards", "verify", folder, other)
    assert done.exit_code == 1 and f"{folder}: shard-000000.tar: the server does not answer" in done.output
    assert f"{other}: 2 samples in 1 shard, no problem" in done.output and "1 problem in 2 folders" in done.output

"""Tar files of other people's habits, read in place and as a stream: right, or refused with the member's name."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mgcda_dist.data.shards.encode import png_bytes
from mgcda_dist.data.shards.index import index_shards
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.data.shards.members import category_of
from mgcda_dist.errors import ShardError, TransientError
from tests.support.shards import verified
from tests.support.tars import plain_tar

pytestmark = pytest.mark.usefixtures("cache")
IDS = np.arange(12, dtype=np.uint8).reshape(3, 4) % 2
LABEL = png_bytes(IDS)
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8)
PHOTO = {form: cv2.imencode(f".{form}", PIXELS)[1].tobytes() for form in ("jpg", "png", "bmp", "tif", "webp")}
FORMS = ["plain", "gzip"]


def index(path: Path, form: str = "plain", **changes: Any) -> Manifest:
    if form == "gzip":
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    arguments: dict[str, Any] = {"dataset": "theirs", "split": "train", "label_format": "binary"} | changes
    manifest = index_shards(path.parent, **arguments)
    assert verified(path.parent).problems == []
    return manifest


def passed_over(manifest: Manifest) -> dict[str, int]:
    return {each["why"]: each["count"] for each in manifest.provenance["ledger"]["passed_over"]}


def parts(manifest: Manifest) -> dict[str, tuple[bytes, bytes]]:
    """Key → image and label."""
    found: dict[str, tuple[bytes, bytes]] = {}
    for shard in range(manifest.num_shards):
        data = manifest.shard_path(shard).read_bytes()
        for row in manifest.shard_index(shard):
            places = [(int(row[f"{part}_offset"]), int(row[f"{part}_bytes"])) for part in ("image", "label")]
            image, label = (data[start : start + size] for start, size in places)
            found[row["key"].decode()] = image, label
    return found


def linked(path: Path, links: list[tuple[str, bytes, str]]) -> Path:
    """A tar of an image, a label, and links: name, kind and target."""
    with tarfile.open(path, "w") as tar:
        for name, data in (("d/a.jpg", PHOTO["jpg"]), ("d/a.label.png", LABEL), ("d/b.jpg", PHOTO["jpg"])):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, kind, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
    return path


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("image", "label"), [("bmp", "png"), ("tif", "png"), ("png", "tif"), ("png", "bmp")])
def test_pixels_say_which_of_two_pictures_is_the_label(tmp_path: Path, form: str, image: str, label: str) -> None:
    ids = cv2.imencode(f".{label}", IDS)[1].tobytes()
    plain_tar(tmp_path / "a.tar", dict(sorted({f"a.{image}": PHOTO[image], f"a.{label}": ids}.items())))
    manifest = index(tmp_path / "a.tar", form)
    assert parts(manifest) == {"a": (PHOTO[image], ids)} and sum(manifest.label_histogram.values()) == 12
    assert passed_over(manifest) == {}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.heic": b"x", "a.png": LABEL}, "png holds ids of binary.*: which is the image among heic, png"),
        ({"a.png": LABEL}, "png holds ids of binary"),
        ({"a.bmp": PHOTO["bmp"], "a.png": PHOTO["png"]}, "none of png, bmp holds ids"),
        ({"a.tif": PHOTO["tif"], "a.bmp": PHOTO["bmp"], "a.png": LABEL}, "which is the image"),
        ({"a.label.png": LABEL, "a.heic": b"x"}, "no image among the members heic, label.png"),
        ({"x.0001.jpg": PHOTO["jpg"], "x.0001.png": LABEL}, "no image among.*\n.*base names must have no dot"),
        ({"a.png": PHOTO["png"], "a.PNG": LABEL}, "two members .png, a.png and a.PNG"),
    ],
)
def test_what_is_not_clear_is_refused(tmp_path: Path, form: str, members: dict[str, bytes], message: str) -> None:
    plain_tar(tmp_path / "a.tar", members)
    with pytest.raises(ShardError, match=message):
        index(tmp_path / "a.tar", form)


def test_named_extensions_and_unlabelled_sets_are_taken_as_they_are(tmp_path: Path) -> None:
    from mgcda_dist.data.shards.roles import Extensions

    plain_tar(tmp_path / "a.tar", {"a.png": LABEL})
    assert index(tmp_path / "a.tar", extensions=Extensions(image=("png",))).num_samples == 1
    assert index(tmp_path / "a.tar", label_format="unlabelled", overwrite=True).num_samples == 1


@pytest.mark.parametrize("form", FORMS)
def test_members_that_no_sample_has_are_counted(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "set"
    (folder / "more").mkdir(parents=True)
    names = ["a.jpg", "a.png", "a.txt", "a.2.jpg", ".ipynb_checkpoints/a.jpg", "d/._b.jpg", "README.md", "LICENSE"]
    plain_tar(folder / "a.tar", {name: LABEL if name == "a.png" else PHOTO["jpg"] for name in names})
    (folder / "notes.csv").write_bytes(b"x")
    plain_tar(folder / "more" / "b.tar", {"b.jpg": PHOTO["jpg"]})
    manifest = index(folder / "a.tar", form)
    assert list(parts(manifest)) == ["a"]
    assert passed_over(manifest) == {
        "hidden": 2, "without a suffix": 1, "not the image, the label or the JSON of a sample": 3,
        "in a subfolder": 1, "not one of the shards": 1,
    }  # fmt: skip
    again = index_shards(folder, dataset="theirs", split="train", label_format="binary", overwrite=True)
    assert again.provenance == manifest.provenance


def test_a_compressed_copy_is_not_read_a_second_time(tmp_path: Path) -> None:
    plain_tar(tmp_path / "a.tar", {"a.jpg": PHOTO["jpg"], "a.png": LABEL})
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes()))
    plain_tar(tmp_path / "b.tar", {"b.jpg": PHOTO["jpg"], "b.png": LABEL})
    (tmp_path / "b.tar").write_bytes(gzip.compress((tmp_path / "b.tar").read_bytes()))
    (tmp_path / "b.tar").rename(tmp_path / "b.tgz")
    manifest = index_shards(tmp_path, dataset="theirs", split="train", label_format="binary")
    assert manifest.num_samples == 2 and passed_over(manifest) == {"a tar of this name is there, too": 1}


@pytest.mark.parametrize(
    "links",
    [
        [("d/b.label.png", tarfile.LNKTYPE, "d/a.label.png")],
        [("d/b.label.png", tarfile.SYMTYPE, "a.label.png")],
        [("d/b.label.png", tarfile.SYMTYPE, "../c/x"), ("c/x", tarfile.LNKTYPE, "./d/a.label.png")],
    ],
)
def test_links_are_the_bytes_they_lead_to(tmp_path: Path, links: list[tuple[str, bytes, str]]) -> None:
    manifest = index(linked(tmp_path / "a.tar", links))
    assert parts(manifest)["d/b"] == parts(manifest)["d/a"] == (PHOTO["jpg"], LABEL)


@pytest.mark.parametrize(
    ("link", "message"),
    [
        (("d/b.label.png", tarfile.LNKTYPE, "d/none.png"), r"d/b\.label\.png: a link to 'd/none\.png', which is not"),
        (("d/b.label.png", tarfile.SYMTYPE, "/etc/passwd"), "a link to '/etc/passwd'"),
        (("d/b.label.png", tarfile.SYMTYPE, "../../a.png"), "a link to '../../a.png'"),
        (("d/b.label.png", tarfile.SYMTYPE, "b.label.png"), "a link to 'b.label.png'"),
        (("d/b.label.png", tarfile.LNKTYPE, "d/b.jpg"), "its label d/b.label.png is its image"),
        (("d/b.label.png", tarfile.FIFOTYPE, ""), "no regular file"),
    ],
)
def test_links_that_lead_nowhere_are_named(tmp_path: Path, link: tuple[str, bytes, str], message: str) -> None:
    with pytest.raises(ShardError, match=message):
        index(linked(tmp_path / "a.tar", [link]))


def test_a_stream_cannot_follow_links(tmp_path: Path) -> None:
    path = linked(tmp_path / "a.tar", [("d/b.label.png", tarfile.LNKTYPE, "d/a.label.png")])
    with pytest.raises(ShardError, match=r"d/b\.label\.png: a link to 'd/a\.label\.png', which a stream.*\n.*derefer"):
        index(path, "gzip")


@pytest.mark.parametrize("form", FORMS)
def test_sparse_members_are_named(tmp_path: Path, form: str) -> None:
    plain_tar(tmp_path / "a.tar", {"a.jpg": PHOTO["jpg"], "a.label.png": LABEL})
    data = bytearray((tmp_path / "a.tar").read_bytes())
    header = data.index(b"a.label.png")
    data[header + 156] = ord("S")  # the old GNU form: a list of pieces, none here, and the real size
    data[header + 345 : header + 512] = bytes(167)
    data[header + 483 : header + 495] = b"00000000000\0"
    data[header + 148 : header + 156] = b" " * 8
    data[header + 148 : header + 156] = f"{sum(data[header : header + 512]):06o}\0 ".encode()
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ShardError, match=r"a\.label\.png: a sparse member.*\n.*not sparse"):
        index(tmp_path / "a.tar", form)


def whole(folder: Path, *, end: int = 2) -> bytes:
    plain_tar(folder / "x.tar", {"b.jpg": PHOTO["jpg"], "b.png": LABEL})
    data = (folder / "x.tar").read_bytes().rstrip(b"\0")
    (folder / "x.tar").unlink()
    return data + bytes(-len(data) % 512 + end * 512)


@pytest.mark.parametrize("padding", [1, 2, 20, 5000])
def test_tars_behind_one_another_are_all_read(tmp_path: Path, padding: int) -> None:
    second = whole(tmp_path)
    first = second.replace(b"b.jpg", b"a.jpg", 1).replace(b"b.png", b"a.png", 1)
    data = bytearray(first)
    for name in (b"a.jpg", b"a.png"):
        header = data.index(name)
        data[header + 148 : header + 156] = b" " * 8
        data[header + 148 : header + 156] = f"{sum(data[header : header + 512]):06o}\0 ".encode()
    (tmp_path / "a.tar").write_bytes(bytes(data[:-1024]) + bytes(512 * padding) + second)
    manifest = index(tmp_path / "a.tar")
    assert parts(manifest) == dict.fromkeys("ab", (PHOTO["jpg"], LABEL))
    with pytest.raises(ShardError, match="behind the end mark of the tar there is more data"):
        index(tmp_path / "a.tar", "gzip", overwrite=True)


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        (b"x" * 600, "the data behind its end mark, at byte .*, is no tar"),
        (None, "no end mark at byte"),
    ],
)
def test_other_data_behind_the_end_mark_and_no_end_mark(tmp_path: Path, tail: bytes | None, message: str) -> None:
    (tmp_path / "a.tar").write_bytes(whole(tmp_path) + tail if tail else whole(tmp_path, end=0))
    with pytest.raises(ShardError, match=message):
        index(tmp_path / "a.tar")
    with pytest.raises((ShardError, TransientError), match="more data" if tail else "not a whole tar"):
        index(tmp_path / "a.tar", "gzip")


def test_a_damaged_header_in_the_middle_is_no_end(tmp_path: Path) -> None:
    data = bytearray(whole(tmp_path))
    data[data.index(b"b.png")] ^= 1
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ShardError, match="no end mark at byte"):
        index(tmp_path / "a.tar")


@pytest.mark.parametrize("meta", [b"[" * 100_000, b'{"category": "\\ud800"}', b"\xff", b"7"])
def test_meta_that_is_no_document_has_no_category(meta: bytes) -> None:
    assert category_of(meta) in ("", "\\ud800")

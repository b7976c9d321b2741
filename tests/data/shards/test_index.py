"""Tar files of other tools: written by the real WebDataset library, or by plain tar, and read by offset."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from mgcda_dist.data.shards.encode import png_bytes
from mgcda_dist.data.shards.index import index_shards
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.data.shards.roles import Extensions
from mgcda_dist.errors import ConfigError, ShardError
from tests.support.shards import verified
from tests.support.tars import plain_tar

LABEL = png_bytes(np.arange(12, dtype=np.uint8).reshape(3, 4) % 8)
JPEG = cv2.imencode(".jpg", np.full((3, 4, 3), 90, np.uint8))[1].tobytes()
PNG = cv2.imencode(".png", np.full((3, 4, 3), (30, 60, 90), np.uint8))[1].tobytes()


def index(folder: Path, **changes: object) -> Manifest:
    arguments = {"dataset": "theirs", "split": "train", "label_format": "road8"} | changes
    return index_shards(folder, **arguments)  # pyright: ignore[reportArgumentType]


def member(manifest: Manifest, shard: int, row: int, what: str) -> bytes:
    entry = manifest.shard_index(shard)[row]
    start, size = int(entry[f"{what}_offset"]), int(entry[f"{what}_bytes"])
    return manifest.shard_path(shard).read_bytes()[start : start + size]


def test_what_webdataset_wrote(tmp_path: Path) -> None:
    from webdataset.writer import TarWriter

    for shard in range(2):
        with TarWriter(str(tmp_path / f"train-{shard}.tar")) as writer:
            for i in range(3):
                writer.write({"__key__": f"d/{shard}{i}", "jpg": JPEG, "seg.png": LABEL, "json": {"i": i}})
    manifest = index(tmp_path)
    assert Manifest.open(tmp_path) == manifest
    assert (manifest.num_samples, manifest.shard_sizes.tolist()) == (6, [3, 3])
    assert [row["key"].decode() for row in manifest.shard_index(1)] == ["d/10", "d/11", "d/12"]
    assert member(manifest, 1, 2, "image") == JPEG and member(manifest, 1, 2, "label") == LABEL
    assert member(manifest, 1, 2, "meta") == b'{"i": 2}'
    assert sum(manifest.label_histogram.values()) == 6 * 12
    assert verified(tmp_path).problems == []
    with pytest.raises(ShardError, match="`overwrite`"):
        index(tmp_path)
    assert index(tmp_path, overwrite=True).digest == manifest.digest


def test_extensions(tmp_path: Path) -> None:
    plain_tar(tmp_path / "a.tar", {"1.rgb.png": PNG, "1.ids.png": LABEL, "2.rgb.png": PNG, "readme": b"no sample"})
    with pytest.raises(ShardError, match="`image_ext`"):
        index(tmp_path, extensions=Extensions(image=("jpg",)))
    manifest = index(tmp_path, extensions=Extensions(label=("ids.png",)))
    assert member(manifest, 0, 0, "label") == LABEL and member(manifest, 0, 1, "label") == b""
    assert manifest.shard_index(0)[0]["image_ext"] == b"png"


def test_jpeg_with_a_png_label(tmp_path: Path) -> None:
    plain_tar(tmp_path / "a.tar", {"./x/1.jpg": JPEG, "./x/1.png": LABEL})
    manifest = index(tmp_path)
    assert manifest.shard_index(0)[0]["key"] == b"x/1"
    assert member(manifest, 0, 0, "image") == JPEG and member(manifest, 0, 0, "label") == LABEL


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"no \*\.tar, "):
        index(tmp_path)
    (tmp_path / "a.tar.zst").touch()
    with pytest.raises(ShardError, match="unpack the compression first"):
        index(tmp_path)
    plain_tar(tmp_path / "a.tar", {"1.jpg": JPEG})
    with pytest.raises(ConfigError, match="no label format"):
        index(tmp_path, label_format="theirs")
    (tmp_path / "b.tar").write_bytes(b"x" * 700)
    with pytest.raises(ShardError, match=r"b\.tar: not a whole tar file"):
        index(tmp_path)
    plain_tar(tmp_path / "b.tar", {"1.jpg": JPEG, "1.label.png": PNG})
    with pytest.raises(ShardError, match="looks like a colour map"):
        index(tmp_path)
    plain_tar(tmp_path / "b.tar", {"folder/": b""})
    with pytest.raises(ShardError, match="no sample in it"):
        index(tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def test_categories_of_objects_come_from_the_json(tmp_path: Path) -> None:
    cutout = cv2.imencode(".png", np.full((3, 4, 4), 255, np.uint8))[1].tobytes()
    metas = {"a": b'{"category": "dog"}', "b": b'{"category": 3}', "c": b"no json", "d": b"[]"}
    members = {f"{key}.png": cutout for key in metas} | {f"{key}.json": meta for key, meta in metas.items()}
    plain_tar(tmp_path / "a.tar", dict(sorted(members.items())))
    manifest = index(tmp_path, kind="objects", label_format="binary")
    assert [name.decode() for name in manifest.shard_index(0)["category"].tolist()] == ["dog", "3", "", ""]

"""Fishyscapes in miniature: labels and overlays beside the frames of the base dataset."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from mgcda_dist.data.shards.sources import SOURCES
from mgcda_dist.errors import ShardError
from tests.data.shards.test_sources import ids, image, label, put, read

NAME = "frankfurt_000001_046504"


def static(folder: Path, version: str, difference: np.ndarray) -> Path:
    put(folder / "leftImg8bit" / "val" / "frankfurt" / f"{NAME}_leftImg8bit.png", image(100))
    put(folder / version / f"0000_{NAME}_labels.png", label(0, 1, 255))
    overlay = folder / version / f"0000_{NAME}_rgb.npz"
    np.savez_compressed(overlay, rgb=difference)
    return overlay


@pytest.mark.parametrize(
    ("folder", "version"), [("fs_val_v1", "1.0.0"), ("fs_val_v2", "2.0.0"), ("fs_val_v3", "3.0.0")]
)
def test_static_adds_the_overlay_and_records_its_version(tmp_path: Path, folder: str, version: str) -> None:
    difference = np.zeros((6, 8, 3), np.int16)
    difference[0, 0], difference[1, 1] = (10, -20, 30), (200, -200, 0)  # RGB
    static(tmp_path, folder, difference)
    opened = SOURCES["fishyscapes_static"].open(tmp_path, "val")
    (sample,) = opened.samples
    assert (opened.label_format, dict(opened.metadata)) == ("binary", {"version": version})
    assert (sample.key, ids(sample)) == (f"0000_{NAME}", {0, 1, 255})
    picture = cv2.imdecode(np.frombuffer(sample.image, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert [picture[i, i].tolist() for i in range(3)] == [[130, 80, 110], [100, 0, 255], [100] * 3]  # BGR


def test_static_faults(tmp_path: Path) -> None:
    overlay = static(tmp_path, "fs_val_v3", np.zeros((5, 8, 3), np.int16))
    with pytest.raises(ShardError, match=r"the overlay is \(5, 8, 3\)"):
        read("fishyscapes_static", tmp_path, "val")
    overlay.write_bytes(b"PK")
    with pytest.raises(ShardError, match=r"rgb\.npz: not a readable overlay"):
        read("fishyscapes_static", tmp_path, "val")
    put(overlay.with_suffix(".png"), image(7))
    overlay.unlink()
    (sample,), _ = read("fishyscapes_static", tmp_path, "val")
    assert sample.image == overlay.with_suffix(".png").read_bytes()
    overlay.with_suffix(".png").unlink()
    with pytest.raises(ShardError, match="no overlay 0000_"):
        read("fishyscapes_static", tmp_path, "val")
    (tmp_path / "fs_val_v2").mkdir()
    with pytest.raises(ShardError, match="2 versions of the overlays are here: 2, 3"):
        read("fishyscapes_static", tmp_path, "val")


def test_lost_and_found_takes_frames_of_both_splits(tmp_path: Path) -> None:
    for i, split in enumerate(("train", "test")):
        name = f"04_Maurener_Weg_8_00000{i}_000030"
        put(tmp_path / "leftImg8bit" / split / "04_Maurener_Weg_8" / f"{name}_leftImg8bit.png", image())
        put(tmp_path / "fishyscapes_lostandfound" / f"000{i}_{name}_labels.png", label(0, 1, 255))
    opened = SOURCES["fishyscapes_lost_and_found"].open(tmp_path, "val")
    assert opened.label_format == "binary" and dict(opened.metadata) == {"version": "1.0.0"}
    samples = list(opened.samples)
    assert [sample.key for sample in samples] == [f"000{i}_04_Maurener_Weg_8_00000{i}_000030" for i in (0, 1)]
    assert all(ids(sample) == {0, 1, 255} for sample in samples)
    put(tmp_path / "fishyscapes_lostandfound" / "0002_04_Maurener_Weg_8_000002_000030_labels.png", label(0))
    with pytest.raises(ShardError, match="no such photo of the base dataset"):
        read("fishyscapes_lost_and_found", tmp_path, "val")
    with pytest.raises(ShardError, match="no split 'test' is public"):
        read("fishyscapes_lost_and_found", tmp_path, "test")

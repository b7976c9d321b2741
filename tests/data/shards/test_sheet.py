"""The contact sheet: colours where labels are, a grid of the asked size, the same samples for the same seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mgcda_dist.data.labels import FORMATS, train_names
from mgcda_dist.data.shards.encode import png_bytes
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.data.shards.record import SourceSample
from mgcda_dist.data.shards.sheet import contact_sheet, overlay, read_tiles, shown
from mgcda_dist.data.shards.write import write_shards

GREY = np.full((20, 30, 3), 100, np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    label = png_bytes(np.repeat(np.array([0, 4], np.uint8), 300).reshape(20, 30))
    image = cv2.imencode(".jpg", GREY)[1].tobytes()
    samples = [SourceSample(f"f{i}", image, "jpg", label) for i in range(9)]
    write_shards(samples, tmp_path / "a", dataset="toy", split="val", label_format="road8", samples_per_shard=4)
    return tmp_path / "a"


def test_labels_tint_the_image() -> None:
    ids = np.zeros((20, 30), np.uint8)
    ids[5:15, 5:15], ids[0] = 2, 7
    picture = overlay(GREY, ids, FORMATS["road_anomaly"])
    assert (picture[18] == 100).all(), "what is normal stays as it is"
    assert picture[10, 10, 0] > 150 and picture[10, 10, 2] < 80, "anomalies are red"
    assert (picture[0] == (255, 0, 255)).all(), "unknown ids are magenta"
    np.testing.assert_array_equal(overlay(GREY, np.full((20, 30), 255, np.uint8), FORMATS["road_anomaly"]), GREY)


def test_sheet(folder: Path) -> None:
    tiles, legend = read_tiles(Manifest.open(folder), 5, seed=1)
    again, _ = read_tiles(Manifest.open(folder), 5, seed=1)
    other, _ = read_tiles(Manifest.open(folder), 5, seed=2)
    captions = [tile.caption for tile in tiles]
    assert captions == [tile.caption for tile in again] != [tile.caption for tile in other]
    assert captions == sorted(captions) and len(set(captions)) == 5 and legend.keys() == {"road", "sky"}
    sheet = contact_sheet(tiles, legend, columns=3, tile_width_px=60)
    assert sheet.shape == (2 * (40 + 22) + 52, 3 * 66, 3) and sheet.dtype == np.uint8
    assert len(read_tiles(Manifest.open(folder), 99)[0]) == 9


def test_objects_and_unlabelled_frames(tmp_path: Path) -> None:
    cutout = np.zeros((20, 30, 4), np.uint8)
    cutout[5:15, 5:15] = (0, 0, 200, 255)
    made: dict[str, Any] = {"dataset": "toy", "split": "val", "label_format": "binary"}
    write_shards([SourceSample("o", png_bytes(cutout), "png")], tmp_path / "a", kind="objects", **made)
    write_shards([SourceSample("g", png_bytes(GREY[..., 0]), "png")], tmp_path / "b", **made)
    tiles, legend = read_tiles(Manifest.open(tmp_path / "a"), 2)
    tiles += read_tiles(Manifest.open(tmp_path / "b"), 2)[0]
    assert legend == {}
    assert tiles[0].picture[10, 10].tolist() == [200, 0, 0] and tiles[0].picture[0, 0].min() > 200
    assert contact_sheet(tiles, legend, columns=4, tile_width_px=60).shape[1] == 2 * 66


def test_the_legend_has_the_names_of_the_class_space_and_the_colours_of_the_picture() -> None:
    names = train_names(("road", "pavement", "zebra"))
    assert names == {0: "road", 1: "pavement", 2: "zebra", 253: "normal", 254: "anomaly", 255: "void"}
    ids = np.arange(6, dtype=np.uint8).repeat(100).reshape(20, 30)
    legend = shown(ids, names)
    assert list(legend) == ["road", "pavement", "zebra", "unknown 3", "unknown 4", "unknown 5"]
    assert len(set(legend.values())) == 4, "classes differ; what nobody knows is magenta"
    white = np.full((20, 30, 3), 255, np.uint8)
    tints = overlay(white, ids, names).reshape(6, 100, 3)[:3, 50].astype(float)
    expected = np.array([legend[name] for name in ("road", "pavement", "zebra")]) * 0.45 + 255 * 0.55
    np.testing.assert_allclose(tints, expected, atol=1)

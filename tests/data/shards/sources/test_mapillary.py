"""Mapillary Vistas in miniature: palette labels of both versions, and the layout of the first release."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mgcda_dist.data.labels import FORMATS, lookup_table
from mgcda_dist.errors import ShardError
from tests.data.shards.test_sources import ids, image, label, put, read


def put_palette(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(array)
    picture.putpalette([value % 256 for value in range(3, 771)])
    picture.save(path)


def test_versions(tmp_path: Path) -> None:
    put(tmp_path / "training" / "images" / "-6-WLs7O.jpg", image())
    put_palette(tmp_path / "training" / "labels" / "-6-WLs7O.png", label(13, 65))
    (sample,), label_format = read("mapillary", tmp_path, "train")
    assert (sample.key, label_format, ids(sample)) == ("-6-WLs7O", "mapillary_v12", {13, 65})
    put_palette(tmp_path / "training" / "v1.2" / "labels" / "-6-WLs7O.png", label(13, 64))
    put_palette(tmp_path / "training" / "v2.0" / "labels" / "-6-WLs7O.png", label(21, 123))
    (sample,), label_format = read("mapillary", tmp_path, "train")
    assert (label_format, ids(sample)) == ("mapillary_v20", {21, 123})
    (sample,), label_format = read("mapillary", tmp_path, "training", label_format="mapillary_v12")
    assert (label_format, ids(sample)) == ("mapillary_v12", {13, 64})
    with pytest.raises(ShardError, match="no Vistas labels of format 'camvid'"):
        read("mapillary", tmp_path, "train", label_format="camvid")


def test_tables_have_the_official_size_and_anchors() -> None:
    v12, v20 = FORMATS["mapillary_v12"], FORMATS["mapillary_v20"]
    assert (set(v12), set(v20)) == ({*range(66), 255}, {*range(124), 255})
    anchors = {
        "mapillary_v12": {0: 6, 1: 17, 2: 10, 3: 13, 4: 12, 5: 45, 6: 48, 7: 50, 8: 30, 9: 29, 10: 27, 11: 19, 12: 20,
                          13: 55, 14: 61, 15: 54, 16: 58, 17: 57, 18: 52},
        "mapillary_v20": {0: 21, 1: 24, 2: 27, 3: 12, 4: 5, 5: 85, 6: 90, 7: 100, 8: 64, 9: 63, 10: 61, 11: 30, 12: 32,
                          13: 108, 14: 114, 15: 107, 16: 111, 17: 110, 18: 105},
    }  # fmt: skip
    for label_format, raw in anchors.items():
        table = lookup_table(label_format, "cityscapes19")
        if label_format == "mapillary_v12":
            raw = raw | {0: 13, 1: 15, 2: 17, 3: 6, 4: 3}
        assert [table[raw[train_id]] for train_id in range(19)] == list(range(19))

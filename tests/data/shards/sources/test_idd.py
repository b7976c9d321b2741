"""IDD in miniature: each kind of label that `createLabels.py` draws, and what its ids mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mgcda_dist.data.labels import lookup_table
from mgcda_dist.errors import ShardError
from mgcda_dist.method.batch import VOID
from tests.data.shards.test_sources import ids, image, label, put, read

KINDS = {
    "idd_ids": "labelids",
    "idd_level3_ids": "labellevel3Ids",
    "idd_lite": "labellevel1Ids",
    "cityscapes_ids": "labelcsIds",
    "cityscapes_train_ids": "labelcsTrainIds",
}
# Columns csTrainId, level1Id and level3Id of AutoNUE's table, ids 0 … 39.
TRAIN_IDS = [0, 255, 255, 1, 255, 9, 11, 255, 12, 17, 18, 255, 13, 14, 15, 255, 255, 16, 255, 255, 3, 4, 255, 255, 7, 6,
             5, 255, 255, 2, 255, 255, 8, 10, 255, 255, 255, 255, 255, 255]  # fmt: skip
LEVEL1 = [0] * 3 + [1] * 3 + [2] * 3 + [3] * 10 + [4] * 10 + [5] * 4 + [6] * 2 + [255] * 5
LEVEL3 = [0, 1, 1, 2, 3, 3, 4, 4, 5, 6, 7, 8, 9, 10, 11, 12, 12, 12, 12, 13, 14, 15, 16, 17, 18, 19, 20, 20, 21, 22, 23,
          23, 24, 25, 25, 255, 255, 255, 255, 255]  # fmt: skip


@pytest.mark.parametrize("label_format", KINDS)
def test_every_kind_of_label(tmp_path: Path, label_format: str) -> None:
    put(tmp_path / "leftImg8bit" / "val" / "201" / "frame0029_leftImg8bit.jpg", image())
    put(tmp_path / "leftImg8bit" / "val" / "119" / "903127_leftImg8bit.png", image())
    for drive, name in (("119", "903127"), ("201", "frame0029")):
        put(tmp_path / "gtFine" / "val" / drive / f"{name}_gtFine_{KINDS[label_format]}.png", label(0, 6, 255))
    samples, found = read("idd", tmp_path, "val")
    assert found == label_format
    assert [(s.key, s.image_ext) for s in samples] == [("119/903127", "png"), ("201/frame0029", "jpg")]
    assert all(ids(sample) == {0, 6, 255} for sample in samples)


def test_the_most_detailed_kind_is_taken_unless_another_is_asked_for(tmp_path: Path) -> None:
    put(tmp_path / "leftImg8bit" / "train" / "0" / "a_leftImg8bit.png", image())
    for kind, raw in (("labellevel3Ids", 25), ("labelids", 33)):
        put(tmp_path / "gtFine" / "train" / "0" / f"a_gtFine_{kind}.png", label(raw))
    (sample,), found = read("idd", tmp_path, "train")
    assert (found, ids(sample)) == ("idd_ids", {33})
    (sample,), found = read("idd", tmp_path, "train", label_format="idd_level3_ids")
    assert (found, ids(sample)) == ("idd_level3_ids", {25})
    with pytest.raises(ShardError, match="no labels of format 'camvid'"):
        read("idd", tmp_path, "train", label_format="camvid")


def test_polygons_alone_are_answered_with_the_command_that_draws_them(tmp_path: Path) -> None:
    put(tmp_path / "leftImg8bit" / "train" / "0" / "a_leftImg8bit.png", image())
    with pytest.raises(ShardError, match=r"a_gtFine_labelids\.png: no such label file"):
        read("idd", tmp_path, "train")
    polygons = tmp_path / "gtFine" / "train" / "0" / "a_gtFine_polygons.json"
    polygons.parent.mkdir(parents=True)
    polygons.write_text("{}")
    with pytest.raises(ShardError) as caught:
        read("idd", tmp_path, "train")
    assert "polygons only" in caught.value.problem
    assert f"createLabels.py --datadir {tmp_path} --id-type id;" in caught.value.remedy
    with pytest.raises(ShardError, match="--id-type level3Id"):
        read("idd", tmp_path, "train", label_format="idd_level3_ids")
    assert read("idd", tmp_path, "train", unlabelled=True)[1] == "unlabelled"


def test_ids_are_those_of_the_official_table() -> None:
    np.testing.assert_array_equal(lookup_table("idd_ids", "idd7")[:40], LEVEL1)
    np.testing.assert_array_equal(lookup_table("idd_ids", "cityscapes19")[:40], TRAIN_IDS)
    assert (lookup_table("idd_ids", "idd7")[40:] == VOID).all()
    level3 = np.array(LEVEL3)
    np.testing.assert_array_equal(lookup_table("idd_level3_ids", "idd7")[level3], LEVEL1)
    cityscapes = lookup_table("idd_level3_ids", "cityscapes19")[level3]
    # Merged with another class: rail track (4), animal (7), train (17), polegroup (27), fallback background (34).
    apart = np.setdiff1d(np.arange(40), [4, 7, 17, 27, 34])
    np.testing.assert_array_equal(cityscapes[apart], np.array(TRAIN_IDS)[apart])

"""StreetHazards in miniature: its two archives, ids from 1, the anomaly is 14."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mgcda_dist.data.labels import lookup_table
from mgcda_dist.errors import ShardError
from mgcda_dist.method.batch import ANOMALY, INLIER, VOID
from tests.data.shards.test_sources import ids, image, label, put, read

PLACES = {"train": ("train", "training", "t1-3"), "val": ("train", "validation", "t4"), "test": ("test", "test", "t5")}


@pytest.mark.parametrize("archives", [False, True])
def test_splits(tmp_path: Path, archives: bool) -> None:
    for part, name, town in PLACES.values():
        top = tmp_path / f"streethazards_{part}" / part if archives else tmp_path / part
        for i in (301, 300):
            put(top / "images" / name / town / f"{i}.png", image())
            put(top / "annotations" / name / town / f"{i}.png", label(1, 8, 14))
    for split, (_, _, town) in PLACES.items():
        samples, label_format = read("street_hazards", tmp_path, split)
        assert label_format == "street_hazards"
        assert [(s.key, ids(s)) for s in samples] == [(f"{town}/{i}", {1, 8, 14}) for i in (300, 301)]
    with pytest.raises(ShardError, match="expected train/images"):
        read("street_hazards", tmp_path, "trial")


def test_ids_from_one() -> None:
    table = lookup_table("street_hazards", "cityscapes19")
    expected = [VOID, INLIER, 2, 4, INLIER, 11, 5, 0, 0, 1, 8, 13, 3, 7, ANOMALY, VOID]
    np.testing.assert_array_equal(table[:16], expected)
    assert lookup_table("street_hazards", "idd7")[14] == ANOMALY

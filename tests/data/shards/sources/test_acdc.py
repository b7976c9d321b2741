"""ACDC in miniature: its two archives side by side, all conditions or one."""

from __future__ import annotations

from pathlib import Path

import pytest

from mgcda_dist.errors import ShardError
from tests.data.shards.test_sources import ids, image, label, put, read


@pytest.mark.parametrize(
    ("rgb", "labels"),
    [("rgb_anon", "gt"), ("rgb_anon_trainvaltest/rgb_anon", "gt_trainval/gt")],
    ids=["bare", "archives"],
)
def test_conditions(tmp_path: Path, rgb: str, labels: str) -> None:
    for condition, drive in (("snow", "GP010176"), ("fog", "GOPR0475"), ("night", "GOPR0356")):
        place = f"{condition}/val/{drive}/{drive}_frame_000041"
        put(tmp_path / rgb / f"{place}_rgb_anon.png", image())
        put(tmp_path / labels / f"{place}_gt_labelIds.png", label(7, 33))
        put(tmp_path / labels / f"{place}_gt_labelTrainIds.png", label(0, 18))
        put(tmp_path / labels / f"{place}_gt_labelColor.png", image())
    samples, label_format = read("acdc", tmp_path, "val")
    assert label_format == "cityscapes_ids"
    assert [sample.key for sample in samples] == [
        f"{place}_frame_000041"
        for place in ("fog/GOPR0475/GOPR0475", "night/GOPR0356/GOPR0356", "snow/GP010176/GP010176")
    ]
    assert all(ids(sample) == {7, 33} for sample in samples)
    (night,), _ = read("acdc", tmp_path, "night/val")
    assert night.key.startswith("night/")
    with pytest.raises(ShardError, match="expected rgb_anon/CONDITION"):
        read("acdc", tmp_path, "rain/val")

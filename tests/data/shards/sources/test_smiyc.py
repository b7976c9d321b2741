"""SegmentMeIfYouCan in miniature: validation frames have labels, test frames have none."""

from __future__ import annotations

from pathlib import Path

import pytest

from mgcda_dist.errors import ShardError
from tests.data.shards.test_sources import ids, image, label, put, read


@pytest.mark.parametrize(
    ("dataset", "archive", "suffix", "test_name", "names"),
    [
        ("road_anomaly21", "dataset_AnomalyTrack", "jpg", "zebra0001", ["validation0000", "validation0001"]),
        ("road_obstacle21", "dataset_ObstacleTrack", "webp", "curvy-street_carton_1", ["validation_1", "validation_2"]),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_tracks(
    tmp_path: Path, dataset: str, archive: str, suffix: str, test_name: str, names: list[str], inside: bool
) -> None:
    top = tmp_path / archive
    put(top / "images" / f"{test_name}.{suffix}", image())
    for name in names:
        put(top / "images" / f"{name}.{suffix}", image())
        put(top / "labels_masks" / f"{name}_labels_semantic.png", label(0, 1, 255))
        put(top / "labels_masks" / f"{name}_labels_semantic_color.png", image())
    folder = top if inside else tmp_path
    samples, label_format = read(dataset, folder, "val")
    assert label_format == "binary" and [sample.key for sample in samples] == names
    assert all(ids(sample) == {0, 1, 255} and sample.image_ext == suffix for sample in samples)
    with pytest.raises(ShardError, match="`unlabelled`"):
        read(dataset, folder, "test")
    (sample,), _ = read(dataset, folder, "test", unlabelled=True)
    assert sample.key == test_name
    with pytest.raises(ShardError, match="no split 'train'"):
        read(dataset, folder, "train")

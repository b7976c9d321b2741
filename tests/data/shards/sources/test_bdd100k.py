"""BDD100K in miniature: both official layouts, with and without the folder of the archive."""

from __future__ import annotations

from pathlib import Path

import pytest

from mgcda_dist.errors import ShardError
from tests.data.shards.test_sources import ids, image, label, put, read

LAYOUTS = {
    "documentation": ("images/10k/val/{}.jpg", "labels/sem_seg/masks/val/{}.png"),
    "first release": ("seg/images/val/{}.jpg", "seg/labels/val/{}_train_id.png"),
}


@pytest.mark.parametrize("top", ["", "bdd100k/"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path: Path, layout: str, top: str) -> None:
    images, labels = LAYOUTS[layout]
    for name in ("b1-02", "a1-01"):
        put(tmp_path / (top + images.format(name)), image())
    put(tmp_path / (top + labels.format("a1-01")), label(0, 18, 255))
    with pytest.raises(ShardError, match="1 of 2 images have none"):
        read("bdd100k", tmp_path, "val")
    put(tmp_path / (top + labels.format("b1-02")), label(16))
    samples, label_format = read("bdd100k", tmp_path, "val")
    assert label_format == "cityscapes_train_ids"
    assert [(sample.key, ids(sample)) for sample in samples] == [("a1-01", {0, 18, 255}), ("b1-02", {16})]
    with pytest.raises(ShardError, match="there is val"):
        read("bdd100k", tmp_path, "test", unlabelled=True)

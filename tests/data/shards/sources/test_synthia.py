"""SYNTHIA in miniature: 16-bit labels of three channels, as the release has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mgcda_dist.data.labels import lookup_table
from mgcda_dist.errors import ShardError
from mgcda_dist.method.batch import VOID
from tests.data.shards.test_sources import ids, image, label, put, read


def sixteen_bit(classes: np.ndarray) -> np.ndarray:
    """uint16 H×W×3 in OpenCV's order: blue, instances in green, classes in red."""
    return np.dstack([np.zeros_like(classes), classes * 257 + 300, classes]).astype(np.uint16)


@pytest.mark.parametrize("top", ["", "RAND_CITYSCAPES/"])
def test_sixteen_bit_labels(tmp_path: Path, top: str) -> None:
    for i in (1, 0):
        put(tmp_path / f"{top}RGB/000000{i}.png", image())
        put(tmp_path / f"{top}GT/LABELS/000000{i}.png", sixteen_bit(label(3, 22 - i).astype(np.uint16)))
    samples, label_format = read("synthia", tmp_path, "train")
    assert label_format == "synthia_ids"
    assert [(sample.key, ids(sample)) for sample in samples] == [("0000000", {3, 22}), ("0000001", {3, 21})]
    with pytest.raises(ShardError, match="no split 'val'"):
        read("synthia", tmp_path, "val")


def test_faults_name_the_file(tmp_path: Path) -> None:
    put(tmp_path / "RGB" / "0.png", image())
    file = put(tmp_path / "GT" / "LABELS" / "0.png", sixteen_bit(np.full((6, 8), 900, np.uint16)))
    with pytest.raises(ShardError, match=r"LABELS/0\.png: the label holds the class 900"):
        read("synthia", tmp_path, "train")
    file.write_bytes(b"\x89PNG")
    with pytest.raises(ShardError, match="the label is not a picture"):
        read("synthia", tmp_path, "train")


def test_ids_are_those_of_the_readme() -> None:
    expected = np.full(256, VOID)
    for raw, train_id in {3: 0, 22: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 16: 9, 1: 10, 10: 11, 17: 12,
                          8: 13, 18: 14, 19: 15, 20: 16, 12: 17, 11: 18}.items():  # fmt: skip
        expected[raw] = train_id
    expected[14] = 253  # road works: normal, none of the classes
    np.testing.assert_array_equal(lookup_table("synthia_ids", "cityscapes19"), expected)

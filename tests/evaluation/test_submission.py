"""The layouts of submissions, read as the benchmarks' own code reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mgcda_dist.data.frames import Frame
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.errors import MgcdaError
from mgcda_dist.evaluation.submission import submission

KEY = "0003_04_Maurener_Weg_8_000000_000030"
SCORE = np.random.default_rng(0).normal(size=(16, 24)).astype(np.float32)
CLASSES = np.random.default_rng(1).integers(0, 19, (16, 24)).astype(np.uint8)


def _frame(key: str = KEY) -> Frame:
    return Frame(np.zeros((16, 24, 3), np.uint8), np.zeros((16, 24), np.uint8), key)


def _manifest(dataset: str, split: str = "test") -> Manifest:
    return Manifest(Path("/nowhere"), "frames", dataset, split, "binary", 1, 1, 1, "d" * 64)


def test_fishyscapes_gets_scores_and_classes_by_number(tmp_path: Path) -> None:
    manifest = _manifest("fishyscapes_lost_and_found", "val")
    write = submission("fishyscapes", tmp_path, method="m", manifest=manifest, class_space="cityscapes19")
    write(_frame(), SCORE, CLASSES)
    # As `eval.py` of hermannsblum/fishyscapes orders them: by the number before the first underscore.
    (path,) = tmp_path.glob("*_anomaly.npy")
    assert int(path.name.split("_")[0]) == 3
    np.testing.assert_array_equal(np.load(path), SCORE)
    classes = np.load(tmp_path / "0003_segmentation.npy")
    assert np.issubdtype(classes.dtype, np.integer) and (classes == CLASSES).all()
    with pytest.raises(MgcdaError, match="does not begin with a number"):
        write(_frame("frankfurt/frame"), SCORE, CLASSES)


def test_classes_of_another_space_are_not_handed_in(tmp_path: Path) -> None:
    manifest = _manifest("fishyscapes_lost_and_found", "val")
    submission("fishyscapes", tmp_path, method="m", manifest=manifest, class_space="idd7")(_frame(), SCORE, CLASSES)
    assert [path.name for path in tmp_path.iterdir()] == ["0003_anomaly.npy"]


@pytest.mark.parametrize(
    ("dataset", "split", "folder"),
    [
        ("road_anomaly21", "test", "AnomalyTrack-all"),
        ("road_obstacle21", "val", "ObstacleTrack-all"),
        ("lost_and_found", "test", "LostAndFound-test"),
        ("road_anomaly", "test", "road_anomaly-test"),
    ],
)
def test_smiyc_gets_half_precision_in_hdf5(tmp_path: Path, dataset: str, split: str, folder: str) -> None:
    h5py = pytest.importorskip("h5py")
    manifest = _manifest(dataset, split)
    write = submission("smiyc", tmp_path, method="ours", manifest=manifest, class_space="idd7")
    write(_frame("04_Maurener_Weg_8/04_Maurener_Weg_8_000000_000030"), SCORE, CLASSES)
    with h5py.File(tmp_path / "anomaly_p/ours" / folder / "04_Maurener_Weg_8_000000_000030.hdf5") as file:
        assert file["value"].dtype == np.float16
        np.testing.assert_array_equal(file["value"][:], SCORE.astype(np.float16))
    with pytest.raises(MgcdaError, match="beyond ±65504"):
        write(_frame(), 1e6 * SCORE, None)


@pytest.mark.parametrize(("layout", "keys"), [("smiyc", ["a/0001", "b/0001"]), ("fishyscapes", ["0003_a", "0003_b"])])
def test_two_frames_are_never_one_file(tmp_path: Path, layout: Any, keys: list[str]) -> None:
    with pytest.raises(MgcdaError, match=f"{keys[1]}: it and {keys[0]} would both be called"):
        submission(layout, tmp_path, method="m", manifest=_manifest("x"), class_space="", keys=keys)
    assert list(tmp_path.iterdir()) == []

"""Operating points: thresholds of evaluations of the same weights with the prediction's settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mgcda_dist.errors import ConfigError
from mgcda_dist.inference.model import load_exported
from mgcda_dist.inference.operating import choose_threshold, operating_points
from tests.support.commands import invoke
from tests.support.exported import write_run

_SETTINGS = {"score": "energy", "height_px": 32, "scales": [1.0], "flip": False, "window_px": None,
             "window_overlap": None, "blur": False}  # fmt: skip


def _evaluated(folder: Path, digest: str, **rows: dict[str, Any]) -> None:
    """The files of an evaluation folder that thresholds are read from."""
    curves = {
        "threshold": [None, -1.0, -2.0, -3.0, -4.0],
        "recall": [0, 0.3, 0.9, 0.96, 1],
        "precision": [1, 1, 0.9, 0.5, 0.1],
        "fpr": [0, 0, 0.02, 0.2, 1],
    }
    curves["threshold"][0] = 1e9
    sets = {name: {"dataset": name, "split": "test", **row} for name, row in rows.items()}
    content = _SETTINGS | {"convention": "pooled", "subject": {"digest": digest}, "sets": sets}
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(content))
    for name in rows:
        (folder / "sets" / name).mkdir(parents=True)
        (folder / "sets" / name / "curves.json").write_text(json.dumps(curves))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = write_run(tmp_path / "runs" / "tiny")
    (folder / "config.yaml").write_text("name: tiny\n")
    real, pasted = {"thresholds": {"best_f1": -2.0}}, {"thresholds": {"best_f1": -2.5}, "paste": {"objects": "x"}}
    _evaluated(folder / "evaluation", load_exported(folder).digest, real=real, closed={}, val=pasted)
    return folder


def test_sets_with_pasted_objects_come_first(run: Path) -> None:
    points = operating_points(load_exported(run))
    assert [(point.set, point.pasted) for point in points] == [("val", True), ("real", False)]
    chosen = choose_threshold(points, None, _SETTINGS)
    assert (chosen.value, chosen.source, chosen.doubt) == (-2.5, "best F1 on val", "")
    assert chosen.shown_range == (-3.0, -1.0)
    assert choose_threshold(points, "best_f1:real", _SETTINGS).value == -2.0
    assert choose_threshold(points, "recall95:real", _SETTINGS).value == -3.0
    assert choose_threshold(points, "-7.5", _SETTINGS).value == -7.5


def test_thresholds_of_another_score_are_not_used(run: Path) -> None:
    points = operating_points(load_exported(run))
    other = _SETTINGS | {"score": "msp"}
    assert choose_threshold(points, None, other).value is None
    with pytest.raises(ConfigError, match="with score msp"):
        choose_threshold(points, "best_f1", other)
    assert "height_px" in choose_threshold(points, None, _SETTINGS | {"height_px": None}).doubt
    with pytest.raises(ConfigError, match="known sets: real, val"):
        choose_threshold(points, "best_f1:moon", _SETTINGS)


def test_evaluations_of_other_weights_are_ignored(run: Path) -> None:
    content = json.loads((run / "evaluation" / "results.json").read_text())
    content["subject"]["digest"] = "0" * 64
    (run / "evaluation" / "results.json").write_text(json.dumps(content))
    assert operating_points(load_exported(run)) == []


def test_an_export_contains_its_operating_points(run: Path, tmp_path: Path) -> None:
    done = invoke("export", run, tmp_path / "out", "--format", "safetensors", "--no-verify")
    assert done.exit_code == 0, done.output
    exported = load_exported(tmp_path / "out")
    assert operating_points(exported) == operating_points(load_exported(run)) != []
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| val | pasted objects | -2.5 | -3 |" in card and "| real | real | -2 | -3 |" in card
    from PIL import Image

    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "a.png")
    done = invoke("predict", tmp_path / "out", tmp_path / "a.png", "-o", tmp_path / "p", "-w", "none")
    assert done.exit_code == 0, done.output
    settings = json.loads((tmp_path / "p" / "predictions.json").read_text())["settings"]
    assert (settings["threshold"], settings["threshold_source"]) == (-2.5, "best F1 on val")
    assert settings["shown_range"] == [-3.0, -1.0]


def test_a_prediction_after_an_evaluation_takes_its_threshold(tiny_shards: Path, tmp_path: Path) -> None:
    """As docs/tutorials/own-data.md says, which names the key."""
    run = write_run(tmp_path / "tiny")
    (run / "config.yaml").write_text("name: tiny\n")
    shards = tiny_shards / "real_day/test"
    assert invoke("evaluate", run, "--data", f"mine={shards}", "--max-frames", "2").exit_code == 0
    image = np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    assert invoke("predict", run, tmp_path / "a.png", "-o", tmp_path / "out").exit_code == 0
    found = json.loads((run / "evaluation/results.json").read_text())["sets"]["mine"]["thresholds"]["best_f1"]
    settings = json.loads((tmp_path / "out/predictions.json").read_text())["settings"]
    assert (settings["threshold"], settings["threshold_source"]) == (found, "best F1 on mine")

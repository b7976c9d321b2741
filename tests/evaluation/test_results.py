"""The record of an evaluation: files of earlier versions load, and what is written has their keys."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from mgcda_dist.errors import MgcdaError
from mgcda_dist.evaluation.components import TAUS, ComponentMetrics
from mgcda_dist.evaluation.results import RESULTS, EvaluationResults

_METRICS = {"ap": 0.75, "auroc": 0.9, "fpr95": 0.125, "best_f1": 0.5}
_COMPONENTS = {"siou": 0.5, "ppv": 0.25, "mean_f1": 0.5, "f1": {f"{tau:.2f}": 0.5 for tau in TAUS}}
_ROW: dict[str, Any] = {
    **_METRICS, "miou": 0.625, "siou": 0.5, "ppv": 0.25, "mean_f1": 0.5, "instance_ap": 0.25, "instance_ap50": 0.5,
    "frames": 60, "intervals": {"ap": [0.5, 0.875]}, "conventions": {"pooled": _METRICS, "smiyc": {"ap": 0.76}},
    "pixels": {"anomaly": 10, "inlier": 90}, "iou": {"road": 0.75, "sky": 0.5},
    "dataset": "road_anomaly", "split": "test", "manifest_digest": "35" * 32, "max_frames": 60,
    "paste": {"probability": 1.0, "objects_digest": "ab"},
    "components": {**_COMPONENTS, "num_truth": 3, "num_predicted": 4, "num_frames": 60, "threshold": -2.5},
    "instances": {"ap": 0.25, "ap50": 0.5, "num_truth": 3, "num_predicted": 4, "num_frames": 60},
    "categories": {"other": {"ap": 0.5, "frames": 4, "anomaly_pixels": 7, "inlier_pixels": 90}},
    "groups": {"night": {"frames": 4, "anomaly_pixels": 0, "inlier_pixels": 90}},
    "thresholds": {"best_f1": -2.5},
}  # fmt: skip
_OF_A_MODEL: dict[str, Any] = {
    "convention": "pooled", "conventions": ["pooled", "smiyc"], "score": "standardized_max_logit",
    "components": "obstacle", "instances": True, "threshold": None,
    "class_statistics": {"mean": [1.0, 2.0], "var": [0.5, 0.25]}, "blur": True, "height_px": 360,
    "scales": [0.5, 1.0], "flip": True, "window_px": [512, 1024], "window_overlap": 0.25,
    "subject": {"name": "ours", "kind": "model", "digest": "ab" * 32, "class_space": "idd7"},
    "tool_version": "0.1.0", "interval_level": 0.95, "sets": {"road_anomaly": _ROW}, "evaluation_id": "01" * 8,
    "selection": {"step": 400, "set": "val", "metric": "ap", "value": 0.5, "better": "higher"},
}  # fmt: skip
_OF_MAPS: dict[str, Any] = {
    "convention": "smiyc", "conventions": ["smiyc"], "score": "as given", "components": "none", "instances": False,
    "threshold": 0.5, "resize_maps": True, "tool_version": "0.1.0", "interval_level": 0.95, "sets": {},
    "subject": {"name": "theirs", "kind": "maps", "digest": "cd" * 32, "class_space": ""}, "evaluation_id": "0" * 16,
}  # fmt: skip


@pytest.mark.parametrize("content", [_OF_A_MODEL, _OF_MAPS])
def test_a_file_of_an_earlier_version_loads_and_is_written_the_same(content: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / RESULTS).write_text(json.dumps(content))
    results = EvaluationResults.load(tmp_path)
    results.save(tmp_path / "again")
    assert json.loads((tmp_path / "again" / RESULTS).read_text()) == content


def test_metrics_are_the_numbers_that_exist_and_are_no_counts() -> None:
    results = EvaluationResults.of_json(_OF_A_MODEL | {"sets": {"a": _ROW | {"miou": None, "ap": math.nan}}})
    assert set(results.sets["a"].metrics) == set(_ROW) & {
        "auroc", "fpr95", "best_f1", "siou", "ppv", "mean_f1", "instance_ap", "instance_ap50",
    }  # fmt: skip
    assert results.logged_metrics()["eval/a/auroc"] == 0.9


def test_components_of_a_set_without_any_are_written_without_f1() -> None:
    nan = math.nan
    found = ComponentMetrics(nan, nan, nan, (nan,) * len(TAUS), 0, 0, 5, threshold=0.5)
    text = json.dumps(found.as_json(), allow_nan=False)
    assert json.loads(text) == {"num_truth": 0, "num_predicted": 0, "num_frames": 5, "threshold": 0.5, "f1": {}}
    assert math.isnan(ComponentMetrics.of_json(json.loads(text)).mean_f1)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"sets": {', "is not whole"),
        ('{"interval_level": NaN}', "is not whole"),
        ('{"selection": {"step": 1, "set": "x", "metric": "ap", "value": 1e999, "better": "higher"}}', "is not whole"),
        ("[]", "is not a record of results"),
        ('{"sets": {"a": {"intervals": {"ap": [1]}}}}', "is not a record of results"),
        ('{"conventions": ["of a later version"]}', "is not a record of results"),
        ('{"conventions": []}', "is not a record of results"),
        ('{"window_px": [64]}', "is not a record of results"),
        (None, "cannot be read"),
    ],
)
def test_errors_name_the_file(text: str | None, problem: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / RESULTS).write_text(text)
    with pytest.raises(MgcdaError, match=rf"results\.json: {problem}.*\n  → evaluate the run again"):
        EvaluationResults.load(tmp_path)

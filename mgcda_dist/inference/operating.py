"""Where a score becomes an anomaly: thresholds that evaluations of a model have found, and the range of its scores.

A threshold belongs to the data it was chosen on. So none is built in: it is a number, or the name of a criterion on a
set that *this* model (by the digest of its weights) was evaluated on. `mgcda export` keeps them in `model.json` as

    operating_points  [{set, dataset, split, pasted, thresholds: {best_f1, recall95}, range: [low, high], settings}]

`best_f1` has the best pixel F1 of the set, `recall95` is the first one that finds 95 % of its anomalous pixels.
Pictures show scores from `low`, over which a tenth of the inlier pixels lie, to `high`, over which a quarter of the
anomalous ones lie.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.errors import ConfigError, MgcdaError
from mgcda_dist.evaluation.folder import read_curves
from mgcda_dist.evaluation.results import RESULTS, EvaluationResults
from mgcda_dist.inference.model import ExportedModel

__all__ = ["CRITERIA", "Threshold", "choose_threshold", "operating_points", "run_folder"]

CRITERIA = {"best_f1": "best F1", "recall95": "95 % recall"}
_SETTINGS = ("score", "height_px", "scales", "flip", "window_px", "window_overlap", "blur")
_FPR_OF_LOW, _RECALL_OF_HIGH = 0.1, 0.25


@dataclass(frozen=True)
class Threshold:
    """A threshold with its origin.

    Attributes:
        value: None: none is known.
        source: in a few words; why there is none, if there is none.
        shown_range: range of scores for pictures; None: unknown.
        doubt: how the prediction differs from the evaluation that found the threshold; empty: not at all.
    """

    value: float | None
    source: str
    shown_range: tuple[float, float] | None = None
    doubt: str = ""


def operating_points(model: ExportedModel) -> list[dict[str, Any]]:
    """What is known of the model's scores: from its `model.json`, else from the evaluations of its run.

    Sets with pasted objects come first: real anomalies are for tests, and a threshold is not chosen on a test set.
    """
    points: list[dict[str, Any]] = list(model.metadata.operating_points)
    run = run_folder(model.folder)
    if not points and run is not None:
        found: dict[str, dict[str, Any]] = {}
        for results in sorted(run.glob(f"evaluation*/{RESULTS}")):
            for point in _points(results.parent, model.digest):
                found.setdefault(point["set"], point)
        points = list(found.values())
    return sorted(points, key=lambda point: not point["pasted"])


def run_folder(model: Path) -> Path | None:
    """The run that a model folder lies in: `RUN/model`, or `RUN/checkpoints/step-…/model`; None: in none."""
    model = model.absolute()
    places = [model.parent, *model.parents[2:3]]
    return next((place for place in places if (place / "config.yaml").is_file()), None)


def choose_threshold(points: Sequence[Mapping[str, Any]], wanted: str | None, used: Mapping[str, Any]) -> Threshold:
    """The threshold that is asked for.

    Args:
        points: from `operating_points`.
        wanted: a number, `best_f1`, `recall95`, or either with `:SET`; None: `best_f1` of the first set, if any.
        used: score, height and views of this prediction, as `settings` of a point has them.

    Raises:
        ConfigError: neither a number nor a criterion, or a set that the model was not evaluated on with this score.
    """
    comparable = [point for point in points if point["settings"]["score"] == used["score"]]
    shown_range = _range(comparable[0]) if comparable else None
    number = _number(wanted) if wanted is not None else None
    if number is not None:
        return Threshold(number, "given", shown_range)
    criterion, _, name = (wanted or "best_f1").partition(":")
    if criterion not in CRITERIA:
        raise ConfigError("--threshold", f"{wanted!r} is no threshold", f"a number, or {' or '.join(CRITERIA)}[:SET]")
    fitting = [p for p in comparable if criterion in p["thresholds"] and name in ("", p["set"])]
    if not fitting:
        if wanted is None:
            return Threshold(None, "the model was not evaluated with this score on a set with anomalies", shown_range)
        known = ", ".join(sorted({p["set"] for p in comparable if criterion in p["thresholds"]}))
        where = "that set" if name else "any set"
        raise ConfigError(
            "--threshold",
            f"{wanted!r}: the model was not evaluated on {where} with score {used['score']}",
            f"known sets: {known}" if known else "evaluate the run with `mgcda evaluate`, or give a number",
        )
    point = fitting[0]
    differing = [key for key in _SETTINGS if key in point["settings"] and point["settings"][key] != used.get(key)]
    return Threshold(
        float(point["thresholds"][criterion]),
        f"{CRITERIA[criterion]} on {point['set']}",
        _range(point),
        f"was found with another {' and '.join(differing)}" if differing else "",
    )


def _points(folder: Path, digest: str) -> list[dict[str, Any]]:
    """The operating points in an evaluation's folder, if it is one of these weights."""
    try:
        results = EvaluationResults.load(folder)
    except MgcdaError:
        return []
    if results.subject.digest != digest:
        return []
    options = results.settings.options()
    settings = {key: options.get(key) for key in _SETTINGS}
    points: list[dict[str, Any]] = []
    for name, row in results.sets.items():
        best = row.best_f1_threshold
        try:
            curves = read_curves(folder, name)
        except MgcdaError:
            continue
        if best is None:
            continue
        thresholds = {"best_f1": best, "recall95": _first(curves.threshold, curves.recall, 0.95)}
        low = _first(curves.threshold, curves.fpr, _FPR_OF_LOW)
        high = _first(curves.threshold, curves.recall, _RECALL_OF_HIGH)
        points.append(
            {
                "set": name,
                "dataset": row.data.dataset,
                "split": row.data.split,
                "pasted": row.data.paste is not None,
                "thresholds": {key: value for key, value in thresholds.items() if value is not None},
                # A perfect detector has all anomalies over all inliers; the range then is what lies around.
                "range": [min(low, best), max(high, best)] if low is not None and high is not None else None,
                "settings": settings,
            }
        )
    return points


def _first(threshold: NDArray[np.float64], rate: NDArray[np.float64], level: float) -> float | None:
    """The first threshold, from the highest on, at which a rate reaches a level."""
    reached = threshold[(rate >= level) & np.isfinite(threshold)]
    return float(reached[0]) if reached.size else None


def _range(point: Mapping[str, Any]) -> tuple[float, float] | None:
    ends = point.get("range")
    return (float(ends[0]), float(ends[1])) if ends and ends[0] < ends[1] else None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    if not math.isfinite(value):
        raise ConfigError("--threshold", f"{text} is no threshold", "give a finite number")
    return value

"""Operating points of a model: thresholds found by evaluations, and the range of its scores.

A threshold is only valid for data like those it was chosen on, so there is no default: it is a number, or a criterion
on a set that *this* model (by the digest of its weights) was evaluated on. `mgcda export` stores operating points in
`model.json`. `best_f1` has the best pixel F1 of the set; `recall95` is the highest threshold with a recall of 95 % of
the anomalous pixels. The range of an overlay's colours goes from a false positive rate of 10 % to a recall of 25 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat

from mgcda_dist.choices import RunFile
from mgcda_dist.errors import CheckpointError, ConfigError, MgcdaError
from mgcda_dist.evaluation.folder import read_curves
from mgcda_dist.evaluation.results import RESULTS, EvaluationResults
from mgcda_dist.inference.model import ExportedModel
from mgcda_dist.trust import Name, below, validated

__all__ = ["CRITERIA", "OperatingPoint", "Threshold", "choose_threshold", "operating_points", "run_folder"]

CRITERIA = {"best_f1": "best F1", "recall95": "95 % recall"}
_SETTINGS = ("score", "height_px", "longest_side_px", "scales", "flip", "window_px", "window_overlap", "blur")
_FPR_OF_LOW, _RECALL_OF_HIGH = 0.1, 0.25


@dataclass(frozen=True)
class Threshold:
    """A threshold with its origin.

    Attributes:
        value: None: not known.
        source: origin of the value in a few words, or the reason why it is not known.
        shown_range: range of scores for an overlay's colours; None: unknown.
        doubt: differences between the prediction and the evaluation that found the threshold; empty: none.
    """

    value: float | None
    source: str
    shown_range: tuple[float, float] | None = None
    doubt: str = ""


@dataclass(frozen=True)
class OperatingPoint:
    """Thresholds of one evaluation set, as `model.json` holds them.

    Attributes:
        set, dataset, split: the evaluation set, and its data.
        pasted: the anomalies are pasted objects.
        thresholds: criterion → score.
        range: of an overlay's colours; None: unknown.
        settings: of the evaluation, key → JSON value: only compared with those of a prediction.
    """

    set: Name
    dataset: Name | None
    split: Name | None
    pasted: bool
    thresholds: Mapping[str, FiniteFloat]
    range: Annotated[Sequence[FiniteFloat], Field(min_length=2, max_length=2)] | None
    settings: Mapping[str, Any]

    @property
    def shown_range(self) -> tuple[float, float] | None:
        """The range of an overlay's colours; None: unknown or empty."""
        ends = self.range
        return (float(ends[0]), float(ends[1])) if ends and ends[0] < ends[1] else None


def operating_points(model: ExportedModel) -> list[OperatingPoint]:
    """Operating points from the model's metadata, else from the evaluations of its run.

    Sets with pasted objects come first: a threshold must not be chosen on a test set, whose anomalies are real.
    """
    where = f"{model.folder / RunFile.METADATA}: operating_points"
    given = list(model.metadata.operating_points)
    points: list[OperatingPoint] = validated(list[OperatingPoint], given, where, error=CheckpointError)
    run = run_folder(model.folder)
    if not points and run is not None:
        found: dict[str, OperatingPoint] = {}
        for results in sorted(run.glob(f"evaluation*/{RESULTS}")):
            for point in _points(below(run, results.parent.name), model.digest):
                found.setdefault(point.set, point)
        points = list(found.values())
    return sorted(points, key=lambda point: not point.pasted)


def run_folder(model: Path) -> Path | None:
    """The run folder of a model folder `RUN/model` or `RUN/checkpoints/step-…/model`; None: not in a run."""
    model = model.absolute()
    candidates = [model.parent, *model.parents[2:3]]
    return next((candidate for candidate in candidates if (candidate / RunFile.CONFIG).is_file()), None)


def choose_threshold(points: Sequence[OperatingPoint], wanted: str | None, settings: Mapping[str, Any]) -> Threshold:
    """The threshold for a prediction.

    Args:
        points: from `operating_points`.
        wanted: a number, `best_f1`, `recall95`, or either with `:SET`; None: `best_f1` of the first set, if any.
        settings: of the prediction, with the keys of `OperatingPoint.settings`.

    Raises:
        ConfigError: neither a number nor a criterion, or a set that the model was not evaluated on with this score.
    """
    comparable = [point for point in points if point.settings.get("score") == settings["score"]]
    shown_range = comparable[0].shown_range if comparable else None
    number = _number(wanted) if wanted is not None else None
    if number is not None:
        return Threshold(number, "given", shown_range)
    criterion, _, name = (wanted or "best_f1").partition(":")
    if criterion not in CRITERIA:
        raise ConfigError("threshold", f"{wanted!r} is no threshold", f"a number, or {' or '.join(CRITERIA)}[:SET]")
    fitting = [p for p in comparable if criterion in p.thresholds and name in ("", p.set)]
    if not fitting:
        if wanted is None:
            return Threshold(None, "the model was not evaluated with this score on a set with anomalies", shown_range)
        known = ", ".join(sorted({p.set for p in comparable if criterion in p.thresholds}))
        where = "that set" if name else "any set"
        raise ConfigError(
            "threshold",
            f"{wanted!r}: the model was not evaluated on {where} with score {settings['score']}",
            f"known sets: {known}" if known else "evaluate the run with `mgcda evaluate`, or give a number",
        )
    point = fitting[0]
    differing = [key for key in _SETTINGS if key in point.settings and point.settings[key] != settings.get(key)]
    return Threshold(
        float(point.thresholds[criterion]),
        f"{CRITERIA[criterion]} on {point.set}",
        point.shown_range,
        f"was found with another {' and '.join(differing)}" if differing else "",
    )


def _points(folder: Path, digest: str) -> list[OperatingPoint]:
    """The operating points of an evaluation's folder; empty for an evaluation of other weights."""
    try:
        results = EvaluationResults.load(folder)
    except MgcdaError:
        return []
    if results.subject.digest != digest:
        return []
    options = results.settings.options()
    settings = {key: options.get(key) for key in _SETTINGS}
    points: list[OperatingPoint] = []
    for name, row in results.sets.items():
        best = row.best_f1_threshold
        try:
            curves = read_curves(below(folder, f"sets/{name}/curves.json"))
        except MgcdaError:
            continue
        if best is None:
            continue
        thresholds = {"best_f1": best, "recall95": _first(curves.threshold, curves.recall, 0.95)}
        low = _first(curves.threshold, curves.fpr, _FPR_OF_LOW)
        high = _first(curves.threshold, curves.recall, _RECALL_OF_HIGH)
        # Of a perfect detector low is above high; the range is then extended to contain the threshold.
        ends = [min(low, best), max(high, best)] if low is not None and high is not None else None
        known = {key: value for key, value in thresholds.items() if value is not None}
        pasted = row.data.paste is not None
        points.append(OperatingPoint(name, row.data.dataset, row.data.split, pasted, known, ends, settings))
    return points


def _first(threshold: NDArray[np.float64], rate: NDArray[np.float64], level: float) -> float | None:
    """The highest threshold at which a rate reaches a level; None: none."""
    reached = threshold[(rate >= level) & np.isfinite(threshold)]
    return float(reached[0]) if reached.size else None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    if not math.isfinite(value):
        raise ConfigError("threshold", f"{text} is no threshold", "give a finite number")
    return value

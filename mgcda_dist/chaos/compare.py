"""Comparison of the final states of two runs: checkpoints byte by byte, histories number by number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mgcda_dist.choices import RunFile
from mgcda_dist.runs.folder import RunFolder
from mgcda_dist.tracking.jsonl import read_lines
from mgcda_dist.tracking.mlflow_runs import MlflowStore

__all__ = ["differences", "jsonl_history", "mlflow_history"]

_RUN_SPECIFIC_FILES = (RunFile.CHECKPOINT, RunFile.METADATA)
"""Files with the run's name, configuration or times: never equal between two runs."""
_TIMING_METRICS = ("time/", "system/")
_ALARMS = "alarms"
"""Key of state.json: the warnings given so far; one of them depends on the time that data takes."""


def differences(undisturbed: RunFolder, disturbed: RunFolder, uri: str | None) -> list[str]:
    """The differences between two runs, one description each; empty: they are equal.

    Compared are all files of the last checkpoint (parameters, optimiser, buffers: queue, running accuracies; state of
    the loop), the exported model, the results of the evaluation, and the histories in metrics.jsonl and in MLflow.

    Args:
        uri: of MLflow; None: it was not used.
    """
    found = _differing_files(_last_checkpoint(undisturbed), _last_checkpoint(disturbed))
    found += _differing_files(undisturbed.model, disturbed.model)
    if _results(undisturbed) != _results(disturbed):
        found.append(RunFile.RESULTS)
    if jsonl_history(undisturbed) != jsonl_history(disturbed):
        found.append("metrics.jsonl: " + _first_difference(jsonl_history(undisturbed), jsonl_history(disturbed)))
    if uri is not None:
        store = MlflowStore(uri)
        if mlflow_history(store, undisturbed) != mlflow_history(store, disturbed):
            found.append("the history in MLflow")
    return found


def jsonl_history(run: RunFolder) -> list[tuple[int, dict[str, float]]]:
    """(step, metrics without those of time), in the order written."""
    return [
        (step, {name: value for name, value in metrics.items() if not name.startswith(_TIMING_METRICS)})
        for step, _, metrics in read_lines(run.metrics)
    ]


def mlflow_history(store: MlflowStore, run: RunFolder) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values of every metric of the run but those of time."""
    history = store.history(run.run_id_file.read_text(encoding="utf-8").strip())
    return {name: points for name, points in history.items() if not name.startswith(_TIMING_METRICS)}


def _results(run: RunFolder) -> dict[str, Any]:
    """The results of the evaluation, without the run's name."""
    found = json.loads(run.results.read_text(encoding="utf-8"))
    return found | {"subject": {key: value for key, value in found["subject"].items() if key != "name"}}


def _last_checkpoint(run: RunFolder) -> Path:
    return max(path.parent for path in run.checkpoints.glob(RunFile.COMMITTED))


def _differing_files(one: Path, other: Path) -> list[str]:
    names = {str(path.relative_to(root)) for root in (one, other) for path in root.rglob("*") if path.is_file()}
    compared = sorted(name for name in names if Path(name).name not in _RUN_SPECIFIC_FILES)
    assert compared, f"nothing to compare in {one}"
    return [
        f"{one.parent.name}/{one.name}/{name}"
        for name in compared
        if not ((one / name).is_file() and (other / name).is_file()) or _content(one / name) != _content(other / name)
    ]


def _content(path: Path) -> Any:
    """The bytes of a file; of state.json, all keys but the alarms."""
    if path.name != "state.json":
        return path.read_bytes()
    return {key: value for key, value in json.loads(path.read_bytes()).items() if key != _ALARMS}


def _first_difference(one: list[tuple[int, dict[str, float]]], other: list[tuple[int, dict[str, float]]]) -> str:
    if [step for step, _ in one] != [step for step, _ in other]:
        return f"{len(one)} and {len(other)} lines, not of the same steps"
    for (step, a), (_, b) in zip(one, other, strict=True):
        for name in sorted(a.keys() | b.keys()):
            if a.get(name) != b.get(name):
                return f"step {step}, {name}: {a.get(name)} and {b.get(name)}"
    return "the order of its lines"

"""Whether two runs have ended in the same state: checkpoints by their bytes, histories by their numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mgcda_dist.runs.folder import RunFolder
from mgcda_dist.tracking.jsonl import read_lines
from mgcda_dist.tracking.mlflow_runs import MlflowStore

__all__ = ["differences", "jsonl_history", "mlflow_history"]

_OF_THE_RUN = ("checkpoint.json", "model.json")
"""Files that name the run, its configuration or the clock: never equal between two runs."""
_OF_THE_CLOCK = ("time/", "system/")
_ALARMS = "alarms"
"""Of the state of the loop: which sentences were said; one of them is about the time that data takes."""


def differences(calm: RunFolder, disturbed: RunFolder, uri: str | None) -> list[str]:
    """In what the two runs differ, in words; empty: in nothing.

    Compared are all files of the last checkpoint (parameters, optimiser, buffers: memory, running accuracies; state of
    the loop), the exported model, the results of the evaluation, and the histories in metrics.jsonl and in MLflow.

    Args:
        calm: the undisturbed run.
        disturbed: the other one.
        uri: of MLflow; None: it was not used.
    """
    found = _files(_last_checkpoint(calm), _last_checkpoint(disturbed))
    found += _files(calm.model, disturbed.model)
    if _results(calm) != _results(disturbed):
        found.append("results.json")
    if jsonl_history(calm) != jsonl_history(disturbed):
        found.append("metrics.jsonl: " + _first_difference(jsonl_history(calm), jsonl_history(disturbed)))
    if uri is not None:
        store = MlflowStore(uri)
        if mlflow_history(store, calm) != mlflow_history(store, disturbed):
            found.append("the history in MLflow")
    return found


def jsonl_history(run: RunFolder) -> list[tuple[int, dict[str, float]]]:
    """(step, numbers that do not depend on the clock), as written."""
    return [
        (step, {name: value for name, value in metrics.items() if not name.startswith(_OF_THE_CLOCK)})
        for step, _, metrics in read_lines(run.metrics)
    ]


def mlflow_history(store: MlflowStore, run: RunFolder) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values of every metric of the run that does not depend on the clock."""
    history = store.history(run.run_id_file.read_text(encoding="utf-8").strip())
    return {name: points for name, points in history.items() if not name.startswith(_OF_THE_CLOCK)}


def _results(run: RunFolder) -> dict[str, Any]:
    """What the evaluation found, without the run's name."""
    found = json.loads(run.results.read_text(encoding="utf-8"))
    return found | {"subject": {key: value for key, value in found["subject"].items() if key != "name"}}


def _last_checkpoint(run: RunFolder) -> Path:
    return max(path.parent for path in run.checkpoints.glob("step-*/checkpoint.json"))


def _files(one: Path, other: Path) -> list[str]:
    names = {str(path.relative_to(root)) for root in (one, other) for path in root.rglob("*") if path.is_file()}
    compared = sorted(name for name in names if Path(name).name not in _OF_THE_RUN)
    assert compared, f"nothing to compare in {one}"
    return [
        f"{one.parent.name}/{one.name}/{name}"
        for name in compared
        if not ((one / name).is_file() and (other / name).is_file()) or _content(one / name) != _content(other / name)
    ]


def _content(path: Path) -> Any:
    """Its bytes; of the state of the loop, all that does not depend on the clock."""
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
    return "their order"

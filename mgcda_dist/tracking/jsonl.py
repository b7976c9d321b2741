"""The record that is always there: one JSON line per logged step, cut back to the resumed step after a restart.

A line is `{"step": 120, "time": 1750000000.123, "metrics": {"loss/total": 0.71, …}}`; time is seconds since 1970.
Numbers that JSON does not have are written as the strings "NaN", "Infinity", "-Infinity", which `float` reads back.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mgcda_dist.tracking.tracker import Status

__all__ = ["JsonlTracker", "read_history", "read_lines"]


class JsonlTracker:
    """Appends metrics to a file; everything else is already a file in the run folder and is not repeated.

    Args:
        path: the file; its folder is made. An existing file is continued.
        start_step: first step that will be logged. Lines of an earlier attempt with this step or a later one are
            removed, and so is a line that a crash left half written, by replacing the file in one piece.
    """

    def __init__(self, path: Path, start_step: int = 0) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        _cut_back(path, start_step)
        self._file = path.open("a", encoding="utf-8")

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Nothing: config.yaml in the run folder says it."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Append one line."""
        numbers = {name: _json_number(float(value)) for name, value in metrics.items()}
        line = json.dumps({"step": step, "time": round(time.time(), 3), "metrics": numbers}, allow_nan=False)
        self._file.write(line + "\n")
        self._file.flush()

    def log_picture(self, name: str, path: Path, step: int | None = None) -> None:
        """Nothing: the picture is a file."""

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Nothing: the artifact is a file."""

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Nothing: manifests lie beside their shards."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Nothing."""

    def close(self, status: Status) -> None:
        """Close the file."""
        self._file.close()


def read_lines(path: Path) -> Iterator[tuple[int, float, dict[str, float]]]:
    """(step, time in s, metrics) of every whole line; a file that does not exist has none."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            record = _parse(line)
            if record is not None:
                metrics = {name: float(value) for name, value in record["metrics"].items()}
                yield int(record["step"]), float(record["time"]), metrics


def read_history(path: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Each metric's steps and values, in the order they were logged."""
    history: dict[str, tuple[list[int], list[float]]] = {}
    for step, _, metrics in read_lines(path):
        for name, value in metrics.items():
            steps, values = history.setdefault(name, ([], []))
            steps.append(step)
            values.append(value)
    return history


def _cut_back(path: Path, start_step: int) -> None:
    if not path.is_file():
        return
    temporary = path.with_name(path.name + ".tmp")
    complete = True
    with path.open(encoding="utf-8") as old, temporary.open("w", encoding="utf-8") as new:
        for line in old:
            record = _parse(line)
            if record is not None and record["step"] < start_step:
                new.write(line)
            else:
                complete = False
        new.flush()
        os.fsync(new.fileno())
    if complete:
        temporary.unlink()
    else:
        os.replace(temporary, path)


def _parse(line: str) -> dict[str, Any] | None:
    # A line without its newline was cut off, even if what is there happens to be JSON.
    if not line.endswith("\n"):
        return None
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    whole = isinstance(record, dict) and record.keys() >= {"step", "time", "metrics"}
    return record if whole else None


def _json_number(value: float) -> float | str:
    if math.isnan(value):
        return "NaN"
    return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")

"""The local record of a run in two files, always written; MLflow and the reports are filled from it.

`metrics.jsonl` has one line per logged step, cut back to the resumed step after a restart:

    {"step": 120, "time": 1750000000.123, "metrics": {"loss/total": 0.71, …}}

`record.jsonl` has one line per other call, in their order:

    {"time": …, "call": "start", "experiment": "mgcda", "name": "demo", "uri": "http://mlflow:5000"}
    {"time": …, "call": "params", "params": {"optim.steps": "100", …}}
    {"time": …, "call": "tags", "tags": {"mgcda.seed": "0", …}}
    {"time": …, "call": "dataset", "name": …, "digest": …, "source": …, "context": …}
    {"time": …, "call": "artifact", "path": "evaluation", "folder": "evaluation"}
    {"time": …, "call": "picture", "name": "preview_val", "path": "pictures/steps/…", "step": 100}
    {"time": …, "call": "model", "path": "model", "register_as": null}
    {"time": …, "call": "end", "status": "FINISHED"}

Time is seconds since 1970; paths below the record's folder are relative to it, so that a run can be moved. Numbers that
JSON does not have are written as the strings "NaN", "Infinity", "-Infinity", which `float` reads back.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Set
from functools import partial
from pathlib import Path
from typing import Any

from mgcda_dist.choices import RunFile
from mgcda_dist.errors import MgcdaError, counted
from mgcda_dist.files import PendingFile, write_atomically
from mgcda_dist.lines import LineFile, append_line
from mgcda_dist.tracking.tracker import Status

__all__ = [
    "CALLS",
    "METRICS",
    "JsonlTracker",
    "add_end",
    "flat_params",
    "read_calls",
    "read_history",
    "read_lines",
    "read_lines_from",
]

METRICS, CALLS = RunFile.METRICS, RunFile.CALLS
_OF_A_STEP = {"step", "time", "metrics"}
_LOG = logging.getLogger(__name__)


class JsonlTracker:
    """Appends metrics to one file and all other calls to another beside it; on a full disk they wait in memory.

    Args:
        path: the file for metrics; its folder, which is the record's, is made. Existing files are continued.
        start_step: first step that will be logged. Lines of an earlier attempt with this step or a later one are
            removed, and so is a line that a crash left half written, by replacing the file in one piece.
        warn: receives a sentence when the record cannot be written, and when it is again; default: a log record.
    """

    def __init__(self, path: Path, start_step: int = 0, warn: Callable[[str], None] | None = None) -> None:
        self.path, self.folder = path, path.parent.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._warn = warn or _LOG.warning
        self._metrics = LineFile(path, self._warn, prepare=partial(_cut_back, path, start_step))
        self._calls = LineFile(self.folder / CALLS, self._warn)
        self._lacks_pictures = False
        self._metrics.flush()

    def log_start(self, experiment: str, run_name: str, uri: str | None) -> None:
        """Record the tracking server of the run and its names there; `uri` None: no server yet."""
        self._call("start", experiment=experiment, name=run_name, uri=uri)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record the parameters, flattened to dotted keys."""
        self._call("params", params=flat_params(params))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Append one line."""
        numbers = {name: _json_number(float(value)) for name, value in metrics.items()}
        line = json.dumps({"step": step, "time": round(time.time(), 3), "metrics": numbers}, allow_nan=False)
        self._metrics.append(line)

    def log_picture(self, name: str, path: Path, step: int | None = None) -> None:
        """Record the picture. One of a series is copied to `pictures/steps/`, since the next may replace its file.

        Without room for the copy it is left out, with a warning.
        """
        if step is not None:
            kept = self.folder / "pictures" / "steps" / f"{Path(name).stem.replace('/', '~')}-{step:08d}{path.suffix}"
            try:
                write_atomically(kept, partial(shutil.copyfile, path))
            except OSError as error:
                if not self._lacks_pictures:
                    self._warn(f"pictures are left out, from {name} of step {step} on: {error.strerror or error}")
                self._lacks_pictures = True
                return
            self._lacks_pictures, path = False, kept
        self._call("picture", name=name, path=self._relative(path), step=step)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Record the file, or folder of files."""
        self._call("artifact", path=self._relative(path), folder=folder)

    def log_model(self, path: Path, register_as: str | None = None) -> None:
        """Record the folder of the model."""
        self._call("model", path=self._relative(path), register_as=register_as)

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Record the data set; the manifests stay beside their shards."""
        self._call("dataset", name=name, digest=digest, source=source, context=context)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Record the tags."""
        self._call("tags", tags=dict(tags))

    def close(self, status: Status) -> None:
        """Record the end; what is not written by now is lost, with a warning."""
        self._call("end", status=status)
        for file in (self._metrics, self._calls):
            if not file.flush():
                left = counted(file.num_waiting, "line")
                self._warn(f"{file.path} lacks {left}: there was no room to the end")

    def _call(self, call: str, **fields: Any) -> None:
        self._calls.append(_call_line(call, fields))

    def _relative(self, path: Path) -> str:
        place = path.absolute()
        return str(place.relative_to(self.folder) if place.is_relative_to(self.folder) else place)


def flat_params(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested sections, and lists that hold sections, as dotted keys; other lists as one value. Values as text."""
    flat: dict[str, str] = {}
    for key, value in params.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flat_params(value, f"{name}.")
        elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            flat |= flat_params({str(index): item for index, item in enumerate(value)}, f"{name}.")
        else:
            # Without brackets: MLflow's comparison spreads what looks like JSON over many lines.
            flat[name] = ", ".join(map(str, value)) if isinstance(value, list | tuple) and value else str(value)
    return flat


def add_end(folder: Path, status: Status, time_s: float | None = None) -> None:
    """Record the status at the end of the run in `folder`, and its time if not now."""
    append_line(folder / CALLS, _call_line("end", {"status": status} | ({} if time_s is None else {"time": time_s})))


def _call_line(call: str, fields: Mapping[str, Any]) -> str:
    return json.dumps({"time": round(time.time(), 3), "call": call} | dict(fields), ensure_ascii=False)


def read_calls(folder: Path, start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """(position after it in bytes, call) of the calls recorded in a folder from byte `start` on.

    The fields of a call, as JSON, are listed at the top of this file.
    """
    # The restart has repeated the call of a torn line.
    return _records(folder / CALLS, start, {"call"})


def read_lines(path: Path) -> Iterator[tuple[int, float, dict[str, float]]]:
    """(step, time in s, metrics) of every whole line; a file that does not exist has none."""
    for _, step, time_s, metrics in read_lines_from(path, 0):
        yield step, time_s, metrics


def read_lines_from(path: Path, start: int) -> Iterator[tuple[int, int, float, dict[str, float]]]:
    """(position after it in bytes, step, time in s, metrics) of every whole line from byte `start` on."""
    for after, record in _records(path, start, _OF_A_STEP):
        try:
            metrics = {name: float(value) for name, value in record["metrics"].items()}
            yield after, int(record["step"]), float(record["time"]), metrics
        except (AttributeError, OverflowError, TypeError, ValueError) as error:
            problem = f"the line before byte {after} holds no metrics of a step: {error}"
            raise MgcdaError(str(path), problem, "remove the line") from None


def read_history(path: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Each metric's steps and values, in the order they were logged."""
    history: dict[str, tuple[list[int], list[float]]] = {}
    for step, _, metrics in read_lines(path):
        for name, value in metrics.items():
            steps, values = history.setdefault(name, ([], []))
            steps.append(step)
            values.append(value)
    return history


def _records(path: Path, start: int, keys: Set[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(position after it in bytes, record) of every whole line with these keys from byte `start` on; no file, none."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            start += len(line)
            record = _parse(line, keys)
            if record is not None:
                yield start, record


def _cut_back(path: Path, start_step: int) -> None:
    if not path.is_file():
        return

    def stays(line: bytes) -> bool:
        record = _parse(line, _OF_A_STEP)
        return record is not None and record["step"] < start_step

    with path.open("rb") as old:
        lines = [(len(line), stays(line)) for line in old]
        if all(stay for _, stay in lines):
            return
        old.seek(0)
        try:
            with PendingFile(path) as temporary, temporary.open("wb") as new:
                new.writelines(filter(stays, old))
        except OSError:
            first = next(index for index, (_, stay) in enumerate(lines) if not stay)
            if any(stay for _, stay in lines[first:]):
                raise
            # Without room for a copy: what has to go is the end of the file.
            os.truncate(path, sum(length for length, _ in lines[:first]))


def _parse(line: bytes, keys: Set[str]) -> dict[str, Any] | None:
    # A line without its newline was cut off, even if what is there happens to be JSON.
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # no JSON, or no UTF-8
        return None
    return record if isinstance(record, dict) and record.keys() >= keys else None


def _json_number(value: float) -> float | str:
    if math.isnan(value):
        return "NaN"
    return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")

"""Events of a run, and of an evaluation on workers: appended by processes, followed by commands."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from mgcda_dist.choices import RunFile
from mgcda_dist.lines import LineFile

if TYPE_CHECKING:
    from mgcda_dist.evaluation.evaluate import EvaluationProgress

__all__ = ["EVENTS", "NewLines", "Tail", "append_event", "evaluation_progress", "read_events"]

EVENTS = RunFile.EVENTS
"""File of a run, and of an evaluation on workers, that `append_event` appends to."""

_PROGRESS_EVERY_S = 10.0
_LOG = logging.getLogger(__name__)
_FILES: dict[Path, LineFile] = {}
_LOCK = threading.Lock()


def append_event(path: Path, kind: str, text: str, **facts: Any) -> None:
    """Append a line to an events file, from any number of processes; on a full disk it waits in memory."""
    line = json.dumps({"time": time(), "kind": kind, "text": text, **facts})
    with _LOCK:
        file = _FILES.setdefault(path, LineFile(path, _LOG.warning))
    file.append(line)
    if file.num_waiting:
        _LOG.warning("%s: %s", kind, text)  # where it can be read meanwhile


def read_events(path: Path) -> list[dict[str, Any]]:
    """All events of a file, oldest first; no file, none."""
    return _objects(path.read_bytes()) if path.is_file() else []


def evaluation_progress(say: Callable[..., None]) -> EvaluationProgress:
    """Progress of an evaluation as events of kind "progress": one as a set begins, and one every ten seconds.

    Args:
        say: takes the kind, the text, and `done` and `total`, in frames.
    """
    current, said_s = "", 0.0

    def progress(name: str, done: int, total: int) -> None:
        nonlocal current, said_s
        if name == current and monotonic() - said_s < _PROGRESS_EVERY_S:
            return
        current, said_s = name, monotonic()
        say("progress", f"evaluating {name}: {done} of {total} frames", done=done, total=total)

    return progress


class Tail:
    """Reads new lines of a run's `metrics.jsonl` and `events.jsonl`, from their present end.

    Lines are shown and not computed with, so they stay JSON objects.
    """

    def __init__(self, metrics: Path, events: Path) -> None:
        self._metrics, self._events = NewLines(metrics), NewLines(events)

    @property
    def has_moved(self) -> bool:
        """True once a line was appended since the start."""
        return self._metrics.has_moved or self._events.has_moved

    def metrics(self) -> dict[str, Any] | None:
        """The newest line of metrics since the last call."""
        lines = [line for line in self._metrics.read() if "loss/total" in line.get("metrics", {})]
        return lines[-1] if lines else None

    def events(self) -> list[dict[str, Any]]:
        """All events since the last call."""
        return self._events.read()


class NewLines:
    """Reads lines that other processes append to a file of JSON lines, from its present end.

    Attributes:
        has_moved: true once a line was appended since the start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_bytes = path.stat().st_size if path.is_file() else 0
        self.has_moved = False

    def read(self) -> list[dict[str, Any]]:
        """All whole lines since the last call."""
        if not self._path.is_file():
            return []
        if self._path.stat().st_size < self._read_bytes:
            self._read_bytes = 0  # the file was cut when the run resumed
        with self._path.open("rb") as file:
            file.seek(self._read_bytes)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        self.has_moved = self.has_moved or bool(whole)
        return _objects(whole)


def _objects(text: bytes) -> list[dict[str, Any]]:
    """The objects of whole lines; half a line that a crash has left is none."""
    found: list[dict[str, Any]] = []
    for line in text.splitlines():
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):  # no JSON, or nested without end
            continue
        if isinstance(content, dict):
            found.append(content)
    return found

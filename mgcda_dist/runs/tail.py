"""Tail of a run: the lines that were appended to its metrics and events since the last call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mgcda_dist.runs.folder import RunFolder

__all__ = ["NewLines", "Tail"]


class Tail:
    """Reads new lines of a run's `metrics.jsonl` and `events.jsonl`, from their present end.

    Lines are shown and not computed with, so they stay JSON objects.
    """

    def __init__(self, run: RunFolder) -> None:
        self._metrics, self._events = NewLines(run.metrics), NewLines(run.events)

    @property
    def has_moved(self) -> bool:
        """True once a line was appended since the start."""
        return self._metrics.has_moved or self._events.has_moved

    def metrics(self) -> dict[str, Any] | None:
        """The newest line of metrics since the last call."""
        lines = [line for line in self._metrics.read() if "loss/total" in line["metrics"]]
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
        return [json.loads(line) for line in whole.splitlines()]

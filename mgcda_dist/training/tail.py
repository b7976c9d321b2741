"""Following a run from outside: the lines that rank 0 has appended to its metrics and events since the last look."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mgcda_dist.training.run_folder import RunFolder

__all__ = ["Tail"]


class Tail:
    """Reads what is new in a run's `metrics.jsonl` and `events.jsonl`; starts at their present end.

    Attributes:
        has_moved: whether anything was new since the start.
    """

    def __init__(self, run: RunFolder) -> None:
        self._files = {path: path.stat().st_size if path.is_file() else 0 for path in (run.metrics, run.events)}
        self._metrics, self._events = run.metrics, run.events
        self.has_moved = False

    def metrics(self) -> dict[str, Any] | None:
        """The newest line of metrics since the last call."""
        lines = [line for line in self._new(self._metrics) if "loss/total" in line["metrics"]]
        return lines[-1] if lines else None

    def events(self) -> list[dict[str, Any]]:
        """All events since the last call."""
        return self._new(self._events)

    def _new(self, path: Path) -> list[dict[str, Any]]:
        if not path.is_file():
            return []
        if path.stat().st_size < self._files[path]:
            self._files[path] = 0  # the file was cut when the run resumed
        with path.open("rb") as file:
            file.seek(self._files[path])
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._files[path] += len(whole)
        self.has_moved = self.has_moved or bool(whole)
        return [json.loads(line) for line in whole.splitlines()]

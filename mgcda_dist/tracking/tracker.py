"""The Tracker protocol, and the composite that hands every record to several trackers and survives their failures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

__all__ = ["Status", "Tracker", "Trackers"]

Status = Literal["FINISHED", "FAILED", "KILLED"]
"""End of a run: after its last step, by an error, or stopped from outside (it can be continued)."""

_LOG = logging.getLogger(__name__)


class Tracker(Protocol):
    """Records a run, on rank 0; calls return at once and never wait for a server."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record the run's parameters; sections may be nested."""
        ...

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record numbers of one step; `/` in a name groups."""
        ...

    def log_picture(self, name: str, path: Path, step: int | None = None) -> None:
        """Record an image file under a name, as one of a series when it has a step."""
        ...

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Record a file, or a folder of files."""
        ...

    def log_model(self, path: Path, register_as: str | None = None) -> None:
        """Record a folder with an exported model, on demand also as the next version of a registered one."""
        ...

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Record a data set: name, content digest, path or URL, and use (`training`, `evaluation`)."""
        ...

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Attach searchable text."""
        ...

    def close(self, status: Status) -> None:
        """Write what is pending and end the record; no call may follow."""
        ...


class Trackers:
    """Passes every call to each of its trackers; the first failure of each is reported, none is raised.

    Args:
        parts: the trackers; empty on a rank that records nothing.
        warn: receives one sentence about a failure; default: a log record.
    """

    def __init__(self, parts: Sequence[Tracker], warn: Callable[[str], None] | None = None) -> None:
        self._parts = tuple(parts)
        self._warn = warn or _LOG.warning
        self._warned: set[int] = set()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """See `Tracker`."""
        self._each(lambda part: part.log_params(params))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """See `Tracker`."""
        self._each(lambda part: part.log_metrics(metrics, step))

    def log_picture(self, name: str, path: Path, step: int | None = None) -> None:
        """See `Tracker`."""
        self._each(lambda part: part.log_picture(name, path, step))

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """See `Tracker`."""
        self._each(lambda part: part.log_artifact(path, folder))

    def log_model(self, path: Path, register_as: str | None = None) -> None:
        """See `Tracker`."""
        self._each(lambda part: part.log_model(path, register_as))

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """See `Tracker`."""
        self._each(lambda part: part.log_dataset(name, digest, source, context))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """See `Tracker`."""
        self._each(lambda part: part.set_tags(tags))

    def close(self, status: Status) -> None:
        """See `Tracker`."""
        self._each(lambda part: part.close(status))

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for index, part in enumerate(self._parts):
            try:
                call(part)
            except Exception as error:  # of any kind; training continues
                if index not in self._warned:
                    self._warned.add(index)
                    self._warn(f"{type(part).__name__} failed and is not complete: {type(error).__name__}: {error}")

"""The tracker of a node without rank 0: it samples the node into rank 0's MLflow run, and records nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mgcda_dist.tracking.mlflow import system_monitor
from mgcda_dist.tracking.tracker import Status

__all__ = ["NodeMonitor"]


class NodeMonitor:
    """Samples CPU, memory, disk, network and GPUs of this node every 10 s, from the first metric to the end.

    Args:
        uri: MLflow server; a database file would be written by several nodes at once.
        run_id: rank 0's run.
        node_id: groups the samples, `system/NODE/…`.
    """

    def __init__(self, uri: str, run_id: str, node_id: str) -> None:
        self._uri, self._run_id, self._node_id = uri, run_id, node_id
        self._monitor: Any = None

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Start with the first ones: the loader's processes exist by then, and are not forked beside a thread."""
        if self._monitor is None:
            self._monitor = system_monitor(self._uri, self._run_id, self._node_id, resume=True)

    def close(self, status: Status) -> None:
        """End the sampling; the run is rank 0's to end."""
        if self._monitor is not None:
            self._monitor.finish()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Rank 0 does."""

    def log_picture(self, name: str, path: Path, step: int | None = None) -> None:
        """Rank 0 does."""

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Rank 0 does."""

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Rank 0 does."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Rank 0 does."""

"""The tracker of a node without rank 0: it samples the node into rank 0's MLflow run, and records nothing else."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mgcda_dist.tracking.mlflow_client import reason
from mgcda_dist.tracking.mlflow_system import SystemMonitor
from mgcda_dist.tracking.tracker import Status

__all__ = ["NodeMonitor"]

_LOG = logging.getLogger(__name__)
_LOOK_AGAIN_S = 30.0
_FINISH_S = 10.0


class NodeMonitor:
    """Samples CPU, memory, disk, network and GPUs of this node every 10 s, from the first metric to the end.

    Args:
        uri: MLflow server; a database file would be written by several nodes at once.
        run_id: rank 0's run.
        node_id: groups the samples, `system/NODE/…`.
    """

    def __init__(self, uri: str, run_id: str, node_id: str) -> None:
        self._monitor = SystemMonitor(uri, run_id, node_id)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Start sampling at the first metrics: the loader forks before that, when no thread may run."""
        if self._thread is None:
            # A thread of its own, so that no step waits for the server.
            self._thread = threading.Thread(target=self._keep_going, name="node-monitor", daemon=True)
            self._thread.start()

    def close(self, status: Status) -> None:
        """End the sampling, within 10 s; rank 0 ends the run."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(_FINISH_S)

    def _keep_going(self) -> None:
        said = False
        while True:
            stopping = self._stopping.is_set()
            try:
                self._monitor.keep_going()
                if stopping:
                    self._monitor.finish()
            except Exception as error:  # of any kind: training continues without samples of this node
                if not said:
                    _LOG.warning("no system metrics of this node: %s", reason(error))
                said = True
            if stopping:
                return
            self._stopping.wait(_LOOK_AGAIN_S)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Left to rank 0."""

    def log_picture(self, name: str, path: Path, step: int | None = None) -> None:
        """Left to rank 0."""

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Left to rank 0."""

    def log_model(self, path: Path, register_as: str | None = None) -> None:
        """Left to rank 0."""

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Left to rank 0."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Left to rank 0."""

"""System metrics of a node in MLflow: CPU, memory, disk, network and GPUs every 10 s, also after an outage."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mgcda_dist.tracking.mlflow_client import connect, quiet, reason
from mgcda_dist.tracking.tracker import Status

__all__ = ["NodeMonitor", "SystemMonitor"]

_LOG = logging.getLogger(__name__)
_LOOK_AGAIN_S = 30.0
_FINISH_S = 10.0


class SystemMonitor:
    """Samples this node into a run, `system/NODE/…`; nothing is sampled while the server is away.

    Args:
        uri: tracking server or database.
        run_id: run that receives the samples.
        node_id: the NODE; None: without one.
    """

    def __init__(self, uri: str, run_id: str, node_id: str | None) -> None:
        self._uri, self._run_id, self._node_id = uri, run_id, node_id
        self._monitor: Any = None

    def keep_going(self) -> None:
        """Start the sampling, or start it again: MLflow's thread ends for good when a server does not answer once."""
        if self._monitor is not None and self._lives(self._monitor):
            return
        connect(self._uri)
        with quiet():
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            # After the newest sample that the run has: a restarted run goes on, too.
            monitor = SystemMetricsMonitor(
                self._run_id, resume_logging=True, node_id=self._node_id, tracking_uri=self._uri
            )
        monitor.start()
        self._monitor = monitor

    def finish(self) -> None:
        """Write the last samples, and end the sampling."""
        monitor, self._monitor = self._monitor, None
        if monitor is None:
            return
        answers = self._lives(monitor)
        monitor.finish()
        if answers:
            # MLflow drops what it has sampled since it wrote last: of a run of seconds that is everything.
            monitor.collect_metrics()
            monitor.publish_metrics(monitor.aggregate_metrics())
            monitor.mlflow_logger.flush()

    @staticmethod
    def _lives(monitor: Any) -> bool:
        thread = getattr(monitor, "_process", None)
        return thread is not None and thread.is_alive()


class NodeMonitor:
    """The tracker of a node without rank 0: it samples the node into rank 0's run, from the first metric to the end.

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

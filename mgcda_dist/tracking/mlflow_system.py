"""System metrics of a node in MLflow: CPU, memory, disk, network and GPUs every 10 s, also after an outage."""

from __future__ import annotations

from typing import Any

from mgcda_dist.tracking.mlflow_client import connect, quiet

__all__ = ["SystemMonitor"]


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

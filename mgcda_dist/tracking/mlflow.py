"""MLflow tracker: a thread reads the run's own record and delivers it; a step never waits for a server.

Bounds, whatever the server does: the start waits at most half a minute for it, the end `close_timeout_s`, a step not at
all. Nothing is held in memory: after an outage of any length the record is delivered, by this run, by its next restart,
or by `mgcda sync`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgcda_dist.tracking.jsonl import JsonlTracker
from mgcda_dist.tracking.mlflow_client import announced, check_reachable, connect, impatient, quiet, reason, shortened
from mgcda_dist.tracking.mlflow_delivery import Delivery, Ledger, RunStart, open_run
from mgcda_dist.tracking.mlflow_system import SystemMonitor
from mgcda_dist.tracking.tracker import Status

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["MlflowTracker"]

_LOG = logging.getLogger(__name__)

_ROUND_S, _MAX_PAUSE_S = 1.0, 15.0
_LONG_AWAY_S, _LAST_CHANCE_S = 60.0, 10.0
_TAG_LENGTH = 5000


class MlflowTracker:
    """Writes the local record of a run, and delivers it to MLflow.

    The thread starts with the first metric: until then the loader's processes, which are forked, do not exist.

    Args:
        record: receives every call; its folder also remembers the MLflow run, so that a restart continues it. What the
            run holds already is not logged again; if it is gone, a new one is started.
        uri: tracking server, or `sqlite:////absolute/path.db` (its folder is made, artifacts go beside it).
        experiment: name; created when absent.
        run_name: name shown in the UI; of a new run only.
        system_metrics: sample CPU, memory, disk, network and GPU of this node every 10 s.
        node_id: groups this node's system metrics, `system/NODE/…`.
        warn: receives a sentence when the server goes away, and when it is back; default: a log record.
        close_timeout_s: how long `close` may wait for what is still undelivered, `tracking.wait_s`.
        at_once: whoever makes it learns `run_id`, or hears that the server is away. Otherwise the thread opens the run,
            since loading MLflow and making the tables of a database takes seconds.
    """

    def __init__(
        self,
        record: JsonlTracker,
        uri: str,
        experiment: str,
        run_name: str,
        *,
        tags: Mapping[str, str] | None = None,
        system_metrics: bool = False,
        node_id: str | None = None,
        warn: Callable[[str], None] | None = None,
        close_timeout_s: float = 30.0,
        at_once: bool = True,
    ) -> None:
        self.uri = uri
        self.num_failures = 0
        self._record, self._warn, self._close_timeout_s = record, warn or _LOG.warning, close_timeout_s
        first_tags = {key: shortened(value, _TAG_LENGTH) for key, value in (tags or {}).items()}
        self._start = RunStart(experiment, run_name, round(1000 * time.time()), first_tags)
        self._node_id = node_id if system_metrics else None
        self._samples = system_metrics
        self._away_since: float | None = None
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._deadline = float("inf")
        self._thread: threading.Thread | None = None
        self._monitor: SystemMonitor | None = None
        self._delivery: Delivery | None = None
        record.log_start(experiment, run_name, uri)
        if tags:
            record.set_tags(tags)
        if not at_once:
            return
        try:
            waiting = f"waiting for MLflow at {uri} to answer, at most 10 s a request"
            # The tables of a new database take some seconds.
            with announced(waiting, self._warn, unless=uri.startswith("sqlite:")), impatient():
                check_reachable(uri)
                self._open()
        except Exception as error:  # MLflow, its database layer and its HTTP client raise every kind
            self._failed(error)

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None as long as the server was never reached."""
        return self._delivery.run_id if self._delivery is not None else None

    def start(self) -> None:
        """Start to deliver; otherwise the first metric does. Nothing may be forked afterwards."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._deliver_until_closed, name="mlflow-writer", daemon=True)
            self._thread.start()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters, flattened to dotted keys; a run that is continued keeps the values it started with."""
        self._record.log_params(params)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the numbers of one step."""
        self._record.log_metrics(metrics, step)
        self.start()

    def log_picture(self, name: str, path: Path, step: int | None = None) -> None:
        """Log an image file as `pictures/NAME`, or as step `step` of the series NAME."""
        self._record.log_picture(name, path, step)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Log a file, or all files of a folder; it is read when its turn comes."""
        self._record.log_artifact(path, folder)

    def log_model(self, path: Path, register_as: str | None = None) -> None:
        """Log an exported model as MLflow's model of the run; see `tracking.mlflow_model`."""
        self._record.log_model(path, register_as)

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Log a dataset as an input of the run."""
        self._record.log_dataset(name, digest, source, context)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        self._record.set_tags(tags)

    def close(self, status: Status) -> None:
        """Deliver the rest, end the run; gives up after `close_timeout_s`, or 10 s if none answered for long."""
        self._record.close(status)
        away_s = 0.0 if self._away_since is None else time.monotonic() - self._away_since
        patience_s = min(self._close_timeout_s, _LAST_CHANCE_S if away_s > _LONG_AWAY_S else self._close_timeout_s)
        self._deadline = time.monotonic() + patience_s
        self._stopping.set()
        self.start()
        self._wake.set()
        assert self._thread is not None
        waiting = f"waiting for MLflow at {self.uri} to take {self._left()}, at most {patience_s:g} s (tracking.wait_s)"
        with announced(waiting, self._warn):
            self._thread.join(patience_s)
        if self._thread.is_alive() or self._away_since is not None:
            self._warn(
                f"MLflow at {self.uri} has not got the whole record; `MLFLOW_TRACKING_URI={self.uri} "
                f"mgcda sync {self._record.folder}` delivers what is missing"
            )

    def _left(self) -> str:
        if self._delivery is None:
            return "the record"
        return "the last {} metrics and {} other entries".format(*self._delivery.left())

    # ----------------------------------------------------------------------------------------------------- delivering

    def _open(self) -> None:
        with quiet():
            client: MlflowClient = connect(self.uri)
            ledger = Ledger(self._record.folder, self.uri)
            run, is_new = open_run(client, self.uri, ledger.run_id, self._start)
            if not is_new:
                client.update_run(run.info.run_id, status="RUNNING")
        ledger.begin(run.info.run_id, main=True)
        self._delivery = Delivery(client, self.uri, self._record.folder, ledger, run, self._warn)
        if self._samples:
            self._monitor = SystemMonitor(self.uri, run.info.run_id, self._node_id)

    def _deliver_until_closed(self) -> None:
        pause_s = _ROUND_S
        while True:
            self._wake.wait(pause_s)
            self._wake.clear()
            stopping = self._stopping.is_set()
            delivered = self._round(stopping)
            if stopping and (delivered or time.monotonic() > self._deadline):
                return
            pause_s = _ROUND_S if delivered or stopping else min(2 * pause_s, _MAX_PAUSE_S)

    def _round(self, stopping: bool) -> bool:
        """Deliver the pending part of the record; True if that worked."""
        try:
            if self._delivery is None:
                check_reachable(self.uri)
                self._open()
            assert self._delivery is not None
            self._delivery.metrics()
            if self._monitor is not None:
                self._monitor.finish() if stopping else self._monitor.keep_going()
            self._delivery.calls()
        except Exception as error:
            self._failed(error)
            return False
        if self._away_since is not None:
            away_s = time.monotonic() - self._away_since
            self._away_since = None
            self._warn(f"MLflow at {self.uri} takes the record again, after {away_s:.0f} s")
        return True

    def _failed(self, error: Exception) -> None:
        self.num_failures += 1
        if self._away_since is None:
            self._away_since = time.monotonic()
            self._warn(
                f"MLflow at {self.uri} does not take the record ({reason(error)}); training goes on, and it is "
                "delivered later"
            )

"""Recording a run in MLflow: one run per training, continued after a restart, by a thread of its own.

What is set up before the first metric (run, parameters, tags, artifacts) is written at once. From the first metric on
a thread writes: a step never waits for a database or a server, and the loader's processes, which start before the first
metric, are not forked beside a thread. Whatever MLflow raises is counted and mentioned once; metrics that could not be
written are kept and tried again. The run's jsonl record has them in any case.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import re
import shutil
import tempfile
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgcda_dist.tracking.params import flat_params
from mgcda_dist.tracking.tracker import Status

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

__all__ = ["MlflowTracker", "connect", "end_run", "quiet", "system_monitor"]

_LOG = logging.getLogger(__name__)

_EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # else MLflow's pages offer traces and prompts first
    "mlflow.note.content": "Road anomaly segmentation with mgcda. `eval/SET/…` are results, as fractions; the rest is "
    "training. A run's description holds its method, data and results; a sweep's holds the table over its runs.",
}
_FLUSH_S = 1.0
_MAX_WAITING_METRICS = 500_000
_MAX_JOB_ATTEMPTS = 3
_BATCH_METRICS, _BATCH_PARAMS = 1000, 100  # MLflow's limits per request
_KEY_LENGTH, _PARAM_LENGTH, _TAG_LENGTH, _DIGEST_LENGTH = 250, 6000, 5000, 36


class MlflowTracker:
    """Records one run in MLflow.

    Args:
        uri: tracking server, or `sqlite:////absolute/path.db` (its folder is made, artifacts go beside it).
        experiment: name; created when absent.
        run_name: name shown in the UI; of a new run only.
        run_id: run to continue. What it holds already is not logged again; if it is gone, a new run is started.
        tags: of the run.
        system_metrics: sample CPU, memory, disk, network and GPU of this node every 10 s.
        node_id: groups this node's system metrics, `system/NODE/…`.
        on_start: receives the run id as soon as it is known, to be kept for a restart.
        warn: receives the one sentence about a failure; default: a log record.
        close_timeout_s: how long `close` may wait for what is still unwritten.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        run_name: str,
        *,
        run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        system_metrics: bool = False,
        node_id: str | None = None,
        on_start: Callable[[str], None] | None = None,
        warn: Callable[[str], None] | None = None,
        close_timeout_s: float = 60.0,
    ) -> None:
        self.uri = uri
        self.run_id: str | None = None
        self.num_failures = 0
        self._warn = warn or _LOG.warning
        self._warned = False
        self._close_timeout_s = close_timeout_s
        self._metrics: deque[Metric] = deque()
        self._jobs: deque[tuple[Callable[[], object], int]] = deque()
        self._lock = threading.Lock()
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._monitor: Any = None
        self._monitors, self._node_id, self._continues = system_metrics, node_id, run_id
        self._known_params: dict[str, str] = {}
        self._logged_until: dict[str, tuple[int, float]] = {}
        self._client: MlflowClient | None = None
        try:
            self._start(experiment, run_name, run_id, dict(tags or {}))
        except Exception as error:
            self._failed(error)
        if self.run_id is not None and on_start is not None:
            on_start(self.run_id)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters, flattened to dotted keys; a run that is continued keeps the values it started with."""
        flat = {
            _name(key)[:_KEY_LENGTH]: _shortened(value, _PARAM_LENGTH) for key, value in flat_params(params).items()
        }
        known = self._known_params
        changed = [f"{key}: {known[key]} → {new}" for key, new in flat.items() if known.get(key, new) != new]
        new = {key: value for key, value in flat.items() if key not in known}
        known.update(new)

        def write() -> None:
            from mlflow.entities import Param

            pending = [Param(key, value) for key, value in new.items()]
            for start in range(0, len(pending), _BATCH_PARAMS):
                self._run_client().log_batch(self._id(), params=pending[start : start + _BATCH_PARAMS])

        self._do(write)
        if changed:
            self.set_tags({"mgcda.changed_params": "; ".join(changed)})

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Queue the numbers of one step for the writing thread."""
        if self.run_id is None:
            return
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        new = [
            Metric(_name(key)[:_KEY_LENGTH], float(value), now_ms, step)
            for key, value in metrics.items()
            if not self._is_logged(_name(key)[:_KEY_LENGTH], step, float(value))
        ]
        if len(self._metrics) > _MAX_WAITING_METRICS:
            self._failed(OverflowError("too many metrics are waiting"))
            return
        with self._lock:
            self._metrics.extend(new)
        if self._thread is None:
            if self._monitors:
                self._attempt(self._start_monitor)
            self._thread = threading.Thread(target=self._write_until_closed, name="mlflow-writer", daemon=True)
            self._thread.start()

    def log_picture(self, name: str, path: Path, step: int | None = None) -> None:
        """Log an image file as `pictures/NAME`, or as step `step` of the series NAME."""

        def write() -> None:
            if step is None:
                with tempfile.TemporaryDirectory() as folder:
                    copy = Path(folder) / (name if Path(name).suffix else name + path.suffix)
                    shutil.copyfile(path, copy)
                    self._run_client().log_artifact(self._id(), str(copy), "pictures")
                return
            from PIL import Image

            with Image.open(path) as image:
                self._run_client().log_image(self._id(), image, key=_name(Path(name).stem), step=step)

        self._do(write)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Log a file, or all files of a folder; it is read when its turn comes."""

        def write() -> None:
            log = self._run_client().log_artifacts if path.is_dir() else self._run_client().log_artifact
            log(self._id(), str(path), folder or None)

        self._do(write)

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Log a dataset as an input of the run."""

        def write() -> None:
            from mlflow.entities import Dataset, DatasetInput, InputTag

            where = json.dumps({"uri": source})
            dataset = Dataset(name=name, digest=digest[:_DIGEST_LENGTH], source_type="local", source=where)
            tags = [InputTag("mlflow.data.context", context)]
            self._run_client().log_inputs(self._id(), [DatasetInput(dataset, tags)])

        self._do(write)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""

        def write() -> None:
            from mlflow.entities import RunTag

            pending = [RunTag(_name(key)[:_KEY_LENGTH], _shortened(value, _TAG_LENGTH)) for key, value in tags.items()]
            self._run_client().log_batch(self._id(), tags=pending)

        self._do(write)

    def close(self, status: Status) -> None:
        """Write what is waiting, end the run; gives up after `close_timeout_s`."""
        if self.run_id is None:
            return
        if self._monitor is not None:
            self._do(self._monitor.finish)
        if self._thread is not None:
            self._stopping.set()
            self._wake.set()
            self._thread.join(self._close_timeout_s)
            if self._thread.is_alive() or self._metrics or self._jobs:
                lost = f"{len(self._metrics)} metrics and {len(self._jobs)} files or tags"
                self._failed(TimeoutError(f"{lost} were not written in time"))
                return  # the run is left as it is: its end could not be written either
        self._attempt(lambda: self._run_client().set_terminated(self._id(), status))

    # --------------------------------------------------------------------------------------------------------- start

    def _start(self, experiment: str, run_name: str, run_id: str | None, tags: dict[str, str]) -> None:
        with quiet():
            self._client = connect(self.uri)
            run = self._continued(run_id) or self._new(experiment, run_name)
        self.run_id = run.info.run_id
        self._known_params = dict(run.data.params)
        # The newest value of every metric: what the server sends with a run, so one request for all keys.
        newest = getattr(run.data, "_metric_objs", [])
        self._logged_until = {metric.key: (metric.step, metric.value) for metric in newest}
        if tags:
            self.set_tags(tags)

    def _continued(self, run_id: str | None) -> Run | None:
        if run_id is None:
            return None
        from mlflow.exceptions import MlflowException

        client = self._run_client()
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        if run.info.lifecycle_stage != "active":
            return None
        client.update_run(run_id, status="RUNNING")
        return run

    def _new(self, experiment: str, run_name: str) -> Run:
        from mlflow.exceptions import MlflowException

        client = self._run_client()
        found = client.get_experiment_by_name(experiment)
        if found is None:
            try:
                experiment_id = client.create_experiment(
                    experiment, artifact_location=_artifact_location(self.uri), tags=_EXPERIMENT_TAGS
                )
            except MlflowException:  # another run has just made it
                found = client.get_experiment_by_name(experiment)
                if found is None:
                    raise
                experiment_id = found.experiment_id
        else:
            experiment_id = found.experiment_id
            if found.lifecycle_stage != "active":
                client.restore_experiment(experiment_id)
        return client.create_run(experiment_id, run_name=run_name)

    def _start_monitor(self) -> None:
        self._monitor = system_monitor(self.uri, self._id(), self._node_id, resume=self.run_id == self._continues)

    # ------------------------------------------------------------------------------------------------------- writing

    def _do(self, job: Callable[[], object]) -> None:
        if self.run_id is None:
            return
        if self._thread is None:
            self._attempt(job)
            return
        with self._lock:
            self._jobs.append((job, 1))

    def _write_until_closed(self) -> None:
        while True:
            self._wake.wait(_FLUSH_S)
            last_round = self._stopping.is_set()
            self._write_waiting()
            if last_round:
                return

    def _write_waiting(self) -> None:
        while self._metrics:
            with self._lock:
                batch = list(islice(self._metrics, _BATCH_METRICS))
            if not self._attempt(lambda batch=batch: self._run_client().log_batch(self._id(), metrics=batch)):
                break  # kept, and tried again in the next round
            with self._lock:
                for _ in batch:
                    self._metrics.popleft()
        for _ in range(len(self._jobs)):
            with self._lock:
                job, attempt = self._jobs.popleft()
            if not self._attempt(job) and attempt < _MAX_JOB_ATTEMPTS:
                with self._lock:
                    self._jobs.append((job, attempt + 1))

    def _attempt(self, job: Callable[[], object]) -> bool:
        try:
            job()
        except Exception as error:
            self._failed(error)
            return False
        return True

    def _failed(self, error: Exception) -> None:
        self.num_failures += 1
        if not self._warned:
            self._warned = True
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            self._warn(
                f"MLflow at {self.uri} does not take the record ({reason}); training goes on, metrics.jsonl has it"
            )

    def _is_logged(self, key: str, step: int, value: float) -> bool:
        until = self._logged_until.get(key)
        if until is None or step > until[0]:
            return False
        same = value == until[1] or (math.isnan(value) and math.isnan(until[1]))
        return step < until[0] or same

    def _run_client(self) -> MlflowClient:
        if self._client is None:
            raise RuntimeError("MLflow was never reached")
        return self._client

    def _id(self) -> str:
        if self.run_id is None:
            raise RuntimeError("there is no MLflow run")
        return self.run_id


def system_monitor(uri: str, run_id: str, node_id: str | None, *, resume: bool) -> Any:
    """A thread that samples this node's CPU, memory, disk, network and GPUs into a run; call `finish` on it.

    Args:
        uri: tracking server or database.
        run_id: run that receives `system/NODE/…`.
        node_id: the NODE; None: without one.
        resume: go on after the newest sample that the run has.
    """
    with quiet():
        _import_quietly()
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(run_id, resume_logging=resume, node_id=node_id, tracking_uri=uri)
    monitor.start()
    return monitor


def end_run(uri: str, run_id: str, status: Status) -> None:
    """End a run that whoever started it has left running; a server that does not answer leaves it so."""
    try:
        with quiet():
            client = connect(uri)
            if client.get_run(run_id).info.status == "RUNNING":
                client.set_terminated(run_id, status)
    except Exception as error:
        _LOG.warning("the MLflow run %s stays as it is: %s", run_id, error)


def _import_quietly() -> None:
    """Import MLflow without telemetry, and keep it and its database layer from talking in a normal run."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # A server that is down costs the start of a run a minute with MLflow's own 7 retries and 120 s.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    import mlflow.tracking  # noqa: F401

    for name, level in (("mlflow", logging.ERROR), ("alembic", logging.WARNING)):
        logging.getLogger(name).setLevel(level)


def connect(uri: str) -> MlflowClient:
    """A client of a tracking server, or of an sqlite database, whose tables are made or brought up to date."""
    with quiet():
        _import_quietly()
        return _client(uri)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of SQLAlchemy and pydantic, while MLflow defines its tables and asks them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _client(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    if not uri.startswith("sqlite:////"):
        return MlflowClient(tracking_uri=uri)
    folder = Path(uri.removeprefix("sqlite:///")).parent
    folder.mkdir(parents=True, exist_ok=True)
    with _alone_in(folder):
        return MlflowClient(tracking_uri=uri)  # makes the tables of a new database, or brings them up to date


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Runs that start together must not make the tables together: SQLite would keep half of each attempt."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _artifact_location(uri: str) -> str | None:
    """Beside an sqlite database: MLflow's default is relative to the working directory, which Ray changes."""
    if not uri.startswith("sqlite:////"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts").as_uri()


def _name(text: str) -> str:
    # What MLflow allows in keys; everything else becomes an underscore.
    return re.sub(r"[^\w\-. /:]", "_", text, flags=re.ASCII)


def _shortened(value: object, length: int) -> str:
    text = str(value)
    return text if len(text) <= length else text[: length - 1] + "…"

"""A quiet client of MLflow that gives up in time, and what MLflow allows in texts."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import socket
import threading
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = [
    "announced", "artifact_location", "check_reachable", "connect", "impatient", "quiet", "reason", "shortened",
]  # fmt: skip

_PROBE_S = 5.0
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
_PATIENCE_S = 2.0


def connect(uri: str) -> MlflowClient:
    """A client of a tracking server, or of an sqlite database, whose tables are made or brought up to date."""
    with quiet():
        _import_quietly()
        return _client(uri)


def check_reachable(uri: str) -> None:
    """Raise OSError within 5 s if nothing listens at the address of a server; files are always reachable."""
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    port = parts.port or _PORTS.get(scheme)
    if parts.hostname is None or port is None:
        return
    if scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(parts.hostname):
        return  # only the proxy can reach it
    socket.create_connection((parts.hostname, port), timeout=_PROBE_S).close()


@contextmanager
def impatient(answer_s: float = 10.0) -> Iterator[None]:
    """Try MLflow's requests once, for so long; else a server that hangs would delay the start of a run by minutes."""
    names = ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(zip(names, ("0", str(max(1, round(answer_s)))), strict=True))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def announced(text: str, say: Callable[[str], None], *, unless: bool = False) -> Iterator[None]:
    """Say what is waited for, if the block takes longer than 2 s; `unless`: say nothing."""
    timer = threading.Timer(_PATIENCE_S, say, (text,))
    timer.daemon = True
    if not unless:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings of SQLAlchemy and pydantic while MLflow defines and queries its tables."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def artifact_location(uri: str) -> str | None:
    """Folder beside an sqlite database: MLflow's default is relative to the working directory, which Ray changes."""
    if not uri.startswith("sqlite:////"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts").as_uri()


def shortened(value: object, length: int) -> str:
    """The text of a value, cut to what MLflow stores."""
    text = str(value)
    return text if len(text) <= length else text[: length - 1] + "…"


def reason(error: Exception) -> str:
    """An error in one short line, without MLflow's code: of failed requests, what the operating system said."""
    text = str(error).strip()
    cause = re.search(r"\[Errno [-\d]+\] [\w ]+", text)
    lines = text.splitlines()
    return shortened(cause[0] if cause else re.sub(r"^\w+: ", "", lines[0]) if lines else type(error).__name__, 200)


def _import_quietly() -> None:
    """Import MLflow without telemetry, progress bars and log messages."""
    settings: Mapping[str, str] = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "GIT_PYTHON_REFRESH": "quiet",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        # What waits is tried again anyway, after a pause; MLflow's own 7 retries of 120 s would only hide an outage.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    import mlflow.tracking  # noqa: F401

    for name, level in (("mlflow", logging.ERROR), ("alembic", logging.WARNING)):
        logging.getLogger(name).setLevel(level)


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
    """Lock a folder: of tables that several new runs make together, SQLite would keep half of each attempt."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)

"""Later delivery of a record to MLflow: after a run whose server was away, or to another server."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgcda_dist.errors import MgcdaError
from mgcda_dist.tracking.jsonl import CALLS, METRICS, add_end, read_calls, read_lines
from mgcda_dist.tracking.mlflow_client import check_reachable, connect, impatient, quiet, reason
from mgcda_dist.tracking.mlflow_delivery import Delivery, Ledger, RunStart, open_run
from mgcda_dist.tracking.tracker import Status

__all__ = ["Synced", "end_run", "sync"]

_ATTEMPTS, _PAUSE_S = 3, 1.0


@dataclass(frozen=True)
class Synced:
    """Result of a delivery.

    Attributes:
        uri: the tracking server.
        run_id: MLflow's.
        is_new: True if the server did not have the run before.
        num_metrics: numbers that were missing.
        num_calls: parameters, tags, files, pictures that were missing, in calls.
        refused: a sentence per call that MLflow did not take.
    """

    uri: str
    run_id: str
    is_new: bool
    num_metrics: int
    num_calls: int
    refused: tuple[str, ...]


def sync(folder: Path, uri: str | None = None) -> Synced:
    """Bring the record of a run that is not going on to MLflow, and end the run there as it ended.

    A run without an end (its machine died) is ended as `KILLED`. Done again, it finds nothing to do.

    Args:
        uri: tracking server or database; None: the one the run was recorded to.

    Raises:
        MgcdaError: no record, no server named, or one that does not answer.
    """
    start = _start(folder)
    where = uri or start["uri"]
    if where is None:
        raise MgcdaError(str(folder), "was recorded without MLflow", "give `uri`, the address of a server or database")
    database = where.removeprefix("sqlite:///")
    if uri is None and database != where and not Path(database).is_file():
        raise MgcdaError(where, "the database no longer exists", "give `uri`, the address of a server or database")
    last, time_s = _last(folder)
    if last != "end":
        add_end(folder, "KILLED", time_s)
    ledger = Ledger(folder, where)
    refused: list[str] = []
    try:
        check_reachable(where)
        with quiet():
            client = connect(where)
            first = RunStart(start["experiment"], start["name"], round(1000 * start["time"]))
            run, is_new = open_run(client, where, ledger.run_id, first)
        ledger.begin(run.info.run_id, main=where == start["uri"])
        delivery = Delivery(client, where, folder, ledger, run, refused.append)
        metrics, calls = _patiently(delivery.metrics), _patiently(delivery.calls)
    except Exception as error:  # MLflow, its database layer and its HTTP client raise every kind
        raise MgcdaError(where, f"MLflow does not take the record: {reason(error)}", "is the server running?") from None
    return Synced(where, run.info.run_id, is_new, metrics, calls, tuple(refused))


def end_run(folder: Path, status: Status, warn: Callable[[str], None]) -> None:
    """End the record of a run whose workers are gone, and deliver it if its server answers at once.

    Args:
        status: how it ended; one that has an end keeps it.
        warn: receives a sentence if the record could not be delivered.
    """
    if not (folder / CALLS).is_file():
        return
    if _last(folder)[0] != "end":
        add_end(folder, status)
    if _start(folder)["uri"] is None:
        return
    try:
        with impatient():
            sync(folder)
    except MgcdaError as error:
        warn(f"{error.problem}; `mgcda sync {folder}` delivers what is missing")


def _start(folder: Path) -> dict[str, Any]:
    """The newest start in a record (as JSON, see tracking.jsonl), with the time of the oldest."""
    starts = [call for _, call in read_calls(folder) if call["call"] == "start"]
    if not starts:
        raise MgcdaError(str(folder), "holds no record of a run", "give a run folder, runs/NAME")
    first_step = next((time_s for _, time_s, _ in itertools.islice(read_lines(folder / METRICS), 1)), starts[0]["time"])
    return starts[-1] | {"time": min(starts[0]["time"], first_step)}


def _last(folder: Path) -> tuple[str, float]:
    """Name of the last call, and when the record's last line was written, in s."""
    name, last_s = "", 0.0
    for _, call in read_calls(folder):
        name, last_s = call["call"], call["time"]
    for _, time_s, _ in read_lines(folder / METRICS):
        last_s = max(last_s, time_s)
    return name, last_s


def _patiently(deliver: Callable[[], int]) -> int:
    """Deliver with retries, enough to tell a refused call from a server that is away."""
    total = 0
    for attempt in range(_ATTEMPTS):
        try:
            return total + deliver()
        except Exception:
            if attempt == _ATTEMPTS - 1:
                raise
            time.sleep(_PAUSE_S)
    return total

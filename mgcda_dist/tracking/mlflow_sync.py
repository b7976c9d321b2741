"""Later delivery of a record to MLflow: after a run whose server was away, or to another server."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgcda_dist.addresses import without_secrets
from mgcda_dist.choices import DATABASE, RunFile
from mgcda_dist.errors import MgcdaError
from mgcda_dist.tracking.calls import checked
from mgcda_dist.tracking.jsonl import CALLS, METRICS, add_end, read_calls, read_lines
from mgcda_dist.tracking.mlflow_client import announced, check_reachable, connect, impatient, quiet, reason
from mgcda_dist.tracking.mlflow_delivery import Delivery, Ledger, RunStart, open_run
from mgcda_dist.tracking.tracker import Status
from mgcda_dist.trust import below

__all__ = ["Synced", "end_run", "sync"]

_ATTEMPTS, _PAUSE_S, _AT_ONCE_S = 3, 1.0, 10.0
_LEVELS = 3
"""RUNS/NAME, RUNS/SWEEP/NAME and RUNS/NAME/evaluation lie this far below RUNS/mlflow.db."""


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


def sync(
    folder: Path,
    uri: str | None = None,
    *,
    register: bool = False,
    wait_s: float = 30.0,
    say: Callable[[str], None] = lambda text: None,
) -> Synced:
    """Bring the record of a run that is not going on to MLflow, and end the run there as it ended.

    A run without an end (its machine died) is ended as `KILLED`. Done again, it finds nothing to do. The record may
    come from others: nothing but files below its folder is sent, and not to the address that it names.

    Args:
        uri: tracking server or database; None: `MLFLOW_TRACKING_URI` of the environment, else the database above the
            folder, if the run was recorded to a database.
        register: register the model under the name that the record gives.
        wait_s: how long it may take to answer a request; with its last try, up to twice as long in all.
        say: receives a sentence about what is waited for.

    Raises:
        MgcdaError: no record, no server named, or one that does not answer; a record that is a link.
    """
    for name in (CALLS, METRICS, RunFile.LEDGER, RunFile.RUN_ID):
        below(folder, name)
    start = _start(folder)
    where = uri or os.environ.get("MLFLOW_TRACKING_URI") or _database(folder, start["uri"])
    last, time_s = _last(folder)
    if last != "end":
        add_end(folder, "KILLED", time_s)
    ledger = Ledger(folder, where)
    refused: list[str] = []
    waiting = f"waiting for MLflow at {where} to take the record, at most {wait_s:g} s for an answer"
    try:
        with announced(waiting, say, unless=where.startswith("sqlite:")), impatient(wait_s):
            check_reachable(where)
            with quiet():
                client = connect(where)
                first = RunStart(start["experiment"], start["name"], round(1000 * start["time"]))
                run, is_new = open_run(client, where, ledger.run_id, first)
            ledger.begin(run.info.run_id, main=where == start["uri"])
            delivery = Delivery(client, where, folder, ledger, run, refused.append, registers=register)
            metrics, calls = _patiently(delivery.metrics, wait_s), _patiently(delivery.calls, wait_s)
    except MgcdaError:
        raise
    except Exception as error:  # MLflow, its database layer and its HTTP client raise every kind
        raise MgcdaError(where, f"MLflow does not take the record: {reason(error)}", "is the server running?") from None
    return Synced(where, run.info.run_id, is_new, metrics, calls, tuple(refused))


def end_run(folder: Path, uri: str | None, status: Status, warn: Callable[[str], None]) -> None:
    """End the record of a run whose workers are gone, and deliver it if its server answers at once.

    Args:
        uri: tracking server or database of the run; None: it has none.
        status: how it ended; one that has an end keeps it.
        warn: receives a sentence about a long wait, and if the record could not be delivered.
    """
    if not (folder / CALLS).is_file():
        return
    if _last(folder)[0] != "end":
        try:
            add_end(folder, status)
        except OSError as error:
            warn(f"{folder / CALLS} lacks the end of the run ({error.strerror})")
    if uri is None:
        return
    try:
        sync(folder, uri, register=True, wait_s=_AT_ONCE_S, say=warn)
    except MgcdaError as error:
        warn(f"{error.problem}; `MLFLOW_TRACKING_URI={uri} mgcda sync {folder}` delivers what is missing")


def _database(folder: Path, recorded: str | None) -> str:
    """The nearest database above a folder of a run that was recorded to one.

    Raises:
        MgcdaError: it was recorded to a server, to another database, or nowhere: who delivers it says where to.
    """
    remedy = "give `uri`, the address of a server or database, or set MLFLOW_TRACKING_URI"
    if recorded is None:
        raise MgcdaError(str(folder), "was recorded without MLflow", remedy)
    above = [parent / DATABASE for parent in folder.absolute().parents[:_LEVELS]]
    found = next((database for database in above if database.is_file()), None)
    if found is None or not recorded.startswith("sqlite:"):
        where = without_secrets(recorded)
        problem = f"was recorded to {where}, but a record may come from others, and is not asked where to"
        raise MgcdaError(str(folder), problem, remedy)
    return f"sqlite:///{found}"


def _start(folder: Path) -> dict[str, Any]:
    """The newest start in a record (as JSON, see tracking.jsonl), with the time of the oldest."""
    record = str(folder / CALLS)
    starts = [checked(call, record) for _, call in read_calls(folder) if call["call"] == "start"]
    if not starts:
        raise MgcdaError(str(folder), "holds no record of a run", "give a run folder, runs/NAME")
    first_step = next((time_s for _, time_s, _ in itertools.islice(read_lines(folder / METRICS), 1)), starts[0]["time"])
    return starts[-1] | {"time": min(starts[0]["time"], first_step)}


def _last(folder: Path) -> tuple[str, float]:
    """Name of the last call, and when the record's last line was written, in s."""
    name, last_s = "", 0.0
    for _, call in read_calls(folder):
        name, last_s = str(call["call"]), _number(call.get("time"))
    for _, time_s, _ in read_lines(folder / METRICS):
        last_s = max(last_s, time_s)
    return name, last_s


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _patiently(deliver: Callable[[], int], wait_s: float) -> int:
    """Deliver with retries, enough to tell a refused call from a server that is away; none after `wait_s`."""
    total, begun = 0, time.monotonic()
    for attempt in range(_ATTEMPTS):
        try:
            return total + deliver()
        except Exception:
            if attempt == _ATTEMPTS - 1 or time.monotonic() - begun > wait_s:
                raise
            time.sleep(_PAUSE_S)
    return total

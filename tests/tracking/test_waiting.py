"""A tracker that accepts connections and never answers: what is waited for is said, and the wait has a bound."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mgcda_dist.errors import MgcdaError
from mgcda_dist.tracking.jsonl import METRICS, JsonlTracker
from mgcda_dist.tracking.mlflow_sync import end_run, sync
from tests.support.tracked import tracked

pytestmark = pytest.mark.slow


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_the_end_of_a_run_says_what_it_waits_for_and_does_not_wait_long(tmp_path: Path, silent: str) -> None:
    said: list[str] = []
    tracker = tracked(tmp_path, silent, "silent", "run", warn=said.append, close_timeout_s=4)
    assert said[0] == f"waiting for MLflow at {silent} to answer, at most 10 s a request"
    tracker.log_metrics({"loss/total": 1.0}, 0)
    begun = time.monotonic()
    tracker.close("FINISHED")
    assert 3 < time.monotonic() - begun < 10
    waiting, lacking = said[-2:]
    assert waiting == f"waiting for MLflow at {silent} to take the record, at most 4 s (tracking.wait_s)"
    assert f"MLflow at {silent} has not got the whole record" in lacking and f"mgcda sync {tmp_path}`" in lacking


def test_a_later_delivery_says_what_it_waits_for_and_does_not_wait_long(tmp_path: Path, silent: str) -> None:
    record = JsonlTracker(tmp_path / METRICS)
    record.log_start("silent", "run", silent)
    record.close("FINISHED")
    said: list[str] = []
    begun = time.monotonic()
    with pytest.raises(MgcdaError, match="MLflow does not take the record"):
        sync(tmp_path, silent, wait_s=3, say=said.append)
    assert 2 < time.monotonic() - begun < 20
    assert said == [f"waiting for MLflow at {silent} to take the record, at most 3 s for an answer"]


def test_the_end_of_a_lost_run_is_a_warning_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record, said = JsonlTracker(tmp_path / METRICS), list[str]()
    record.log_start("none", "run", None)
    monkeypatch.setattr("os.write", lambda handle, data: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    end_run(tmp_path, None, "FAILED", said.append)
    assert said == [f"{tmp_path}/record.jsonl lacks the end of the run (No space left on device)"]

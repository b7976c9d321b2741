"""Against a real MLflow server on this machine: records, artifacts through its proxy, reading back, an outage."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mgcda_dist.reports.compare import compare
from mgcda_dist.reports.runs import find_runs
from mgcda_dist.tracking.mlflow import MlflowTracker
from mgcda_dist.tracking.mlflow_runs import MlflowStore
from tests.support.runs import write_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Server:
    """`mlflow server` in a process group of its own, with a database and a folder for artifacts."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri, self.folder = f"http://127.0.0.1:{self.port}", folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        command += ["--artifacts-destination", f"file://{self.folder}/store"]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                    assert answer.status == 200
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                log = (self.folder / "server.log").read_text()
                assert self._process.poll() is None and time.monotonic() < deadline, log
                time.sleep(0.2)

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    before = dict(os.environ)
    # An outage is noticed at once; MLflow itself would try for a while.
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.stop()
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


def test_a_run_through_the_server_and_back(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "p.png")
    for name, skill in (("baseline", 2.0), ("full", 2.5)):
        run = write_run(tmp_path / name, skill=skill)
        tracker = MlflowTracker(server.uri, "roads", name, tags={"mgcda.run_folder": str(run)})
        tracker.log_params({"mdat": {"enabled": name == "full"}, "seed": 0})
        tracker.log_dataset("train/camvid", "c" * 64, "/shards/camvid", "training")
        for step in range(3):
            tracker.log_metrics({"loss/total": 3.0 - step}, step)
        tracker.log_picture("preview_road", tmp_path / "p.png", step=2)
        tracker.log_picture("panel.png", tmp_path / "p.png")
        tracker.log_artifact(run / "evaluation", "evaluation")
        tracker.close("FINISHED")
        assert tracker.num_failures == 0
        run.rename(tmp_path / f"moved_{name}")
    assert list((server.folder / "store").rglob("frames.npz")), "artifacts lie where the server keeps them"

    records, notes = find_runs([], runs=tmp_path, mlflow_uri=server.uri, experiment="roads")
    assert [record.name for record in records] == ["baseline", "full"] and notes == []
    assert all(record.folder is None for record in records)
    assert records[0].history["loss/total"] == ([0, 1, 2], [3.0, 2.0, 1.0])
    (road,) = compare(records, replicates=100).sets
    assert road.differences["full"]["ap"].verdict == "better"
    store = MlflowStore(server.uri)
    picture = store.fetch(str(records[0].run_id), "pictures/panel.png")
    assert picture is not None and picture.read_bytes() == (tmp_path / "p.png").read_bytes()
    assert capfd.readouterr() == ("", "")


def test_training_outlives_an_outage_and_the_record_catches_up(server: Server) -> None:
    said: list[str] = []
    tracker = MlflowTracker(server.uri, "outage", "run", warn=said.append)
    tracker.log_metrics({"loss/total": 1.0}, 0)
    deadline = time.monotonic() + 30
    while not MlflowStore(server.uri).history(str(tracker.run_id)):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    server.stop()
    start = time.perf_counter()
    for step in range(1, 5):
        tracker.log_metrics({"loss/total": 1.0}, step)
    assert time.perf_counter() - start < 0.5, "no step waits for a server"
    while not said:
        assert time.monotonic() < deadline + 60
        time.sleep(0.1)
    server.start()
    tracker.close("FINISHED")
    store = MlflowStore(server.uri)
    assert store.history(str(tracker.run_id))["loss/total"][0] == [0, 1, 2, 3, 4]
    assert store.run(str(tracker.run_id)) is not None and len(said) == 1

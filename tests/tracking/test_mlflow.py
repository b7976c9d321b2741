"""Against a real MLflow on sqlite."""

import logging
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mgcda_dist.tracking.mlflow import MlflowTracker, end_run


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One database for all tests of this file: making its tables takes a second."""
    folder = tmp_path_factory.mktemp("mlflow") / "runs"
    before = dict(os.environ)
    yield f"sqlite:///{folder}/mlflow.db"
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


@pytest.fixture
def client(uri: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=uri)


def picture(path: Path) -> Path:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    return path


def test_a_run_as_users_see_it(uri: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    started: list[str] = []
    tracker = MlflowTracker(uri, "demo", "full-seed0", tags={"git": "abc"}, on_start=started.append)
    assert started == [tracker.run_id]
    tracker.log_params(
        {"optim": {"steps": 100, "lr": 1e-3}, "domains": [{"name": "a"}, {"name": "b"}], "crop": [64, 64]}
    )
    tracker.log_params({"long": "x" * 9000, "odd=key": True})
    tracker.log_dataset("camvid/train", "0" * 64, "/shards/camvid", "training")
    (tmp_path / "manifest.json").write_text("{}")
    tracker.log_artifact(tmp_path / "manifest.json", "datasets")
    for step in range(3):
        tracker.log_metrics({"loss/total": 1.0 - 0.1 * step, "mdat/stride16/accuracy": 0.5, "bad": float("nan")}, step)
    tracker.log_picture("panel", picture(tmp_path / "p.png"))
    tracker.log_picture("panel", picture(tmp_path / "p.png"), step=2)
    tracker.log_artifact(tmp_path)
    tracker.close("FINISHED")
    assert tracker.num_failures == 0
    assert capfd.readouterr() == ("", "")

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    run = client.get_run(started[0])
    assert run.info.run_name == "full-seed0" and run.info.status == "FINISHED"
    assert run.data.params["optim.steps"] == "100" and run.data.params["domains.1.name"] == "b"
    assert run.data.params["crop"] == "64, 64" and run.data.params["odd_key"] == "True"
    assert len(run.data.params["long"]) == 6000
    assert run.data.tags["git"] == "abc"
    history = client.get_metric_history(started[0], "loss/total")
    assert [(m.step, round(m.value, 6)) for m in history] == [(0, 1.0), (1, 0.9), (2, 0.8)]
    assert run.inputs is not None and run.inputs.dataset_inputs[0].dataset.name == "camvid/train"
    names = {artifact.path for artifact in client.list_artifacts(started[0])}
    assert {"datasets", "pictures", "images", "manifest.json"} <= names
    assert [a.path for a in client.list_artifacts(started[0], "pictures")] == ["pictures/panel.png"]
    where = Path(uri.removeprefix("sqlite:///")).parent
    assert {path.name for path in where.iterdir()} == {"mlflow.db", "mlartifacts"}


def test_resume_continues_the_run_without_duplicates(uri: str, client: Any) -> None:
    first = MlflowTracker(uri, "resume", "run")
    first.log_params({"steps": 100, "workers": 2})
    for step in range(0, 60, 10):
        first.log_metrics({"loss": float(step), "eval/ap": 0.5}, step)
    first.close("KILLED")
    assert client.get_run(first.run_id).info.status == "KILLED"

    second = MlflowTracker(uri, "resume", "other name", run_id=first.run_id)
    assert second.run_id == first.run_id
    assert client.get_run(first.run_id).info.status == "RUNNING"
    second.log_params({"steps": 100, "workers": 4, "new": 1})
    for step in range(30, 80, 10):  # resumed at 30: 30, 40 and 50 come again
        second.log_metrics({"loss": float(step), "late": 1.0}, step)
    second.log_metrics({"eval/ap": 0.7}, 50)  # another value of a logged step is news
    second.close("FINISHED")
    assert second.num_failures == 0

    steps = [(m.step, m.value) for m in client.get_metric_history(first.run_id, "loss")]
    assert steps == [(step, float(step)) for step in range(0, 80, 10)]
    assert [m.step for m in client.get_metric_history(first.run_id, "late")] == [30, 40, 50, 60, 70]
    run = client.get_run(first.run_id)
    assert run.data.metrics["eval/ap"] == 0.7
    assert run.data.params == {"steps": "100", "workers": "2", "new": "1"}
    assert run.data.tags["mgcda.changed_params"] == "workers: 2 → 4"
    assert run.info.run_name == "run" and run.info.status == "FINISHED"


def test_a_run_that_is_gone_is_replaced(uri: str, client: Any) -> None:
    lost = MlflowTracker(uri, "gone", "run", run_id="0123456789abcdef0123456789abcdef")
    assert lost.run_id is not None and lost.run_id != "0123456789abcdef0123456789abcdef"
    lost.close("FINISHED")
    client.delete_run(lost.run_id)
    again = MlflowTracker(uri, "gone", "run", run_id=lost.run_id)
    assert again.run_id != lost.run_id and again.num_failures == 0
    again.close("FINISHED")


def test_logging_does_not_wait_for_the_database(uri: str, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = MlflowTracker(uri, "async", "run")
    log_batch, slow = tracker._client.log_batch, threading.Event()  # type: ignore[union-attr]

    def delayed(*args: Any, **kwargs: Any) -> Any:
        slow.wait(5)
        return log_batch(*args, **kwargs)

    monkeypatch.setattr(tracker._client, "log_batch", delayed)
    start = time.perf_counter()
    for step in range(500):
        tracker.log_metrics({f"m{i}": 1.0 for i in range(20)}, step)
    assert time.perf_counter() - start < 1.0
    slow.set()
    tracker.close("FINISHED")
    assert len(client.get_metric_history(tracker.run_id, "m7")) == 500


def test_an_outage_is_said_once_and_nothing_is_lost(uri: str, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    tracker = MlflowTracker(uri, "outage", "run", warn=said.append)
    log_batch, down = tracker._client.log_batch, threading.Event()  # type: ignore[union-attr]
    down.set()

    def flaky(*args: Any, **kwargs: Any) -> Any:
        if down.is_set():
            raise ConnectionError("server is away\ndetails")
        return log_batch(*args, **kwargs)

    monkeypatch.setattr(tracker._client, "log_batch", flaky)
    tracker.log_metrics({"loss": 1.0}, 0)
    tracker.log_artifact(Path("/does/not/exist"))
    deadline = time.monotonic() + 10
    while tracker.num_failures < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    down.clear()
    tracker.log_metrics({"loss": 2.0}, 1)
    tracker.close("FINISHED")
    assert [m.value for m in client.get_metric_history(tracker.run_id, "loss")] == [1.0, 2.0]
    assert len(said) == 1 and "(server is away)" in said[0] and "training goes on" in said[0]


def test_a_server_that_never_was_costs_nothing_but_the_record(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with caplog.at_level(logging.WARNING, logger="mgcda_dist"):
        tracker = MlflowTracker("http://127.0.0.1:9", "x", "y", on_start=pytest.fail)
    assert tracker.run_id is None and len(caplog.records) == 1
    tracker.log_params({"a": 1})
    tracker.log_metrics({"a": 1.0}, 0)
    tracker.log_artifact(tmp_path)
    tracker.set_tags({"a": "b"})
    tracker.close("FAILED")
    assert len(caplog.records) == 1


def test_system_metrics_of_this_node(uri: str, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    tracker = MlflowTracker(uri, "system", "run", system_metrics=True, node_id="node0")
    tracker.log_metrics({"loss": 1.0}, 0)
    time.sleep(1.0)
    start = time.perf_counter()
    tracker.close("FINISHED")
    assert time.perf_counter() - start < 5
    names = client.get_run(tracker.run_id).data.metrics
    assert "system/node0/cpu_utilization_percentage" in names and tracker.num_failures == 0
    assert not [thread.name for thread in threading.enumerate() if "SystemMetrics" in thread.name]


def test_experiments_are_shared_and_restored(uri: str, client: Any) -> None:
    one, two = MlflowTracker(uri, "shared", "a"), MlflowTracker(uri, "shared", "b")
    one.close("FINISHED")
    two.close("FINISHED")
    experiment = client.get_experiment_by_name("shared")
    assert len(client.search_runs([experiment.experiment_id])) == 2
    client.delete_experiment(experiment.experiment_id)
    three = MlflowTracker(uri, "shared", "c")
    three.close("FINISHED")
    assert three.num_failures == 0 and three.run_id is not None


_START = """
import sys
from mgcda_dist.tracking.mlflow import MlflowTracker, end_run
tracker = MlflowTracker(sys.argv[1], "race", "run")
tracker.log_metrics({"loss": 1.0}, 0)
tracker.close("FINISHED")
sys.exit(tracker.num_failures)
"""


@pytest.mark.slow
def test_runs_that_start_together_share_a_new_database(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _START, f"sqlite:///{tmp_path}/new/mlflow.db"]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    said = [run.communicate(timeout=120)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert said == ["", ""]


def test_a_run_that_was_left_running_is_ended_once(uri: str, client: Any) -> None:
    left = MlflowTracker(uri, "left", "run")
    assert left.run_id is not None and client.get_run(left.run_id).info.status == "RUNNING"
    end_run(uri, left.run_id, "FAILED")
    assert client.get_run(left.run_id).info.status == "FAILED"
    end_run(uri, left.run_id, "KILLED")
    assert client.get_run(left.run_id).info.status == "FAILED", "it had ended"


def test_an_experiment_says_what_it_holds(uri: str, client: Any) -> None:
    MlflowTracker(uri, "kind", "run").close("FINISHED")
    tags = client.get_experiment_by_name("kind").tags
    assert tags["mlflow.experimentKind"] == "custom_model_development" and "eval/SET" in tags["mlflow.note.content"]

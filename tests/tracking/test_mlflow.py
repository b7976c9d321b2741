"""Against a real MLflow on sqlite."""

import json
import logging
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mgcda_dist.tracking.mlflow_sync import end_run
from tests.support.tracked import tracked


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for all tests of this file: making its tables takes a second."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/runs/mlflow.db"


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
    run_folder = tmp_path / "full"
    tracker = tracked(run_folder, uri, "demo", "full-seed0", tags={"git": "abc"})
    run_id = str(tracker.run_id)
    assert (run_folder / "mlflow_run_id").read_text().strip() == run_id
    tracker.log_params(
        {"optim": {"steps": 100, "lr": 1e-3}, "streams": [{"name": "a"}, {"name": "b"}], "crop": [64, 64]}
    )
    tracker.log_params({"long": "x" * 9000, "odd=key": True})
    tracker.log_dataset("camvid/train", "0" * 64, "/shards/camvid", "training")
    (run_folder / "manifest.json").write_text("{}")
    tracker.log_artifact(run_folder / "manifest.json", "datasets")
    for step in range(3):
        tracker.log_metrics({"loss/total": 1.0 - 0.1 * step, "mdat/stride16/accuracy": 0.5, "bad": float("nan")}, step)
    tracker.log_picture("panel", picture(run_folder / "p.png"))
    for step in (1, 2):
        tracker.log_picture("panel", picture(run_folder / "p.png"), step=step)
    (run_folder / "more").mkdir()
    (run_folder / "more" / "a.txt").write_text("a")
    tracker.log_artifact(run_folder / "more")
    tracker.close("FINISHED")
    assert tracker.num_failures == 0
    assert capfd.readouterr() == ("", "")

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    run = client.get_run(run_id)
    assert run.info.run_name == "full-seed0" and run.info.status == "FINISHED"
    assert run.data.params["optim.steps"] == "100" and run.data.params["streams.1.name"] == "b"
    assert run.data.params["crop"] == "64, 64" and run.data.params["odd:3Dkey"] == "True"
    assert len(run.data.params["long"]) == 6000
    assert run.data.tags["git"] == "abc"
    history = client.get_metric_history(run_id, "loss/total")
    assert [(m.step, round(m.value, 6)) for m in history] == [(0, 1.0), (1, 0.9), (2, 0.8)]
    assert run.inputs is not None and run.inputs.dataset_inputs[0].dataset.name == "camvid/train"
    names = {artifact.path for artifact in client.list_artifacts(run_id)}
    assert names == {"datasets", "pictures", "images", "a.txt"}
    assert [a.path for a in client.list_artifacts(run_id, "pictures")] == ["pictures/panel.png"]
    where = Path(uri.removeprefix("sqlite:///")).parent
    assert {path.name for path in where.iterdir()} == {"mlflow.db", "mlartifacts"}


def test_resume_continues_the_run_without_duplicates(uri: str, client: Any, tmp_path: Path) -> None:
    first = tracked(tmp_path, uri, "resume", "run")
    first.log_params({"steps": 100, "workers": 2})
    for step in range(0, 60, 10):
        first.log_metrics({"loss": float(step), "time/step_s": 1.0, "eval/ap": 0.5}, step)
    picture(tmp_path / "p.png")
    first.log_picture("preview", tmp_path / "p.png", step=50)
    first.close("KILLED")
    assert client.get_run(first.run_id).info.status == "KILLED"

    second = tracked(tmp_path, uri, "resume", "other name", start_step=30)
    assert second.run_id == first.run_id
    assert client.get_run(first.run_id).info.status == "RUNNING"
    second.log_params({"steps": 100, "workers": 4, "new": 1})
    for step in range(30, 80, 10):  # resumed at 30: 30, 40 and 50 come again, and take another time
        second.log_metrics({"loss": float(step), "time/step_s": 2.0, "late": 1.0}, step)
    second.log_picture("preview", tmp_path / "p.png", step=50)
    second.log_metrics({"eval/ap": 0.7}, 50)  # the network was evaluated again: another value is news
    second.close("FINISHED")
    assert second.num_failures == 0

    assert [(m.step, m.value) for m in client.get_metric_history(first.run_id, "loss")] == [
        (step, float(step)) for step in range(0, 80, 10)
    ]
    assert [m.step for m in client.get_metric_history(first.run_id, "time/step_s")] == list(range(0, 80, 10))
    assert [m.step for m in client.get_metric_history(first.run_id, "late")] == [30, 40, 50, 60, 70]
    run = client.get_run(first.run_id)
    assert run.data.metrics["eval/ap"] == 0.7
    assert run.data.params == {"steps": "100", "workers": "2", "new": "1"}
    assert run.data.tags["mgcda.changed_params"] == "workers: 2 → 4"
    assert run.info.run_name == "run" and run.info.status == "FINISHED"
    pictures = [file.path for file in client.list_artifacts(first.run_id, "images") if file.path.endswith(".png")]
    assert len(pictures) == 1 and pictures[0].startswith("images/preview+step+50+")


def test_a_run_that_is_gone_is_replaced(uri: str, client: Any, tmp_path: Path) -> None:
    (tmp_path / "mlflow_run_id").write_text("0123456789abcdef0123456789abcdef\n")
    lost = tracked(tmp_path, uri, "gone", "run")
    assert lost.run_id is not None and lost.run_id != "0123456789abcdef0123456789abcdef"
    lost.log_params({"a": 1})
    lost.log_metrics({"loss": 1.0}, 0)
    lost.close("FINISHED")
    client.delete_run(lost.run_id)
    again = tracked(tmp_path, uri, "gone", "run", start_step=1)
    assert again.run_id != lost.run_id and again.num_failures == 0
    again.close("FINISHED")
    found = client.get_run(again.run_id).data
    assert found.params == {"a": "1"} and found.metrics == {"loss": 1.0}, "it has all of the record"


def test_logging_does_not_wait_for_the_database(
    uri: str, client: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tracker = tracked(tmp_path, uri, "async", "run")
    store: Any = tracker._delivery._client  # type: ignore[union-attr]
    log_batch, slow = store.log_batch, threading.Event()

    def delayed(*args: Any, **kwargs: Any) -> Any:
        slow.wait(5)
        return log_batch(*args, **kwargs)

    monkeypatch.setattr(store, "log_batch", delayed)
    start = time.perf_counter()
    for step in range(500):
        tracker.log_metrics({f"m{i}": 1.0 for i in range(20)}, step)
    assert time.perf_counter() - start < 1.0
    slow.set()
    tracker.close("FINISHED")
    assert len(client.get_metric_history(tracker.run_id, "m7")) == 500


def test_an_outage_is_reported_and_no_record_is_lost_or_doubled(
    uri: str, client: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said: list[str] = []
    tracker = tracked(tmp_path, uri, "outage", "run", warn=said.append)
    store: Any = tracker._delivery._client  # type: ignore[union-attr]
    log_batch, down = store.log_batch, threading.Event()
    down.set()

    def flaky(*args: Any, **kwargs: Any) -> Any:
        if down.is_set():
            log_batch(*args, **kwargs)  # it arrived, and the answer was lost
            raise ConnectionError("server is away\ndetails")
        return log_batch(*args, **kwargs)

    monkeypatch.setattr(store, "log_batch", flaky)
    tracker.log_metrics({"loss": 1.0}, 0)
    tracker.set_tags({"mgcda.health.data": "slow"})
    deadline = time.monotonic() + 10
    while tracker.num_failures < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    down.clear()
    tracker.log_metrics({"loss": 2.0}, 1)
    tracker.close("FINISHED")
    assert [m.value for m in client.get_metric_history(tracker.run_id, "loss")] == [1.0, 2.0]
    run = client.get_run(tracker.run_id)
    assert run.data.tags["mgcda.health.data"] == "slow" and run.info.status == "FINISHED"
    assert len(said) == 2 and "(server is away)" in said[0] and "training goes on" in said[0]
    assert "takes the record again" in said[1]


def test_what_mlflow_refuses_is_named_and_holds_up_nothing(
    uri: str, client: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said: list[str] = []
    tracker = tracked(tmp_path, uri, "refused", "run", warn=said.append)

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise ValueError("too large")

    monkeypatch.setattr(tracker._delivery._client, "log_inputs", refuse)  # type: ignore[union-attr]
    tracker.log_artifact(Path("/does/not/exist"))
    tracker.log_dataset("huge", "0", "/shards", "training")
    tracker.set_tags({"after": "yes"})
    tracker.close("FINISHED")
    assert client.get_run(tracker.run_id).data.tags["after"] == "yes"
    assert any("lacks the artifact /does/not/exist" in text for text in said)
    assert any("lacks the dataset huge: too large" in text for text in said)


def test_a_server_that_never_was_costs_nothing_but_the_record(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    start = time.perf_counter()
    with caplog.at_level(logging.WARNING, logger="mgcda_dist"):
        tracker = tracked(tmp_path, "http://127.0.0.1:9", "x", "y", close_timeout_s=1.0)
        assert tracker.run_id is None and len(caplog.records) == 1
        tracker.log_params({"a": 1})
        tracker.log_metrics({"a": 1.0}, 0)
        tracker.log_artifact(tmp_path)
        tracker.set_tags({"a": "b"})
        tracker.close("FAILED")
    assert time.perf_counter() - start < 10
    assert len(caplog.records) == 2 and f"mgcda sync {tmp_path}`" in caplog.records[1].message


def test_system_metrics_of_this_node(uri: str, client: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    tracker = tracked(tmp_path, uri, "system", "run", system_metrics=True, node_id="node0")
    tracker.log_metrics({"loss": 1.0}, 0)
    deadline = time.monotonic() + 30
    while "system/node0/cpu_utilization_percentage" not in client.get_run(tracker.run_id).data.metrics:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    tracker.close("FINISHED")
    assert tracker.num_failures == 0
    assert not [thread.name for thread in threading.enumerate() if "SystemMetrics" in thread.name]


def test_experiments_are_shared_and_restored(uri: str, client: Any, tmp_path: Path) -> None:
    one, two = tracked(tmp_path / "a", uri, "shared", "a"), tracked(tmp_path / "b", uri, "shared", "b")
    one.close("FINISHED")
    two.close("FINISHED")
    experiment = client.get_experiment_by_name("shared")
    assert len(client.search_runs([experiment.experiment_id])) == 2
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert "eval/SET" in experiment.tags["mlflow.note.content"]
    client.delete_experiment(experiment.experiment_id)
    three = tracked(tmp_path / "c", uri, "shared", "c")
    three.close("FINISHED")
    assert three.num_failures == 0 and three.run_id is not None


_START = """
import sys
from pathlib import Path
from mgcda_dist.tracking.jsonl import JsonlTracker
from mgcda_dist.tracking.mlflow import MlflowTracker
tracker = MlflowTracker(JsonlTracker(Path(sys.argv[2])), sys.argv[1], "race", "run")
tracker.log_metrics({"loss": 1.0}, 0)
tracker.close("FINISHED")
sys.exit(tracker.num_failures)
"""


@pytest.mark.slow
def test_runs_that_start_together_share_a_new_database(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _START, f"sqlite:///{tmp_path}/new/mlflow.db"]
    runs = [
        subprocess.Popen([*command, f"{tmp_path}/{i}/metrics.jsonl"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         text=True)
        for i in range(2)
    ]  # fmt: skip
    said = [run.communicate(timeout=120)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    # On a busy machine delivery may take the two seconds after which it is said what is waited for.
    assert [line for text in said for line in text.splitlines() if not line.startswith("waiting for MLflow")] == []


def test_a_run_that_was_left_running_is_ended_once(uri: str, client: Any, tmp_path: Path) -> None:
    left = tracked(tmp_path, uri, "left", "run")
    left.log_params({"a": 1})
    assert left.run_id is not None and client.get_run(left.run_id).info.status == "RUNNING"
    said: list[str] = []
    end_run(tmp_path, uri, "FAILED", said.append)
    run = client.get_run(left.run_id)
    assert run.info.status == "FAILED" and run.data.params == {"a": "1"}, "and has what was not delivered yet"
    end_run(tmp_path, uri, "KILLED", said.append)
    assert client.get_run(left.run_id).info.status == "FAILED", "it had ended"
    assert not any("is missing" in text for text in said)
    ends = [line for line in (tmp_path / "record.jsonl").read_text().splitlines() if json.loads(line)["call"] == "end"]
    assert len(ends) == 1


def test_a_run_on_a_database_of_its_own_is_opened_with_the_first_metric(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracker = tracked(tmp_path / "run", uri, "demo", "late", tags={"git": "abc"}, at_once=False)
    tracker.log_params({"optim": {"steps": 2}})
    assert tracker.run_id is None and not (tmp_path / "mlflow.db").exists(), "a start that nobody waits for"
    tracker.log_metrics({"loss/total": 1.0}, 0)
    tracker.close("FINISHED")
    assert tracker.num_failures == 0

    from mlflow import MlflowClient

    run = MlflowClient(tracking_uri=uri).get_run(str(tracker.run_id))
    assert (run.info.status, run.data.metrics["loss/total"], run.data.params["optim.steps"]) == ("FINISHED", 1.0, "2")
    assert run.data.tags["git"] == "abc" and (tmp_path / "run" / "mlflow_run_id").read_text().strip() == tracker.run_id


def test_a_run_that_ends_before_its_first_metric_is_there(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracker = tracked(tmp_path / "run", uri, "demo", "short", at_once=False)
    tracker.close("FAILED")

    from mlflow import MlflowClient

    assert MlflowClient(tracking_uri=uri).get_run(str(tracker.run_id)).info.status == "FAILED"

"""Against a real MLflow server on this machine: records, artifacts through its proxy, outages, `mgcda sync`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mgcda_dist.reports.compare import compare
from mgcda_dist.reports.runs import find_runs
from mgcda_dist.tracking.mlflow_runs import MlflowStore
from tests.support.commands import invoke, refusal
from tests.support.mlflow_server import MlflowServer
from tests.support.runs import write_run
from tests.support.tracked import tracked
from tests.support.watched import wait_for

pytestmark = pytest.mark.slow


def contents(server: MlflowServer, run_id: str) -> tuple[Any, ...]:
    """All that a run has, in comparable form."""
    from mlflow import MlflowClient

    client = MlflowClient(server.uri)
    run = client.get_run(run_id)
    steps = {key: [(m.step, m.timestamp) for m in client.get_metric_history(run_id, key)] for key in run.data.metrics}
    places = ["", "images", "pictures"]
    files = sorted(file.path for place in places for file in client.list_artifacts(run_id, place))
    inputs = [entry.dataset.name for entry in run.inputs.dataset_inputs] if run.inputs is not None else []
    return steps, dict(run.data.params), dict(run.data.tags), files, inputs, run.info.status, run.info.end_time


def test_a_run_through_the_server_and_back(
    server: MlflowServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "p.png")
    for name, skill in (("baseline", 2.0), ("full", 2.5)):
        run = write_run(tmp_path / name, skill=skill)
        (run / "metrics.jsonl").unlink()
        (run / "p.png").write_bytes((tmp_path / "p.png").read_bytes())
        tracker = tracked(run, server.uri, "roads", name, tags={"mgcda.run_folder": str(run)})
        tracker.log_params({"mdat": {"enabled": name == "full"}, "seed": 0})
        tracker.log_dataset("train/camvid", "c" * 64, "/shards/camvid", "training")
        for step in range(3):
            tracker.log_metrics({"loss/total": 3.0 - step}, step)
        tracker.log_picture("preview_road", run / "p.png", step=2)
        tracker.log_picture("panel.png", run / "p.png")
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


def test_what_an_outage_for_good_left_behind_is_delivered_once(server: MlflowServer, tmp_path: Path) -> None:
    """Gone in mid-run; restarted without it; synchronised when it is back; and again, which adds nothing."""
    run = tmp_path / "run"
    said: list[str] = []
    tracker = tracked(run, server.uri, "sync", "run", warn=said.append, close_timeout_s=0.5)
    run_id = str(tracker.run_id)
    for step in range(3):
        tracker.log_metrics({"loss/total": float(step), "time/step_s": 1.0}, step)
    wait_for(lambda: len(MlflowStore(server.uri).history(run_id).get("loss/total", [[]])[0]) == 3, "three steps")
    server.stop()
    for step in range(3, 6):
        tracker.log_metrics({"loss/total": float(step), "time/step_s": 1.0}, step)
    tracker.close("KILLED")
    again = tracked(run, server.uri, "sync", "run", start_step=2, warn=said.append, close_timeout_s=0.5)
    assert again.run_id is None
    for step in range(2, 8):
        again.log_metrics({"loss/total": float(step), "time/step_s": 2.0}, step)
    again.log_params({"seed": 1})
    again.log_dataset("train/a", "0" * 64, "/shards/a", "training")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(run / "p.png")
    again.log_picture("preview", run / "p.png", 6)
    again.log_picture("panel.png", run / "p.png")
    again.close("FINISHED")
    assert f"mgcda sync {run}`" in said[-1]
    server.start()

    done = invoke("sync", run, "--mlflow-uri", server.uri)
    assert done.exit_code == 0, done.output
    assert "run: 10 metrics, " in done.output.replace("\n", " ") and run_id in done.output
    found = contents(server, run_id)
    assert {key: [step for step, _ in entries] for key, entries in found[0].items()} == {
        "loss/total": list(range(8)),
        "time/step_s": list(range(8)),
    }
    assert found[1] == {"seed": "1"} and found[4] == ["train/a"] and found[5] == "FINISHED"
    assert "pictures/panel.png" in found[3]
    (run / "mlflow.json").unlink()  # even where nobody knows how far it had come
    for expected in ("other entries", "nothing was missing"):
        repeated = invoke("sync", run, "--mlflow-uri", server.uri)
        assert repeated.exit_code == 0 and expected in repeated.output
        assert contents(server, run_id) == found


def test_a_run_that_never_reached_mlflow_gets_one(server: MlflowServer, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    for folder in (sweep, sweep / "child"):
        tags = {"mgcda.run_folder": str(folder)}
        tracker = tracked(folder, "http://127.0.0.1:9", "never", folder.name, tags=tags, close_timeout_s=0.1)
        tracker.log_metrics({"loss/total": 1.0}, 0)
        if folder == sweep:
            tracker.close("FINISHED")  # the child's machine died
    wrong = invoke("sync", sweep, "--mlflow-uri", "http://127.0.0.1:9")
    assert wrong.exit_code == 2 and wrong.output.count("is the server running?") == 2
    done = invoke("sync", sweep, "--mlflow-uri", server.uri)
    assert done.exit_code == 0 and done.output.count("→  new run") == 2, done.output
    parent, child = ((folder / "mlflow_run_id").read_text().strip() for folder in (sweep, sweep / "child"))
    assert contents(server, parent)[5] == "FINISHED" and contents(server, child)[5] == "KILLED"
    assert contents(server, child)[2]["mlflow.parentRunId"] == parent
    again = invoke("sync", sweep, "--mlflow-uri", server.uri)
    assert again.output.count("nothing was missing") == 2


def test_a_server_that_hangs_holds_up_the_start_for_a_bounded_time(server: MlflowServer, tmp_path: Path) -> None:
    server.freeze()
    try:
        start = time.perf_counter()
        tracker = tracked(tmp_path, server.uri, "hangs", "run", warn=lambda text: None, close_timeout_s=1.0)
        assert tracker.run_id is None and time.perf_counter() - start < 30
    finally:
        server.thaw()
    tracker.log_metrics({"loss/total": 1.0}, 0)
    wait_for(lambda: tracker.run_id is not None, "the run")
    tracker.close("FINISHED")


def test_a_folder_that_cannot_be_synchronised_is_refused(tmp_path: Path) -> None:
    assert "holds no record of a run" in str(refusal("sync", tmp_path))
    assert "MLFLOW_TRACKING_PASSWORD" in str(refusal("sync", tmp_path, "--mlflow-uri", "http://me:secret@host"))

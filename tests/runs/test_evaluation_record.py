"""`mgcda evaluate --mlflow-uri`, against a real MLflow on sqlite."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import Result

from mgcda_dist.reports.runs import RunRecord, RunSource
from mgcda_dist.tracking.jsonl import JsonlTracker
from mgcda_dist.tracking.mlflow_client import connect
from tests.support.commands import invoke, refusal
from tests.support.exported import write_run


def _evaluate(*words: object) -> Result:
    return invoke("evaluate", *words, "--kept", 1, "--max-frames", 3)


@pytest.mark.slow
def test_a_model_and_foreign_maps_become_runs_that_can_be_compared(tmp_path: Path, tiny_shards: Path) -> None:
    run, uri = write_run(tmp_path / "net"), f"sqlite:///{tmp_path}/mlflow.db"
    data = ["--data", f"seen={tiny_shards}/real_day/test", "--mlflow-uri", uri]
    done = _evaluate(run, *data, "--submission", "smiyc")
    assert done.exit_code == 0, done.output
    maps = next((run / "evaluation/submission/anomaly_p/net").iterdir())
    done = _evaluate("--maps", f"theirs={maps}", *data, "--experiment", "elsewhere", "--out", tmp_path / "theirs")
    assert done.exit_code == 0 and "MLflow run" in done.output, done.output

    source = RunSource(tmp_path, uri)
    ours, theirs = source.by_word("net-evaluation")[0], source.by_word("elsewhere")[0]
    assert theirs.name == "theirs" and ours.experiment == "mgcda" and ours.status == "FINISHED"
    for record, folder in ((ours, run / "evaluation"), (theirs, tmp_path / "theirs")):
        row = json.loads((folder / "results.json").read_text())["sets"]["seen"]
        assert record.metrics["eval/seen/ap"] == pytest.approx(row["ap"])
        assert record.evaluation == folder
    assert ours.params["evaluation.height_px"] == "32" and theirs.params["subject.kind"] == "maps"
    compared = invoke("compare", ours.run_id, theirs.run_id, "--mlflow-uri", uri, "--out", tmp_path / "table")
    assert compared.exit_code == 0 and "theirs" in compared.output, compared.output

    client = connect(uri)
    inputs = client.get_run(ours.run_id or "").inputs
    assert inputs is not None and [entry.dataset.name for entry in inputs.dataset_inputs] == ["eval/seen"]
    assert {file.path for file in client.list_artifacts(ours.run_id or "", "evaluation")} == {
        f"evaluation/{name}" for name in ("results.json", "results.md", "results.tex", "sets")
    }, "and not the score maps"

    assert _evaluate(run, *data, "--submission", "smiyc").exit_code == 0
    assert RunSource(tmp_path, uri).by_word("net-evaluation")[0].run_id == ours.run_id, "made again: the same run"
    assert _evaluate(run, *data, "--flip", "--out", run / "evaluation", "--overwrite").exit_code == 0
    flipped = RunSource(tmp_path, uri).by_word("net-evaluation")[0]
    assert flipped.run_id != ours.run_id and flipped.params["evaluation.flip"] == "True"


@pytest.mark.slow
def test_a_server_that_is_away_costs_no_results(tmp_path: Path, tiny_shards: Path) -> None:
    run, data = write_run(tmp_path / "net"), ["--data", f"seen={tiny_shards}/real_day/test"]
    both, out = [run, f"again={run}"], tmp_path / "out"
    few = ("--kept", 1, "--max-frames", 3)
    away = refusal("evaluate", *both, *data, *few, "--out", out, "--mlflow-uri", "http://127.0.0.1:9")
    folders = [str(out / "net"), str(out / "again")]
    assert "MLflow does not take" in str(away) and away.remedy.endswith("mgcda sync " + " ".join(folders))
    assert (out / "results.md").is_file() and (out / "net/results.json").is_file()
    found = invoke("sync", *folders, "--mlflow-uri", f"sqlite:///{tmp_path}/mlflow.db")
    assert found.exit_code == 0, found.output
    source = RunSource(tmp_path)
    for name in ("net-net", "again-again"):
        record: RunRecord = source.by_word(name)[0]
        assert "eval/seen/ap" in record.metrics


def test_the_record_of_a_training_is_not_replaced(tmp_path: Path, tiny_shards: Path) -> None:
    run = write_run(tmp_path / "net")
    record = JsonlTracker(run / "metrics.jsonl")
    record.log_start("mgcda", "net", None)
    record.log_metrics({"loss/total": 1.0}, 1)
    before = [(run / name).read_bytes() for name in ("metrics.jsonl", "record.jsonl")]
    words = ["--data", f"seen={tiny_shards}/real_day/test", "--out", run, "--mlflow-uri", f"sqlite:///{tmp_path}/m.db"]
    assert "record of a training" in str(refusal("evaluate", run, *words, "--overwrite"))
    assert [(run / name).read_bytes() for name in ("metrics.jsonl", "record.jsonl")] == before
    assert not (run / "results.json").exists(), "refused before anything is evaluated"
    record.close("KILLED")


def test_an_experiment_without_a_server_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "net")
    assert "no server" in str(refusal("evaluate", run, "--experiment", "mine"))
    assert "password" in str(refusal("evaluate", run, "--mlflow-uri", "http://me:secret@host"))

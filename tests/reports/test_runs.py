"""Runs are found by folder, by name, by id, by experiment and by search, and read the same from each place."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mgcda_dist.errors import MgcdaError
from mgcda_dist.reports.runs import RunRecord, find_runs
from mgcda_dist.tracking.tags import Tag
from tests.support.runs import write_evaluation, write_run
from tests.support.tracked import tracked

Found = tuple[list[RunRecord], list[str]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two finished runs of a sweep and a failed one in MLflow; `here` also has its folder, `away` only artifacts."""
    folder = tmp_path_factory.mktemp("compare") / "runs"
    before = dict(os.environ)
    uri = f"sqlite:///{folder}/mlflow.db"
    sweep = tracked(folder.parent / "sweep", uri, "roads", "sweep", tags={Tag.SWEEP: "sweep"})
    sweep.close("FINISHED")
    here = write_run(folder / "here")
    away = write_run(folder.parent / "elsewhere" / "away", skill=3.0, seed=1)
    for run in (here, away):
        tags = {"mgcda.run_folder": str(run), "mlflow.parentRunId": str(sweep.run_id)}
        tracker = tracked(run, uri, "roads", run.name, tags=tags)
        config = yaml.safe_load((run / "config.yaml").read_text())
        tracker.log_params({key: value for key, value in config.items() if key != "name"})
        tracker.log_artifact(run / "evaluation", "evaluation")
        tracker.log_artifact(run / "manifests.json")
        for step in (0, 5, 10, 15):
            tracker.log_metrics({"loss/total": 2.0 - 0.05 * step, "eval/road/ap": 0.5}, step)
        tracker.close("FINISHED")
        assert tracker.num_failures == 0
    away.rename(folder.parent / "moved")
    tracked(folder.parent / "broken", uri, "roads", "broken").close("FAILED")
    yield folder
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


def _one(found: Found) -> RunRecord:
    (record,), _ = found
    return record


def test_a_run_folder_needs_no_mlflow(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "a")
    for word in (str(run), "a"):
        record = _one(find_runs([word], runs=tmp_path / "runs"))
        assert (record.name, record.status, record.folder) == ("a", "FINISHED", run)
        assert record.params["mdat.enabled"] == "True" and record.params["optim.steps"] == "20"
        assert record.history["loss/total"][0] == [0, 5, 10, 15]
        assert (
            record.evaluation == run / "evaluation"
            and record.results is not None
            and record.results.settings.convention == "pooled"
        )
        stored = json.loads((run / "results.json").read_text())["sets"]["road"]
        assert record.metrics["eval/road/miou"] == stored["miou"] and record.metrics["loss/total"] == 1.25
        assert record.inputs[0].digest == "c" * 64


def test_a_folder_of_runs_is_all_of_them(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_run(tmp_path / "sweep" / name)
    assert [record.name for record in find_runs([str(tmp_path / "sweep")])[0]] == ["a", "b"]


def test_an_evaluation_folder_is_a_run(tmp_path: Path) -> None:
    foreign = write_evaluation(tmp_path / "their_scores")
    record = _one(find_runs([str(foreign)]))
    assert (record.name, record.params, record.evaluation) == ("their_scores", {}, foreign)
    run = write_run(tmp_path / "ours")
    record = _one(find_runs([str(run / "evaluation")]))
    assert record.name == "ours" and record.params["seed"] == "0"


def test_mlflow_by_name_id_experiment_search_and_sweep(runs: Path) -> None:
    by_experiment, notes = find_runs([], runs=runs, experiment="roads")
    assert [record.name for record in by_experiment] == ["here", "away"]
    assert notes == ["left out, not finished: broken (failed)"]
    assert [record.name for record in find_runs(["roads"], runs=runs)[0]] == ["here", "away"]
    assert [record.name for record in find_runs(["sweep"], runs=runs)[0]] == ["here", "away"]
    assert _one(find_runs([], runs=runs, search="params.seed = '1'")).name == "away"
    away = _one(find_runs(["away"], runs=runs))
    assert away.run_id is not None
    assert _one(find_runs([away.run_id], runs=runs)).name == "away"
    everything = find_runs(["here", "away", str(runs / "here"), "roads"], runs=runs)[0]
    assert [record.name for record in everything] == ["here", "away"]


def test_a_run_of_another_machine_is_fetched(runs: Path) -> None:
    away = _one(find_runs(["away"], runs=runs))
    assert away.folder is None and away.experiment == "roads"
    assert away.evaluation is not None and (away.evaluation / "sets" / "road" / "frames.npz").is_file()
    assert away.history["loss/total"] == ([0, 5, 10, 15], [2.0, 1.75, 1.5, 1.25])
    assert away.inputs[0].samples == 8
    assert away.file("nothing.txt") is None
    nested = away.file("evaluation/sets/road/frames.npz")
    assert nested is not None and nested.is_file() and nested == away.file("evaluation/sets/road/frames.npz")


def test_folder_and_mlflow_give_the_same_parameters(runs: Path) -> None:
    folder = _one(find_runs([str(runs / "here")], runs=runs))
    stored = _one(find_runs([], runs=runs, experiment="roads", search="params.seed = '0'"))
    assert stored.params == folder.params and stored.evaluation == folder.evaluation


@pytest.mark.parametrize(
    ("words", "asked", "says"),
    [
        (["awai"], {}, "did you mean away"),
        ([], {"experiment": "rods"}, "there is no experiment 'rods'"),
        ([], {"search": "params.seed ="}, "MLflow does not take it"),
        ([], {"search": "params.seed = '7'"}, "no finished run fits"),
    ],
)
def test_what_is_not_there_is_said(runs: Path, words: list[str], asked: dict[str, Any], says: str) -> None:
    with pytest.raises(MgcdaError, match=says):
        find_runs(words, runs=runs, **asked)


def test_no_database_and_damaged_files_are_said(tmp_path: Path) -> None:
    with pytest.raises(MgcdaError, match="there is no MLflow database"):
        find_runs([], runs=tmp_path, experiment="x")
    assert not list(tmp_path.iterdir())
    (tmp_path / "empty").mkdir()
    with pytest.raises(MgcdaError, match="holds neither a run nor an evaluation"):
        find_runs(["empty"], runs=tmp_path)
    run = write_run(tmp_path / "cut")
    (run / "evaluation" / "results.json").write_text('{"sets": {')
    with pytest.raises(MgcdaError, match="is not whole"):
        find_runs(["cut"], runs=tmp_path)

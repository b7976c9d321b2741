"""`mgcda sweep` as users run it: two configurations under a seed, Ctrl-C in the middle, the same command again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mgcda_dist.tracking.jsonl import read_history
from tests.support.commands import start_mgcda
from tests.support.configs import tiny_content, write_config
from tests.support.watched import wait_for_lines

pytestmark = [pytest.mark.extended, pytest.mark.cluster, pytest.mark.timeout(900)]

STEPS = 12


def _sweep(folder: Path, *words: str) -> subprocess.Popen[str]:
    sweep = ("sweep", "base.yaml", "full.yaml", "--seeds", 3, "--name", "s", *words)
    return start_mgcda(*sweep, cwd=folder, env={"COLUMNS": "120"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_shards: Path) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    write_config(folder / "full.yaml", tiny_content(tiny_shards, name="full", optim={"steps": STEPS}))
    (folder / "base.yaml").write_text("base: full.yaml\nname: base\nmdat: {enabled: false}\ncacl: {enabled: false}\n")
    return folder


@pytest.fixture(scope="module")
def attempts(folder: Path) -> list[tuple[int, str, str]]:
    """Exit code, output and errors: interrupted while the first run trains, to the end, and once more."""
    first = _sweep(folder)
    wait_for_lines(folder / "runs/s/base-s3/metrics.jsonl", 2, first)
    os.killpg(first.pid, signal.SIGINT)
    done = [(*first.communicate(timeout=120), first.returncode)]
    for _ in range(2):
        again = _sweep(folder)
        done.append((*again.communicate(timeout=480), again.returncode))
    return [(code, out, err) for out, err, code in done]


def test_ctrl_c_stops_all_and_the_same_command_finishes(folder: Path, attempts: list[tuple[int, str, str]]) -> None:
    first, second, third = attempts
    assert (first[0], first[2]) == (3, ""), first
    assert "stopping after this step" in first[1] and "the same command goes on from here" in first[1]
    assert (second[0], second[2]) == (0, ""), second
    assert "(2 of 2 finished)" in second[1] and "comparison.md" in second[1]
    for name in ("base-s3", "full-s3"):
        run = folder / "runs/s" / name
        assert json.loads((run / "results.json").read_text())["sets"]["unseen"]["miou"] > 0
        assert read_history(run / "metrics.jsonl")["loss/total"][0] == list(range(STEPS))
    assert (third[0], third[2]) == (0, "") and "started" not in third[1] and "2 runs, 2 finished" in third[1]


# MLflow's own query of an sqlite store.
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
def test_mlflow_has_the_runs_under_one(folder: Path, attempts: list[Any]) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/runs/mlflow.db")
    (experiment,) = (e for e in client.search_experiments() if e.name == "mgcda")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"s", "base-s3", "full-s3"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    parent = runs.pop("s")
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert "| base-s3 | 1 |" in parent.data.tags["mlflow.note.content"], "the table has a row per configuration"
    assert "| full-s3 | 1 |" in parent.data.tags["mlflow.note.content"]
    artifacts = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert artifacts == {"comparison.json", "comparison.md", "comparison.tex", "sweep.json"}

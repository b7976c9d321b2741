"""`mgcda train` as users run it: real Ray, DeepSpeed, MLflow; interruptions, another world size, a killed worker."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.tracking.jsonl import read_history
from tests.support.commands import mgcda, start_mgcda
from tests.support.configs import tiny_content, write_config
from tests.support.watched import events, groups, wait_for_lines

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(900)]

STEPS = 30


def _start(folder: Path, *words: object) -> subprocess.Popen[str]:
    return start_mgcda(*_train(folder, *words), cwd=folder, env=_home(folder))


def _run(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return mgcda(*_train(folder, *words), cwd=folder, env=_home(folder))


def _train(folder: Path, *overrides: object) -> tuple[object, ...]:
    return ("train", folder / "run.yaml", f"runs={folder}/runs", *overrides)


def _home(folder: Path) -> dict[str, str]:
    """A home of its own: what a run leaves there would show."""
    return {"HOME": str(folder / "home")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_shards: Path) -> Path:
    folder = tmp_path_factory.mktemp("train")
    (folder / "home").mkdir()
    # One frame is damaged in all runs of this file: others stand in for it, the same ones at every number of workers.
    shards = tmp_path_factory.mktemp("damaged") / "shards"
    shutil.copytree(tiny_shards, shards)
    manifest = Manifest.open(shards / "render_b/train")
    row = manifest.shard_index(0)[0]
    with open(manifest.shard_path(0), "r+b") as tar:
        tar.seek(int(row["image_offset"]))
        tar.write(bytes(int(row["image_bytes"])))
    # Something says what is normal in the frames without labels: otherwise a run begins with warnings.
    # With ZeRO the optimiser's state lies in slices, which are dealt anew to another number of workers.
    content = tiny_content(
        shards, optim={"steps": STEPS}, cacl={"unlabelled_confidence": 0.9}, engine={"zero_stage": 1}
    )
    write_config(folder / "run.yaml", content)
    return folder


@pytest.fixture(scope="module")
def interrupted(folder: Path) -> list[subprocess.CompletedProcess[str]]:
    """Ctrl-C for one worker; two go on, of which one is killed and restarted."""

    def kill_the_leader(_: int) -> None:
        os.kill(groups(folder / "runs/two")[-1][0]["process"], signal.SIGKILL)

    # What a terminal does: the signal goes to the whole process group.
    first = _disturbed(folder, lambda driver: os.killpg(driver, signal.SIGINT), "name=two", "scaling.workers=1")
    return [first, _disturbed(folder, kill_the_leader, "name=two", "scaling.workers=2")]


def _disturbed(folder: Path, act: Callable[[int], None], name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """The command; `act` is called with its process once it has logged four steps of its own."""
    metrics = folder / f"runs/{name.removeprefix('name=')}/metrics.jsonl"
    lines = metrics.read_text().count("\n") if metrics.is_file() else 0
    process = _start(folder, name, *words)
    wait_for_lines(metrics, lines + 4, process)
    act(process.pid)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture(scope="module")
def alone(folder: Path) -> subprocess.CompletedProcess[str]:
    """One worker, no interruption."""
    return _run(folder, "name=one", "scaling.workers=1")


def test_ctrl_c_leaves_a_checkpoint_more_workers_go_on_and_a_killed_one_is_restarted(
    folder: Path, interrupted: list[subprocess.CompletedProcess[str]]
) -> None:
    stopped, again = interrupted
    _assert_stopped(stopped)
    assert "for 2 workers" in again.stdout, "the optimiser's state was dealt anew"
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("resuming at step") == 2 and events(folder / "runs/two", "restart"), "one was killed"
    assert "another sample stands in: step" in "".join(run.stdout for run in interrupted)
    assert "evaluating unseen: " in again.stdout
    counted = read_history(folder / "runs/two/metrics.jsonl")["data/bad_samples"][1]
    assert counted == sorted(counted) and counted[-1] >= STEPS // 8
    steps, _ = read_history(folder / "runs/two/metrics.jsonl")["loss/total"]
    assert steps == list(range(STEPS))
    assert not any((folder / "runs/two/checkpoints").glob(".writing*"))


def _assert_stopped(run: subprocess.CompletedProcess[str]) -> None:
    assert (run.returncode, run.stderr) == (3, ""), run.stdout + run.stderr
    assert "stopping after this step, with a checkpoint" in run.stdout
    assert "The same command resumes from it" in run.stdout


# In every run of the suite: Ctrl-C, which one handler takes with it.
@pytest.mark.extended
def test_sigterm_leaves_a_checkpoint_of_two_workers(folder: Path) -> None:
    _assert_stopped(
        _disturbed(folder, lambda driver: os.kill(driver, signal.SIGTERM), "name=three", "scaling.workers=2")
    )


def test_results_and_pictures_are_where_the_run_says(
    folder: Path, interrupted: list[subprocess.CompletedProcess[str]]
) -> None:
    run = folder / "runs/two"
    results = json.loads((run / "results.json").read_text())
    assert results["convention"] == "pooled"
    assert set(results["sets"]["unseen"]) >= {"ap", "auroc", "fpr95", "miou", "frames", "manifest_digest"}
    pictures = {path.name for path in (run / "pictures").iterdir()}
    assert pictures == {
        "panel_unseen.png", "findings_unseen.png", "pr_curve.png", "roc_curve.png", "history.png", "alignment.png",
    }  # fmt: skip
    assert "report     " in interrupted[-1].stdout
    page = (run / "report.html").read_text(encoding="utf-8")
    for words in ("scaling.workers=2", f"{STEPS} steps", "unseen", "Loss terms", "data:image/webp"):
        assert words in page, words
    assert {path.name for path in folder.iterdir()} == {"run.yaml", "runs", "home"}
    left_at_home = {path.relative_to(folder / "home").parts[:2] for path in (folder / "home").rglob("*")}
    # Caches of fonts and Ray's token are fine; compiled code is not.
    allowed = (".cache", ".config", ".ray")
    assert not [parts for parts in left_at_home if "torch_extensions" in parts or parts[0] not in allowed]


# MLflow's own query of an sqlite store.
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
def test_mlflow_has_one_run_with_everything(folder: Path, interrupted: list[subprocess.CompletedProcess[str]]) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/runs/mlflow.db")
    (experiment,) = (e for e in client.search_experiments() if e.name == "mgcda")
    (run,) = (run for run in client.search_runs([experiment.experiment_id]) if run.info.run_name == "two")
    assert run.info.status == "FINISHED"
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "loss/cacl")] == list(range(STEPS))
    wanted = {
        "mdat/stride16/accuracy",
        "mdat/embedding/epsilon",
        "mdat/lambda",
        "cacl/queue_fill_anomaly",
        "cacl/queue_age_steps",
        "lr/backbone",
        "time/images_per_s",
        "time/data_wait_share",
        "eval/unseen/ap",
    }
    assert wanted <= set(run.data.metrics)
    assert run.data.params["mdat.smoothing.mode"] == "adaptive_stage"
    artifacts = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"config.yaml", "manifests.json", "pictures", "report"} <= artifacts
    assert run.inputs is not None and len(run.inputs.dataset_inputs) >= 5
    assert run.outputs is not None and len(run.outputs.model_outputs) == 1


@pytest.mark.extended
def test_interrupted_workers_train_what_one_does(
    folder: Path,
    interrupted: list[subprocess.CompletedProcess[str]],
    alone: subprocess.CompletedProcess[str],
) -> None:
    assert alone.returncode == 0, alone.stdout + alone.stderr
    one, two = (read_history(folder / f"runs/{name}/metrics.jsonl") for name in ("one", "two"))
    for term in ("loss/seg", "loss/outlier", "loss/mdat", "loss/cacl", "loss/total", "mdat/stride16/accuracy"):
        assert two[term][1] == pytest.approx(one[term][1], rel=1e-4), term


# In every run of the suite: ranks merge to what one process finds (multiprocess/test_collectives.py).
@pytest.mark.extended
def test_evaluate_over_two_workers_repeats_the_results_of_one(
    folder: Path, alone: subprocess.CompletedProcess[str]
) -> None:
    words = (folder / "runs/one", "--workers", 2, "--out", folder / "runs/again")
    done = mgcda("evaluate", *words, cwd=folder, env=_home(folder))
    assert done.returncode == 0, done.stderr
    # Where starting takes long, a line says how far it is.
    assert not [line for line in done.stderr.splitlines() if not line.startswith("evaluating ")]
    said = [event["text"].partition(":")[0] for event in events(folder / "runs/again", "progress")]
    assert said == ["evaluating unseen"]
    first, again = (json.loads((folder / f"runs/{name}/results.json").read_text()) for name in ("one", "again"))
    assert again == first

"""A real training on a disk that fills up: no line is lost, no worker ends, and the end waits for room."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mgcda_dist.tracking.jsonl import read_history, read_lines
from mgcda_dist.tracking.mlflow_runs import MlflowStore
from tests.support.commands import start_mgcda
from tests.support.configs import tiny_content, write_config
from tests.support.disks import Ballast
from tests.support.watched import events, groups, wait_for_lines

pytestmark = [pytest.mark.extended, pytest.mark.cluster, pytest.mark.timeout(900)]

STEPS = 60


def _start(folder: Path, disk: Path, shards: Path, *words: str) -> subprocess.Popen[str]:
    content = tiny_content(
        shards,
        optim={"steps": STEPS},
        checkpoint={"every_steps": 10},
        tracking={"report": False, "alignment_steps": 0, "preview_frames": 1},
    )
    write_config(folder / "run.yaml", content)
    return start_mgcda("train", folder / "run.yaml", f"runs={disk}", "scaling.workers=2", *words, cwd=folder)


def _hold(ballast: Ballast, process: subprocess.Popen[str], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        ballast.hold()
        time.sleep(0.05)


def test_eight_seconds_of_a_full_disk_cost_no_line(
    small_disk: Callable[[str], Path], tmp_path: Path, tiny_shards: Path
) -> None:
    disk = small_disk("200m")
    process = _start(tmp_path, disk, tiny_shards)
    wait_for_lines(disk / "run/metrics.jsonl", 15, process)
    with Ballast(disk) as ballast:
        _hold(ballast, process, 8)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    assert f"no space is left on the disk of {disk}/run" in out and "is written again" in out
    run = disk / "run"
    assert [step for step, _, _ in read_lines(run / "metrics.jsonl")] == [*range(STEPS), STEPS]
    assert len(groups(run)) == 1, "no worker was started again"
    history = MlflowStore(f"sqlite:///{disk}/mlflow.db").history((run / "mlflow_run_id").read_text().strip())
    assert history["loss/total"][0] == list(range(STEPS))
    assert history["loss/total"] == read_history(run / "metrics.jsonl")["loss/total"]
    assert (run / f"checkpoints/step-{STEPS:08d}/checkpoint.json").is_file()


def test_a_disk_that_stays_full_ends_the_run_once_with_a_word(
    small_disk: Callable[[str], Path], tmp_path: Path, tiny_shards: Path
) -> None:
    disk = small_disk("200m")
    process = _start(tmp_path, disk, tiny_shards, "checkpoint.room_wait_s=5")
    wait_for_lines(disk / "run/metrics.jsonl", 25, process)
    with Ballast(disk) as ballast:
        _hold(ballast, process, 300)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "the model could not be written within checkpoint.room_wait_s=5 s (No space left on device)" in err
    assert "the same command goes on from the last checkpoint" in err and "starting again" not in out
    assert [event["kind"] for event in events(disk / "run")].count("restart") == 0

    again = _start(tmp_path, disk, tiny_shards)
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, out + err
    assert "resuming at step 20" in out
    lines = (disk / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [*range(STEPS), STEPS]

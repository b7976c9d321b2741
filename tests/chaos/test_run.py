"""`mgcda chaos`: a real training with injected faults ends in the same state as the undisturbed one."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mgcda_dist.chaos.schedule import KINDS, STORAGE_KINDS
from mgcda_dist.chaos.storage import obstacle
from tests.support.commands import mgcda
from tests.support.configs import tiny_content, write_config
from tests.support.watched import events, groups

pytestmark = [pytest.mark.extended, pytest.mark.cluster]


def _chaos(folder: Path, shards: Path, steps: int, *words: str) -> tuple[dict[str, Any], str]:
    content = tiny_content(
        shards,
        optim={"steps": steps},
        checkpoint={"every_steps": 4},
        tracking={"report": False, "alignment_steps": 0, "preview_frames": 0},
    )
    write_config(folder / "run.yaml", content)
    words = ("run.yaml", "scaling.workers=2", f"runs={folder}/runs", *words)
    done = mgcda("chaos", *words, cwd=folder, timeout_s=3000)
    assert done.returncode == 0, done.stdout + done.stderr
    (report,) = (folder / "runs").glob("run-chaos-*/chaos.json")
    return json.loads(report.read_text()), done.stdout


@pytest.mark.timeout(900)
def test_a_frozen_worker_and_a_truncated_checkpoint(tmp_path: Path, tiny_shards: Path) -> None:
    words = ["tracking.mlflow_uri=none", "evaluation.sets=[]", "scaling.hang_timeout_s=12"]
    words += ["--faults", "2", "--kinds", "freeze-worker,truncate-checkpoint"]
    report, said = _chaos(tmp_path, tiny_shards, 24, *words)
    assert report["survived"] and report["differences"] == []
    assert "byte-identical to the undisturbed run: checkpoint" in said
    by_kind = {fault["kind"]: fault for fault in report["faults"]}
    assert 12 <= by_kind["freeze-worker"]["detected_s"] < 12 + 30
    assert by_kind["truncate-checkpoint"]["repeated"] >= 1, "it resumed from an older checkpoint"
    hangs = events(tmp_path / "runs/run-chaos-0", "hang")
    assert len(hangs) == 1 and "has not answered for" in hangs[0]["text"] and "of step" in hangs[0]["text"]


@pytest.mark.timeout(900)
def test_a_full_disk_and_a_read_only_folder(tmp_path: Path, tiny_shards: Path) -> None:
    kinds = ",".join(kind for kind in STORAGE_KINDS if not obstacle(kind))
    # Several times the steps of eight seconds: what the first fault holds back must not be the rest of the run.
    report, said = _chaos(tmp_path, tiny_shards, 400, "--faults", "2", "--kinds", kinds)
    assert report["survived"] and report["differences"] == [] and "histories" in said
    for fault in report["faults"]:
        assert fault["detected_s"] < 8 < fault["recovered_s"] and fault["repeated"] == 0
    run = tmp_path / "runs/run-chaos-0"
    assert len(groups(run)) == 1, "no worker was started again"
    assert any("the checkpoint could not be written" in event["text"] for event in events(run))


@pytest.mark.timeout(3600)
def test_twelve_faults_of_all_kinds(tmp_path: Path, tiny_shards: Path) -> None:
    report, _ = _chaos(tmp_path, tiny_shards, 60, "--seed", "1", "--faults", "12")
    assert report["survived"] and report["differences"] == []
    possible = {kind for kind in KINDS if not obstacle(kind)}
    assert Counter(fault["kind"] for fault in report["faults"]).keys() == possible
    assert all(fault["detected_s"] is not None for fault in report["faults"])

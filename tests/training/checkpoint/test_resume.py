"""Exact resume: a run that was killed and goes on ends with the bytes of the one that was not, for ZeRO 0 to 3."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mgcda_dist.models.exported import digest_of
from mgcda_dist.tracking.jsonl import read_lines
from mgcda_dist.training.checkpoint.store import CheckpointStore, verify
from tests.support.distributed import DistributedError, run_distributed
from tests.training.resumed import CASES, STEPS, run_all, run_and_be_killed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", params=[1, 2])
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_shards: Path) -> list[Path]:
    """Runs of 1 or 2 ranks: undisturbed, and killed and gone on."""
    size = request.param
    whole, killed = (tmp_path_factory.mktemp(f"{name}-{size}") for name in ("whole", "killed"))
    run_distributed(run_all, size, str(whole), str(tiny_shards), timeout_s=280)
    with pytest.raises(DistributedError, match="exit code -9"):
        run_distributed(run_and_be_killed, size, str(killed), str(tiny_shards), timeout_s=280)
    for stage in CASES:
        assert CheckpointStore(killed / f"zero{stage}/checkpoints", keep=2).steps() == [3]
    run_distributed(run_all, size, str(killed), str(tiny_shards), timeout_s=280)
    return [whole, killed]


@pytest.mark.parametrize("stage", CASES)
def test_the_last_checkpoints_have_the_same_bytes(folders: list[Path], stage: int) -> None:
    found: list[dict[str, str]] = []
    for folder in folders:
        store = CheckpointStore(folder / f"zero{stage}/checkpoints", keep=2)
        assert store.steps()[-1] == STEPS and len(store.steps()) <= 2
        files: dict[str, str] = verify(store.path(STEPS)).files
        assert files.pop("model/model.json")  # says which folder the run lies in
        found.append(files)
    assert found[0] == found[1]
    names = set(found[0])
    assert {"state.json", "buffers.safetensors", "model/model.safetensors"} < names
    assert any(name.startswith("engine/") for name in names)
    assert any(name.startswith("memory-") for name in names) == (CASES[stage]["cacl"]["queue_layout"] == "sharded")


def test_the_running_statistics_of_batch_norm_go_on(folders: list[Path]) -> None:
    """They are buffers: that their bytes are equal is seen above, and here, that they are not where they began."""
    (stage,) = (stage for stage, case in CASES.items() if "model" in case)
    whole, resumed = (load_file(folder / f"zero{stage}/model/model.safetensors") for folder in folders)
    counted = [name for name in whole if name.endswith("num_batches_tracked")]
    assert counted and all(resumed[name] == whole[name] == STEPS for name in counted)
    for name in counted:
        mean = name.replace("num_batches_tracked", "running_mean")
        assert resumed[mean].abs().sum() > 0 and torch.equal(resumed[mean], whole[mean]), mean


def test_the_best_checkpoint_is_kept_and_gives_the_model(folders: list[Path]) -> None:
    (stage,) = (stage for stage, case in CASES.items() if "checkpoint" in case)
    found: list[dict[str, Any]] = []
    for folder in folders:
        run = folder / f"zero{stage}"
        key = "validation/held_out/ap"
        values = {step + 1: metrics[key] for step, _, metrics in read_lines(run / "metrics.jsonl") if key in metrics}
        assert list(values) == [3, 6, STEPS]
        best = max(values, key=lambda step: values[step])
        assert {best, STEPS} == set(CheckpointStore(run / "checkpoints", keep=1).steps())
        chosen = json.loads((run / "results.json").read_text())["selection"]
        assert chosen == {"step": best, "set": "held_out", "metric": "ap", "value": values[best], "better": "higher"}
        assert digest_of(run / "model") == digest_of(run / f"checkpoints/step-{best:08d}/model")
        found.append(chosen)
    assert found[0] == found[1]


@pytest.mark.parametrize("stage", CASES)
def test_the_histories_are_equal_without_a_gap(folders: list[Path], stage: int) -> None:
    found: list[list[dict[str, Any]]] = []
    for folder in folders:
        lines = list(read_lines(folder / f"zero{stage}/metrics.jsonl"))
        assert [step for step, _, _ in lines if step < STEPS] == list(range(STEPS))
        found.append([{k: v for k, v in metrics.items() if not k.startswith("time/")} for _, _, metrics in lines])
    assert found[0] == found[1]
    events = [json.loads(line) for line in (folders[1] / f"zero{stage}/events.jsonl").read_text().splitlines()]
    assert [event["text"] for event in events if "resuming" in event["text"]] == [
        f"resuming at step 3 from {folders[1]}/zero{stage}/checkpoints/step-00000003"
    ]

"""Exact resume: a run that was killed and resumed is byte-identical to an undisturbed one, for ZeRO 0 to 3."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mgcda_dist.config.schema import Config
from mgcda_dist.method.batch import Batch
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.models.exported import digest_of, load_segmenter
from mgcda_dist.runs.folder import RunFolder
from mgcda_dist.tracking.jsonl import read_lines
from mgcda_dist.training import worker
from mgcda_dist.training.checkpoint.store import CheckpointManifest, CheckpointStore, Files, verify
from mgcda_dist.training.checkpoint.writer import CheckpointWriter
from mgcda_dist.training.engine import DeepSpeedEngine
from tests.support.configs import merged, tiny_content
from tests.support.distributed import DistributedError, run_distributed
from tests.support.watched import events, histories

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STEPS, KILLED_AT = 8, 5
CASES: dict[int, dict[str, Any]] = {
    0: {"engine": {"zero_stage": 0}, "cacl": {"queue_layout": "replicated"}, "model": {"norm": "local"}},
    1: {
        "engine": {"zero_stage": 1},
        "cacl": {"queue_layout": "sharded"},
        "teacher": {"enabled": True, "contrast": True, "confidence": 0.2, "outlier_weight": 0.1},
        "data": {"augment": {"class_mix": 0.7}},
    },
    2: {
        "engine": {"zero_stage": 2, "accumulation": 2},
        "cacl": {"queue_layout": "replicated", "contrast": "distribution"},
    },
    3: {
        "engine": {"zero_stage": 3},
        "cacl": {
            "queue_layout": "sharded",
            "queue_rows_per_image": 2,
            "positives": "per_anchor",
            "balance": "sides",
            "negatives_by": "similarity",
        },
        "checkpoint": {"keep": 1, "best": {}},
        "teacher": {"enabled": True, "decay": 0.5},
        "model": {"export": "ema"},
    },
}
"""What differs between the runs, by ZeRO stage. `norm: local` has statistics that move, as `sync` has on GPUs."""


def _config_of(stage: int, runs: Path, shards: Path, workers: int, **sections: dict[str, Any]) -> Config:
    """A run of a few steps of a tiny network on generated frames; checkpoints after steps 3, 6 and 8."""
    data = tiny_content(
        shards,
        name=f"zero{stage}",
        runs=str(runs),
        data={"loader_workers": 0},
        optim={"steps": STEPS},
        checkpoint={"every_steps": 3, "keep": 2},
        tracking={"mlflow_uri": "none", "report": False, "preview_frames": 0, "alignment_steps": 0},
        scaling={"workers": workers},
        evaluation={"sets": []},
    )
    merged(merged(data, CASES[stage]), sections)
    if "best" in data["checkpoint"]:
        paste = {"objects": f"{shards}/objects/val"}
        held_out = {"name": "held_out", "shards": f"{shards}/real_day/val", "paste": paste, "max_frames": 3}
        data["checkpoint"]["best"] = {"set": held_out, "metric": "ap"}
    return Config.model_validate(data)


def _run_all(runs: str, shards: str, **sections: dict[str, Any]) -> None:
    """On every rank: every case to its end, from where its folder is."""
    for stage in CASES:
        _train(_config_of(stage, Path(runs), Path(shards), Collectives().size, **sections))


def _run_and_be_killed(runs: str, shards: str) -> None:
    """On every rank: each case up to a step after its first checkpoint; the last one ends by SIGKILL."""
    forward, start = DeepSpeedEngine.forward, CheckpointWriter.start

    class Interrupted(Exception):
        pass

    def start_and_wait(writer: CheckpointWriter, files: Files, manifest: CheckpointManifest) -> None:
        """Without waiting, on a slow disk, a checkpoint may not be committed at the end of the run."""
        start(writer, files, manifest)
        writer.wait()

    CheckpointWriter.start = start_and_wait  # pyright: ignore[reportAttributeAccessIssue]
    for stage in CASES:

        def end(engine: DeepSpeedEngine, batch: Batch, *rest: Any, stage: int = stage) -> Any:
            if batch.step == KILLED_AT:
                if stage == max(CASES):
                    os.kill(os.getpid(), signal.SIGKILL)
                raise Interrupted
            return forward(engine, batch, *rest)

        DeepSpeedEngine.forward = end  # pyright: ignore[reportAttributeAccessIssue]
        try:
            _train(_config_of(stage, Path(runs), Path(shards), Collectives().size))
        except Interrupted:
            continue
        finally:
            DeepSpeedEngine.forward = forward


def _train(config: Config) -> None:
    if Collectives().rank == 0:
        RunFolder(config).prepare(config)
    if Collectives().size > 1:
        torch.distributed.barrier()
    worker.train(config)


@pytest.fixture(scope="module", params=[pytest.param(1, marks=pytest.mark.extended), 2])
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_shards: Path) -> list[Path]:
    """Runs of 1 or 2 ranks: undisturbed, and killed and gone on."""
    size = request.param
    whole, killed = (tmp_path_factory.mktemp(f"{name}-{size}") for name in ("whole", "killed"))
    run_distributed(_run_all, size, str(whole), str(tiny_shards), timeout_s=280)
    with pytest.raises(DistributedError, match="exit code -9"):
        run_distributed(_run_and_be_killed, size, str(killed), str(tiny_shards), timeout_s=280)
    for stage in CASES:
        assert CheckpointStore(killed / f"zero{stage}/checkpoints", keep=2).steps() == [3]
    run_distributed(_run_all, size, str(killed), str(tiny_shards), timeout_s=280)
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
    (stage,) = (stage for stage, case in CASES.items() if "norm" in case.get("model", {}))
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


@pytest.mark.parametrize("stage", [1, 3])
def test_the_model_is_the_bare_network_or_its_average(folders: list[Path], stage: int) -> None:
    """Of one architecture, whose names it has and no others: `model.export` decides whose numbers they are."""
    checkpoint = folders[0] / f"zero{stage}/checkpoints/step-{STEPS:08d}"
    found, buffers = load_file(checkpoint / "model/model.safetensors"), load_file(checkpoint / "buffers.safetensors")
    average = {name: x for name, x in buffers.items() if name.startswith("teacher.")}
    assert {f"teacher.average/{name.replace('.', '/')}" for name in found} == average.keys()
    same = [torch.equal(x, average[f"teacher.average/{name.replace('.', '/')}"]) for name, x in found.items()]
    assert all(same) == (CASES[stage].get("model") == {"export": "ema"})
    load_segmenter(folders[0] / f"zero{stage}/model")


def test_the_teacher_labels_pixels_of_the_runs_frames(folders: list[Path]) -> None:
    shares = [metrics["teacher/labelled"] for step, _, metrics in read_lines(folders[0] / "zero1/metrics.jsonl")
              if "teacher/labelled" in metrics]  # fmt: skip
    assert len(shares) == STEPS and 0 < max(shares) < 1


@pytest.mark.parametrize("stage", CASES)
def test_the_histories_are_equal_without_a_gap(folders: list[Path], stage: int) -> None:
    whole, resumed = (histories(folder / f"zero{stage}") for folder in folders)
    assert [step for step, _ in whole if step < STEPS] == list(range(STEPS)) and resumed == whole
    assert [event["text"] for event in events(folders[1] / f"zero{stage}") if "resuming" in event["text"]] == [
        f"resuming at step 3 from {folders[1]}/zero{stage}/checkpoints/step-00000003"
    ]

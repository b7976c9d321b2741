"""Whole runs of the worker over gloo, without Ray: undisturbed, killed, and gone on: run by every rank."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch

from mgcda_dist.config.schema import Config
from mgcda_dist.method.batch import Batch
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.runs.folder import RunFolder
from mgcda_dist.training import worker
from mgcda_dist.training.checkpoint.store import CheckpointManifest, Files
from mgcda_dist.training.checkpoint.writer import CheckpointWriter
from mgcda_dist.training.engine import DeepSpeedEngine

__all__ = ["CASES", "KILLED_AT", "STEPS", "config_of", "run_all", "run_and_be_killed"]

STEPS, KILLED_AT = 8, 5
CASES: dict[int, dict[str, Any]] = {
    0: {"engine": {"zero_stage": 0}, "cacl": {"queue_layout": "replicated"}, "model": {"norm": "local"}},
    1: {"engine": {"zero_stage": 1}, "cacl": {"queue_layout": "sharded"}},
    2: {"engine": {"zero_stage": 2, "accumulation": 2}, "cacl": {"queue_layout": "replicated"}},
    3: {"engine": {"zero_stage": 3}, "cacl": {"queue_layout": "sharded"}, "checkpoint": {"keep": 1, "best": {}}},
}
"""What differs between the runs, by ZeRO stage. `norm: local` has statistics that move, as `sync` has on GPUs."""


def config_of(stage: int, runs: Path, shards: Path, workers: int, **sections: dict[str, Any]) -> Config:
    """A run of a few steps of a tiny network on generated frames; checkpoints after steps 3, 6 and 8."""
    domains: list[dict[str, Any]] = [
        {"name": "a", "shards": f"{shards}/render_a/train", "per_step": 2,
         "paste": {"objects": f"{shards}/objects/train"}},
        {"name": "b", "shards": f"{shards}/render_b/train", "per_step": 1},
        {"name": "real", "shards": f"{shards}/real_day/train", "per_step": 1, "labelled": False},
    ]  # fmt: skip
    data: dict[str, Any] = {
        "name": f"zero{stage}",
        "runs": str(runs),
        "data": {"class_space": "road8", "crop_px": [64, 96], "domains": domains, "loader_workers": 0},
        "model": {"backbone": "test_resnet.r160_in1k", "decoder_channels": 16},
        "cacl": {"projection_dim": 16, "anomaly_pixels": 8, "inlier_pixels": 2, "queue_rows": 32},
        "optim": {"steps": STEPS, "lr_backbone": 1e-3},
        "checkpoint": {"every_steps": 3, "keep": 2},
        "tracking": {"mlflow_uri": "none", "log_every_steps": 1, "report": False, "preview_frames": 0,
                     "alignment_steps": 0},
        "scaling": {"workers": workers},
    }  # fmt: skip
    for name, values in {**CASES[stage], **sections}.items():
        data[name] = data.get(name, {}) | values
    if "best" in data["checkpoint"]:
        paste = {"objects": f"{shards}/objects/val"}
        held_out = {"name": "held_out", "shards": f"{shards}/real_day/val", "paste": paste, "max_frames": 3}
        data["checkpoint"]["best"] = {"set": held_out, "metric": "ap"}
    return Config.model_validate(data)


def run_all(runs: str, shards: str, **sections: dict[str, Any]) -> None:
    """Every case to its end, from where its folder is."""
    for stage in CASES:
        _train(config_of(stage, Path(runs), Path(shards), Collectives().size, **sections))


def run_and_be_killed(runs: str, shards: str) -> None:
    """Every case up to a step after its first checkpoint: the last one by SIGKILL, which ends the process."""
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
            _train(config_of(stage, Path(runs), Path(shards), Collectives().size))
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

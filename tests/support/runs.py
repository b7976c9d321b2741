"""Run folders without training: a configuration, a history, an evaluation of random scores, in the real formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mgcda_dist.evaluation.bootstrap import ImageTables, bootstrap
from mgcda_dist.evaluation.miou import ClassCounts, Confusion

__all__ = ["write_evaluation", "write_run"]


def write_run(
    folder: Path, *, skill: float = 2.0, seed: int = 0, frames: int = 12, images: int = 0, **config: Any
) -> Path:
    """A finished run folder; `skill` moves anomalies above inliers, `seed` is the run's, `images` names the images."""
    folder.mkdir(parents=True)
    content = {"name": folder.name, "seed": seed, "mdat": {"enabled": True}, "optim": {"steps": 20}} | config
    (folder / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    lines = [{"step": s, "time": 0.0, "metrics": {"loss/total": 2.0 - 0.05 * s + 0.01 * seed}} for s in range(0, 20, 5)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    facts = {"dataset": "camvid", "split": "train", "samples": 8, "shards": 1, "digest": "c" * 64, "folder": "/shards"}
    (folder / "manifests.json").write_text(json.dumps({"train/camvid": facts}))
    write_evaluation(folder / "evaluation", skill=skill, seed=seed, frames=frames, images=images)
    (folder / "results.json").write_text((folder / "evaluation" / "results.json").read_text())
    return folder


def write_evaluation(
    folder: Path, *, skill: float = 2.0, seed: int = 0, frames: int = 12, images: int = 0, digest: str = "d" * 64
) -> Path:
    """An evaluation folder with one set, `road`, of small frames; equal `images` are equal labels."""
    truth, scores = np.random.default_rng(images), np.random.default_rng((images, seed, int(1000 * skill)))
    tables = ImageTables()
    for index in range(frames):
        odd = truth.random((24, 32)) < truth.uniform(0.01, 0.2)
        difficulty = truth.normal(0.0, 0.3)
        score = scores.normal(odd * (skill + difficulty)).astype(np.float32)
        tables.add(f"f{index:02d}", np.sort(score[~odd]), np.sort(score[odd]))
        tables.add_classes(f"f{index:02d}", _classes(scores, right=0.2 * skill))
    (folder / "sets" / "road").mkdir(parents=True)
    tables.save(folder / "sets" / "road" / "frames.npz")
    row: dict[str, Any] = {name: interval.value for name, interval in bootstrap(tables, replicates=10).items()}
    row |= {"frames": frames, "manifest_digest": digest}
    content = {"convention": "pooled", "score": "energy", "blur": False, "height_px": 360, "sets": {"road": row}}
    (folder / "results.json").write_text(json.dumps(content))
    return folder


def _classes(rng: np.random.Generator, right: float) -> ClassCounts:
    label = rng.integers(0, 3, 500)
    found = Confusion(3)
    found.update(np.where(rng.random(500) < right, label, rng.integers(0, 3, 500)), label)
    return found.counts()

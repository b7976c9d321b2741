"""A finished run with an evaluation folder in the real format: small drawn scenes, scores of a chosen skill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import yaml
from numpy.typing import NDArray

from mgcda_dist.choices import ANOMALY, VOID
from mgcda_dist.data.frames import EvaluationFrames, Frame
from mgcda_dist.evaluation.evaluate import evaluate_set
from mgcda_dist.evaluation.folder import write_evaluation
from mgcda_dist.evaluation.results import EvaluationResults, EvaluationSettings, NetworkSettings, SetData, Subject
from mgcda_dist.evaluation.set_result import SetResult
from mgcda_dist.method.collectives import Collectives

__all__ = ["evaluate_drawn", "write_evaluated_run"]

CLASSES = ("road", "sky")
STAGES = ("stride16", "embedding")


def write_evaluated_run(
    folder: Path, *, name: str = "", skill: float = 3.0, steps: int = 60, frames: int = 5, **config: Any
) -> Path:
    """A run folder; `skill` separates anomalies from the rest, `config` changes its configuration."""
    folder.mkdir(parents=True)
    name = name or folder.name
    content = {
        "name": name, "seed": 0, "data": {"crop_px": [64, 96], "streams": [{"name": "a", "per_step": 2}]},
        "model": {"backbone": "tiny", "score": "energy"}, "mdat": {"enabled": True, "weight": 0.5},
        "cacl": {"enabled": False}, "optim": {"steps": steps},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(content | config, sort_keys=False))
    rng = np.random.default_rng(int(10 * skill))
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(steps):
            line = {"step": step, "time": 1.7e9 + step, "metrics": _metrics(step / steps, rng)}
            file.write(json.dumps(line) + "\n")
    facts = {"dataset": "drawn", "split": "train", "samples": 8, "shards": 1, "digest": "c" * 64, "folder": "/shards"}
    (folder / "manifests.json").write_text(json.dumps({"train/a": facts}))
    tags = {"mgcda.version": "0", "mgcda.hardware": "a machine, no GPU", "mgcda.command": f"mgcda train {name}.yaml"}
    (folder / "provenance.json").write_text(json.dumps(tags))
    (folder / "events.jsonl").write_text(
        json.dumps({"time": 1.7e9, "kind": "note", "text": f"{name} has something to say"}) + "\n"
    )
    both = [evaluate_drawn("seen", skill, frames, with_anomalies=True), evaluate_drawn("plain", skill, 3, False)]
    results = [result for result in both if result is not None]
    settings = EvaluationSettings(score="energy", network=NetworkSettings())
    sets = {result.name: result.numbers(CLASSES) for result in results}
    record = EvaluationResults(Subject(name, "model", "e" * 64, "drawn"), settings, sets)
    write_evaluation(record, results, folder / "evaluation")
    (folder / "results.json").write_text((folder / "evaluation" / "results.json").read_text())
    return folder


class _Frames(list[Frame]):
    """What `evaluate_set` needs of `EvaluationFrames`."""

    categories = None

    @property
    def keys(self) -> list[str]:
        return [frame.key for frame in self]


def evaluate_drawn(
    name: str, skill: float, count: int, with_anomalies: bool, world: Collectives | None = None
) -> SetResult | None:
    """Results of `count` drawn frames, the same for every world; on rank 0."""
    frames = _Frames(_frame(index, with_anomalies) for index in range(count))

    def score(frame: Frame) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        noise = np.random.default_rng(int(frame.key.split()[-1]))
        coarse = noise.standard_normal((8, 12)).repeat(8, axis=0).repeat(8, axis=1)
        values = coarse + (frame.label == ANOMALY) * skill * noise.uniform(0.3, 1.2)
        return values.astype(np.float32), np.where(frame.label == 1, 1, 0).astype(np.uint8)

    return evaluate_set(score, cast(EvaluationFrames, frames), name=name, num_classes=len(CLASSES),
                        data=SetData("drawn", name, "d" * 64), world=world or Collectives(),
                        settings=EvaluationSettings(), kept_frames=2)  # fmt: skip


def _frame(index: int, with_anomalies: bool) -> Frame:
    """64×96: sky over road, a strip of void, one or two objects."""
    rng = np.random.default_rng(index)
    label = np.zeros((64, 96), np.uint8)
    label[:24] = 1
    label[60:] = VOID
    image = np.where((label == 1)[..., None], (120, 160, 210), (110, 110, 115)).astype(np.uint8)
    for _ in range(1 + index % 2 if with_anomalies else 0):
        top, left = rng.integers(26, 44), rng.integers(4, 76)
        label[top : top + 14, left : left + 16] = ANOMALY
        image[top : top + 14, left : left + 16] = rng.integers(0, 255, 3)
    return Frame(image, label, f"drive/frame {index:03d}")


def _metrics(progress: float, rng: np.random.Generator) -> dict[str, float]:
    metrics = {"loss/total": 3 * float(np.exp(-3 * progress)) + rng.uniform(0.1, 0.3), "loss/seg": 1 - progress / 2}
    for stage in STAGES:
        accuracy = 0.5 + 0.3 * progress
        metrics |= {f"mdat/{stage}/accuracy": accuracy, f"mdat/{stage}/accuracy_over_chance": 2 * accuracy}
    return metrics | {"lr/heads": 1e-3 * (1 - progress), "lr/heads_no_decay": 1e-3 * (1 - progress)}

"""An evaluation as one record that travels to workers: what is evaluated, on which sets, with which options."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict

from mgcda_dist import build
from mgcda_dist.collectives import Collectives
from mgcda_dist.config.schema import Config, DataConfig, EvaluationConfig, EvaluationSetConfig
from mgcda_dist.data.frames import Frame
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.errors import CheckpointError
from mgcda_dist.evaluation.evaluate import EvaluationProgress, Scored, Scorer, evaluate_set
from mgcda_dist.evaluation.results import SetResult, Subject, results_json
from mgcda_dist.evaluation.views import Views, score_map
from mgcda_dist.models.scores import ScoreKind, anomaly_score

__all__ = ["Evaluation", "EvaluationJob", "run_job", "subject_digest"]


class EvaluationJob(BaseModel):
    """One model, or one folder of score maps, on the sets of `section`.

    Attributes:
        name: of the subject, shown in tables.
        kind: `model`, or `maps` for score maps of another method.
        path: the folder of the exported model, or of the maps; absolute.
        score: the anomaly score; `as given` for maps.
        data: has the class space; None: scores come without classes.
        seed: of pasted objects.
        section: sets and options.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Literal["model", "maps"] = "model"
    path: str
    score: ScoreKind | Literal["as given"] = "energy"
    data: DataConfig | None = None
    seed: int = 0
    section: EvaluationConfig

    @classmethod
    def of_model(cls, config: Config, folder: Path, name: str = "") -> EvaluationJob:
        """The evaluation that a run's configuration describes."""
        return cls(
            name=name or config.name,
            path=str(folder),
            score=config.model.score,
            data=config.data,
            section=config.evaluation,
        )

    def identity(self) -> str:
        """Equal for evaluations that must give equal numbers: same weights or maps, data, and options.

        Raises:
            MgcdaError: a model or set that cannot be read.
        """
        sets = {entry.name: _facts(entry) for entry in self.section.sets}
        content = [subject_digest(self), self.settings(), self.section.conventions, self.seed, sets]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def settings(self) -> dict[str, Any]:
        """What the numbers depend on beside model and data, as `results.json` shows it."""
        section = self.section
        shown = {
            "convention": section.conventions[0],
            "score": self.score,
            "blur": section.blur,
            "height_px": section.height_px,
            "scales": section.scales,
            "flip": section.flip,
            "window_px": section.window_px and list(section.window_px),
            "window_overlap": section.window_overlap if section.window_px else None,
        }
        return shown if self.kind == "model" else {name: shown[name] for name in ("convention", "score", "blur")}


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found, and what it was."""

    results: list[SetResult]
    subject: Subject
    job: EvaluationJob

    def as_json(self) -> dict[str, Any]:
        """The content of `results.json`."""
        return results_json(self.results, self.subject, self.job.settings()) | {"evaluation_id": self.job.identity()}


def run_job(
    job: EvaluationJob, world: Collectives, device: torch.device, progress: EvaluationProgress | None = None
) -> Evaluation:
    """Evaluate; all ranks get the merged results.

    Raises:
        MgcdaError: a model, set, frame or map that cannot be used.
    """
    subject, score = _subject(job, device)
    section = job.section
    results: list[SetResult] = []
    for entry in section.sets:
        frames = build.evaluation_frames(entry, job.data, section.height_px, job.seed)
        results.append(
            evaluate_set(
                score,
                frames,
                name=entry.name,
                num_classes=len(subject.class_names),
                world=world,
                conventions=section.conventions,
                panel_frames=section.panel_frames,
                kept_frames=section.kept_frames,
                facts=_facts(entry),
                progress=progress,
            )
        )
    return Evaluation(results, subject, job)


def _subject(job: EvaluationJob, device: torch.device) -> tuple[Subject, Scorer]:
    section = job.section
    folder = Path(job.path)
    _, network = build.load_model(folder)
    network = network.to(device).eval()
    views = Views(tuple(section.scales), section.flip, section.window_px, section.window_overlap)
    kind = job.score
    data = job.data
    assert kind != "as given" and data is not None

    def score(frame: Frame) -> Scored:
        return score_map(
            network,
            frame.image,
            (frame.label.shape[0], frame.label.shape[1]),
            score=lambda logits: anomaly_score(logits, kind),
            views=views,
            blur=section.blur,
            device=device,
        )

    digest, space = subject_digest(job), data.class_space
    return Subject(job.name, "model", digest, space if isinstance(space, str) else "own", data.class_names), score


def subject_digest(job: EvaluationJob) -> str:
    """SHA-256 (hex) of the weights."""
    path = Path(job.path) / "model.safetensors"
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(str(path), f"cannot be read: {error.strerror}", "export the model again") from None


def _facts(entry: EvaluationSetConfig) -> dict[str, Any]:
    """Which data a set is."""
    manifest = Manifest.open(entry.shards)
    facts: dict[str, Any] = {
        "dataset": manifest.dataset,
        "split": manifest.split,
        "manifest_digest": manifest.digest,
    }
    if entry.max_frames is not None:
        facts["max_frames"] = entry.max_frames
    if entry.paste is not None:
        objects = Manifest.open(entry.paste.objects).digest
        facts["paste"] = entry.paste.model_dump(mode="json", exclude={"objects"}) | {"objects_digest": objects}
    return facts

"""An evaluation as one record that travels to workers: what is evaluated, on which sets, with which options."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from mgcda_dist import build
from mgcda_dist.choices import SCORES, ScoreKind
from mgcda_dist.config.data import DataConfig
from mgcda_dist.config.run import EvaluationConfig, EvaluationSetConfig
from mgcda_dist.config.schema import Config
from mgcda_dist.data.frames import EvaluationFrames, Frame
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.evaluation.components import TRACKS
from mgcda_dist.evaluation.evaluate import EvaluationProgress, Scored, Scorer, SetOptions, evaluate_set
from mgcda_dist.evaluation.results import SetResult, Subject, results_json
from mgcda_dist.evaluation.score_maps import MapFile, ScoreMaps
from mgcda_dist.evaluation.submission import Layout, submission
from mgcda_dist.evaluation.test_time import TestTimeAugmentation, score_map
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.models.exported import digest_of, read_metadata
from mgcda_dist.models.scores import ClassStatistics, scorer

__all__ = ["AS_GIVEN", "Evaluation", "EvaluationJob", "run_job"]

AS_GIVEN = "as given"
"""The score of foreign maps."""


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
        resize_maps: bring maps of another size to that of their label.
        ignore_extra_maps: do not mind maps that belong to no frame.
        submission: benchmark whose layout the score maps are also written in, and the folder for them.
        digest: SHA-256 of the weights or maps, if it is known already.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Literal["model", "maps"] = "model"
    path: str
    score: ScoreKind | Literal["as given"] = "energy"
    data: DataConfig | None = None
    seed: int = 0
    section: EvaluationConfig
    resize_maps: bool = False
    ignore_extra_maps: bool = False
    submission: tuple[Layout, str] | None = None
    digest: str = ""

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

    def with_digest(self) -> EvaluationJob:
        """The same, with the digest of its weights or maps.

        Raises:
            MgcdaError: a model that cannot be read; maps that are missing, or belong to no frame.
        """
        if self.digest:
            return self
        if self.kind == "maps":
            frames = {entry.name: _frames(self, entry) for entry in self.section.sets}
            return self.model_copy(update={"digest": _chosen_maps(self, frames)[0].digest()})
        return self.model_copy(update={"digest": digest_of(Path(self.path))})

    def identity(self) -> str:
        """Equal for evaluations that must give equal numbers: same weights or maps, data, and options.

        Raises:
            MgcdaError: a model or set that cannot be read.
        """
        sets = {entry.name: _facts(entry) for entry in self.section.sets}
        content = [self.with_digest().digest, self.settings(), self.seed, sets]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def class_statistics(self) -> ClassStatistics | None:
        """Statistics that a calibrated score standardizes with; None for every other score."""
        if self.score == AS_GIVEN or not SCORES[self.score].calibrated:
            return None
        return read_metadata(Path(self.path)).statistics

    def settings(self) -> dict[str, Any]:
        """What the numbers depend on beside model and data, as `results.json` shows it."""
        section = self.section
        shown: dict[str, Any] = {
            "convention": section.conventions[0],
            "conventions": section.conventions,
            "score": self.score,
            "components": section.components,
            "instances": section.instances,
            "threshold": section.threshold,
        }
        if self.kind == "maps":
            return shown | {"resize_maps": self.resize_maps}
        if statistics := self.class_statistics():
            shown["class_statistics"] = {"mean": statistics.mean, "var": statistics.var}
        return shown | {
            "blur": section.blur,
            "height_px": section.height_px,
            "scales": section.scales,
            "flip": section.flip,
            "window_px": section.window_px and list(section.window_px),
            "window_overlap": section.window_overlap if section.window_px else None,
        }


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found, and what it was; `selection`: which validation chose the model, if one did."""

    results: list[SetResult]
    subject: Subject
    job: EvaluationJob
    selection: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """The content of `results.json`."""
        results = results_json(self.results, self.subject, self.job.settings())
        chosen = {"selection": self.selection} if self.selection else {}
        return results | {"evaluation_id": self.job.identity()} | chosen


def run_job(
    job: EvaluationJob,
    world: Collectives,
    device: torch.device,
    progress: EvaluationProgress | None = None,
    network: nn.Module | None = None,
) -> Evaluation:
    """Evaluate; all ranks get the merged results.

    Args:
        job: what is evaluated on what.
        world: the ranks, which share the frames.
        device: where to run the network.
        progress: told the set's name, frames done and frames in all.
        network: in evaluation mode, on `device`, instead of the one in `job.path`; `job.digest` names it.

    Raises:
        MgcdaError: a model, set, frame or map that cannot be used.
    """
    job = job.with_digest()
    section, data = job.section, job.data
    frames = {entry.name: _frames(job, entry) for entry in section.sets}
    if job.kind == "maps" or data is None:
        subject, scorers = Subject(job.name, "maps", job.digest), _map_scorers(job, frames)
    else:
        space = data.class_space if isinstance(data.class_space, str) else "own"
        subject = Subject(job.name, "model", job.digest, space, data.class_names)
        scorers = dict.fromkeys(frames, _network_scorer(job, device, network))
    options = SetOptions(
        conventions=section.conventions,
        components=None if section.components == "none" else TRACKS[section.components],
        instances=section.instances,
        threshold=section.threshold,
        panel_frames=section.panel_frames,
        kept_frames=section.kept_frames,
    )
    results = [
        evaluate_set(
            scorers[entry.name],
            frames[entry.name],
            name=entry.name,
            num_classes=len(subject.class_names),
            world=world,
            options=options,
            sink=submission(
                job.submission[0],
                Path(job.submission[1]),
                method=job.name,
                manifest=frames[entry.name].manifest,
                class_space=subject.class_space,
            )
            if job.submission
            else None,
            facts=_facts(entry),
            progress=progress,
        )
        for entry in section.sets
    ]
    return Evaluation(results, subject, job)


def _frames(job: EvaluationJob, entry: EvaluationSetConfig) -> EvaluationFrames:
    return build.evaluation_frames(entry, job.data, job.section.height_px, job.seed)


def _network_scorer(job: EvaluationJob, device: torch.device, given: nn.Module | None) -> Scorer:
    section, kind = job.section, job.score
    assert kind != AS_GIVEN
    network = given or build.load_model(Path(job.path))[1].to(device).eval()
    of_logits = scorer(kind, job.class_statistics())
    views = TestTimeAugmentation(tuple(section.scales), section.flip, section.window_px, section.window_overlap)

    def score(frame: Frame) -> Scored:
        return score_map(
            network,
            frame.image,
            (frame.label.shape[0], frame.label.shape[1]),
            score=of_logits,
            views=views,
            blur=section.blur,
            device=device,
        )

    return score


def _map_scorers(job: EvaluationJob, frames: Mapping[str, EvaluationFrames]) -> dict[str, Scorer]:
    maps, chosen = _chosen_maps(job, frames)

    def scorer(files: Mapping[str, MapFile]) -> Scorer:
        return lambda frame: (maps.read(files[frame.key], (frame.label.shape[0], frame.label.shape[1])), None)

    return {name: scorer(files) for name, files in chosen.items()}


def _chosen_maps(
    job: EvaluationJob, frames: Mapping[str, EvaluationFrames]
) -> tuple[ScoreMaps, dict[str, dict[str, MapFile]]]:
    """The maps, and per set the map of every key."""
    maps = ScoreMaps(Path(job.path), resize=job.resize_maps)
    chosen = {name: maps.choose(name, each.keys) for name, each in frames.items()}
    if not job.ignore_extra_maps:
        maps.refuse_unused()
    return maps, chosen


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

"""An evaluation as one record that travels to workers: what is evaluated, on which sets, with which options."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from mgcda_dist import __version__, build
from mgcda_dist.choices import SCORES, ScoreKind, SubmissionLayout
from mgcda_dist.config.data import DataConfig
from mgcda_dist.config.run import EvaluationConfig, EvaluationSetConfig
from mgcda_dist.config.schema import Config
from mgcda_dist.data.frames import EvaluationFrames, Frame
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.evaluation.components import TRACKS
from mgcda_dist.evaluation.evaluate import EvaluationProgress, Scored, Scorer, SetOptions, evaluate_set
from mgcda_dist.evaluation.results import (
    AS_GIVEN,
    EvaluationResults,
    EvaluationSettings,
    NetworkSettings,
    Selection,
    SetData,
    Subject,
)
from mgcda_dist.evaluation.score_maps import MapFile, ScoreMaps
from mgcda_dist.evaluation.set_result import SetResult
from mgcda_dist.evaluation.submission import submission
from mgcda_dist.evaluation.test_time import TestTimeAugmentation, score_map
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.models.exported import digest_of, read_metadata
from mgcda_dist.models.scores import ClassStatistics, scorer

__all__ = ["Evaluation", "EvaluationJob", "run_job"]


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
    submission: tuple[SubmissionLayout, str] | None = None
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
        sets = {entry.name: _set_data(entry).as_json() for entry in self.section.sets}
        content = [self.with_digest().digest, self.settings().as_json(), self.seed, sets]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def class_statistics(self) -> ClassStatistics | None:
        """Statistics that a calibrated score standardizes with; None for every other score."""
        if self.score == AS_GIVEN or not SCORES[self.score].calibrated:
            return None
        return read_metadata(Path(self.path)).statistics

    def settings(self) -> EvaluationSettings:
        """What the numbers depend on beside model and data."""
        section, statistics = self.section, self.class_statistics()
        network = NetworkSettings(
            height_px=section.height_px,
            augmentation=self.augmentation(),
            blur=section.blur,
            class_statistics={"mean": list(statistics.mean), "var": list(statistics.var)} if statistics else None,
        )
        return EvaluationSettings(
            conventions=tuple(section.conventions),
            score=self.score,
            components=section.components,
            instances=section.instances,
            threshold=section.threshold,
            network=None if self.kind == "maps" else network,
            resize_maps=self.resize_maps,
        )

    def augmentation(self) -> TestTimeAugmentation:
        """How frames are shown to the network."""
        section = self.section
        return TestTimeAugmentation(tuple(section.scales), section.flip, section.window_px, section.window_overlap)


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found, and what it was.

    Attributes:
        results: one per set.
        subject: what was evaluated.
        job: with which options.
        class_names: inlier classes in train-id order; none for maps.
    """

    results: list[SetResult]
    subject: Subject
    job: EvaluationJob
    class_names: tuple[str, ...] = ()

    def record(self, selection: Selection | None = None) -> EvaluationResults:
        """What `results.json` keeps of it; `selection`: which validation chose the model, if one did."""
        return EvaluationResults(
            subject=self.subject,
            settings=self.job.settings(),
            sets={result.name: result.numbers(self.class_names) for result in self.results},
            evaluation_id=self.job.identity(),
            selection=selection,
            tool_version=__version__,
        )


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
        class_names, subject, scorers = (), Subject(job.name, "maps", job.digest), _map_scorers(job, frames)
    else:
        space = data.class_space if isinstance(data.class_space, str) else "own"
        class_names, subject = data.class_names, Subject(job.name, "model", job.digest, space)
        scorers = dict.fromkeys(frames, _network_scorer(job, device, network))
    options = SetOptions(
        conventions=section.conventions,
        components=TRACKS.get(section.components),
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
            num_classes=len(class_names),
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
            data=_set_data(entry),
            progress=progress,
        )
        for entry in section.sets
    ]
    return Evaluation(results, subject, job, class_names)


def _frames(job: EvaluationJob, entry: EvaluationSetConfig) -> EvaluationFrames:
    return build.evaluation_frames(entry, job.data, job.section.height_px, job.seed)


def _network_scorer(job: EvaluationJob, device: torch.device, given: nn.Module | None) -> Scorer:
    section, kind = job.section, job.score
    assert kind != AS_GIVEN
    network = given or build.load_model(Path(job.path))[1].to(device).eval()
    of_logits = scorer(kind, job.class_statistics())
    views = job.augmentation()

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


def _set_data(entry: EvaluationSetConfig) -> SetData:
    """Which data a set is."""
    manifest, paste = Manifest.open(entry.shards), None
    if entry.paste is not None:
        digest = Manifest.open(entry.paste.objects).digest
        paste = entry.paste.model_dump(mode="json", exclude={"objects"}) | {"objects_digest": digest}
    return SetData(manifest.dataset, manifest.split, manifest.digest, entry.max_frames, paste)

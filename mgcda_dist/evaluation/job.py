"""An evaluation as one plain record that travels to workers: what is evaluated, on which sets, with which options."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import nn

from mgcda_dist import __version__
from mgcda_dist.choices import SubmissionLayout
from mgcda_dist.data.frames import EvaluationFrames, Frame
from mgcda_dist.data.labels import ClassSpace
from mgcda_dist.data.pixels import OWN_SIZE
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.errors import MgcdaError
from mgcda_dist.evaluation.evaluate import EvaluationProgress, Scored, Scorer, evaluate_set
from mgcda_dist.evaluation.foreign import GivenScore, is_foreign, open_foreign
from mgcda_dist.evaluation.pixel import finite_scores
from mgcda_dist.evaluation.results import AS_GIVEN, EvaluationResults, EvaluationSettings, Selection, Subject
from mgcda_dist.evaluation.score_maps import MapFile, ScoreMaps
from mgcda_dist.evaluation.set_result import SetResult
from mgcda_dist.evaluation.sets import EvaluationSet, evaluation_frames, set_data
from mgcda_dist.evaluation.submission import submission
from mgcda_dist.evaluation.test_time import score_map
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.models.exported import digest_of, load_segmenter
from mgcda_dist.models.pointwise import by_onednn
from mgcda_dist.models.scores import ClassStatistics, scorer
from mgcda_dist.references import PREFIX

__all__ = ["Evaluation", "EvaluationJob", "run_job"]

_PASTE_SEED = 0
"""Seed of pasted objects, not that of the run: runs of several seeds are compared on the same frames."""


@dataclass(frozen=True)
class EvaluationJob:
    """One model, function or folder of score maps, on some sets.

    Attributes:
        name: of the subject, shown in tables.
        path: the folder of the exported model, or of the maps; absolute; or the name of a foreign network or function,
            see `evaluation.foreign`.
        sets: what it is evaluated on.
        settings: score, conventions, and how the network is run; without a network: score maps of another method.
        class_space: of the labels and of the network; None: scores come without classes.
        class_names: inlier classes in train-id order; none for maps.
        panel_frames: how many frames of each set are shown in a panel of pictures.
        kept_frames: how many of the worst frames get pictures of their own, and how many of the best.
        metrics_only: without intervals, curves, categories and groups, which no checkpoint is chosen by.
        ignore_extra_maps: accept maps that belong to no frame.
        submission: benchmark whose layout the score maps are also written in, and the folder for them.
        digest: SHA-256 of the weights or maps, if it is known already; of what is foreign always.
    """

    name: str
    path: str
    sets: tuple[EvaluationSet, ...]
    settings: EvaluationSettings
    class_space: str | ClassSpace | None = None
    class_names: tuple[str, ...] = ()
    panel_frames: int = 0
    kept_frames: int = 0
    metrics_only: bool = False
    ignore_extra_maps: bool = False
    submission: tuple[SubmissionLayout, str] | None = None
    digest: str = ""

    def as_json(self) -> dict[str, Any]:
        """Its fields as JSON has them, to be sent to workers."""
        return asdict(self)

    @classmethod
    def of_json(cls, fields: dict[str, Any]) -> EvaluationJob:
        """Read what `as_json` gives."""
        return TypeAdapter(cls).validate_python(fields)

    def subject(self) -> Subject:
        """The subject, as tables name it."""
        space = self.class_space
        shown = "" if space is None else space if isinstance(space, str) else "own"
        if is_foreign(self.path):
            is_code = self.path.startswith(PREFIX)
            source = self.path if is_code else Path(self.path).name
            return Subject(self.name, "python" if is_code else "onnx", self.digest, shown, source)
        return Subject(self.name, "maps" if self.settings.network is None else "model", self.digest, shown)

    def with_digest(self) -> EvaluationJob:
        """The same, with the digest of its weights or maps.

        Raises:
            MgcdaError: a model that cannot be read; maps that are missing, or belong to no frame.
        """
        if self.digest:
            return self
        if self.settings.network is None:
            return replace(self, digest=_chosen_maps(self, _frames(self))[0].digest())
        return replace(self, digest=digest_of(Path(self.path)))

    def identity(self) -> str:
        """Equal for evaluations that must give equal numbers: same weights or maps, data, and options.

        Raises:
            MgcdaError: a model or set that cannot be read.
        """
        sets = {entry.name: set_data(entry).as_json() for entry in self.sets}
        content = [self.with_digest().digest, self.settings.as_json(), _PASTE_SEED, sets]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation, one per set of its job; none on ranks other than the first."""

    job: EvaluationJob
    results: list[SetResult]

    def record(self, selection: Selection | None = None) -> EvaluationResults:
        """The record for `results.json`; `selection`: which validation chose the model, if one did."""
        return EvaluationResults(
            subject=self.job.subject(),
            settings=self.job.settings,
            sets={result.name: result.numbers(self.job.class_names) for result in self.results},
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
    """Evaluate; rank 0 gets the merged results.

    Args:
        progress: called with the set's name, frames done and frames in all.
        network: in evaluation mode, on `device`, instead of the one in `job.path`.

    Raises:
        MgcdaError: a model, set, frame or map that cannot be used.
    """
    job = job if network is not None else job.with_digest()
    settings, frames = job.settings, _frames(job)
    if settings.network is None:
        scorers = _map_scorers(job, frames)
    else:
        if network is None:
            network = _network(job).to(device).eval()
            by_onednn(network, device)
        scorers = dict.fromkeys(frames, _network_scorer(network, settings, device, bool(job.class_names)))
    results = [
        evaluate_set(
            scorers[entry.name],
            frames[entry.name],
            name=entry.name,
            num_classes=len(job.class_names),
            world=world,
            data=set_data(entry),
            settings=settings,
            panel_frames=job.panel_frames,
            kept_frames=job.kept_frames,
            metrics_only=job.metrics_only,
            sink=submission(
                job.submission[0],
                Path(job.submission[1]),
                method=job.name,
                manifest=_named_frames(frames[entry.name], entry.name),
                class_space=job.subject().class_space,
                keys=frames[entry.name].keys,
            )
            if job.submission
            else None,
            progress=progress,
        )
        for entry in job.sets
    ]
    return Evaluation(job, [result for result in results if result is not None])


def _network(job: EvaluationJob) -> nn.Module:
    how, score = job.settings.network, job.settings.score
    if not is_foreign(job.path) or how is None:
        return load_segmenter(Path(job.path))[1]
    return open_foreign(
        job.path,
        num_classes=len(job.class_names),
        input_range=how.input_range,
        reads=() if score == AS_GIVEN else scorer(score).reads,
    )


def _named_frames(frames: EvaluationFrames, name: str) -> Manifest:
    """The manifest of a set, whose keys name the files of a submission."""
    if frames.manifest is None:
        problem, remedy = (
            "its frames come from a Dataset, and have no names",
            "write them as shards, and evaluate those",
        )
        raise MgcdaError(f"set {name}", f"{problem}, which a submission needs", remedy)
    return frames.manifest


def _frames(job: EvaluationJob) -> dict[str, EvaluationFrames]:
    """The frames of every set, by its name."""
    size = job.settings.network.size if job.settings.network is not None else OWN_SIZE
    return {entry.name: evaluation_frames(entry, job.class_space, size, _PASTE_SEED) for entry in job.sets}


def _network_scorer(
    network: nn.Module, settings: EvaluationSettings, device: torch.device, has_classes: bool
) -> Scorer:
    kind, how = settings.score, settings.network
    assert how is not None
    found = how.class_statistics
    statistics = None if found is None else ClassStatistics(tuple(found["mean"]), tuple(found["var"]))
    of_logits = GivenScore() if kind == AS_GIVEN else scorer(kind, statistics)

    def score(frame: Frame) -> Scored:
        scores, predicted = score_map(
            network,
            frame.image,
            (frame.label.shape[0], frame.label.shape[1]),
            score=of_logits,
            augmentation=how.augmentation,
            blur=how.blur,
            device=device,
        )
        return finite_scores(scores, frame.label, frame.key), predicted if has_classes else None

    return score


def _map_scorers(job: EvaluationJob, frames: Mapping[str, EvaluationFrames]) -> dict[str, Scorer]:
    maps, chosen = _chosen_maps(job, frames)

    def scorer(files: Mapping[str, MapFile]) -> Scorer:
        def score(frame: Frame) -> Scored:
            scores = maps.read(files[frame.key], (frame.label.shape[0], frame.label.shape[1]))
            return finite_scores(scores, frame.label, str(files[frame.key])), None

        return score

    return {name: scorer(files) for name, files in chosen.items()}


def _chosen_maps(
    job: EvaluationJob, frames: Mapping[str, EvaluationFrames]
) -> tuple[ScoreMaps, dict[str, dict[str, MapFile]]]:
    """The maps, and per set the map of every key."""
    maps = ScoreMaps(Path(job.path), resize=job.settings.resize_maps)
    chosen = {name: maps.choose(name, each.keys) for name, each in frames.items()}
    if not job.ignore_extra_maps:
        maps.refuse_unused()
    return maps, chosen

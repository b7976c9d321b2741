"""Configuration → evaluation jobs: of the run's own sets, of a preview, of a validation, of score maps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mgcda_dist.build.data import class_space, paste_params
from mgcda_dist.choices import score_entry
from mgcda_dist.config.data import DataConfig
from mgcda_dist.config.run import EvaluationConfig, EvaluationSetConfig
from mgcda_dist.config.schema import Config

if TYPE_CHECKING:
    from mgcda_dist.data.frames import EvaluationFrames
    from mgcda_dist.data.pixels import InputSize
    from mgcda_dist.evaluation.job import EvaluationJob
    from mgcda_dist.evaluation.results import EvaluationSettings
    from mgcda_dist.evaluation.sets import EvaluationSet

__all__ = ["evaluation_frames", "evaluation_job", "evaluation_set", "maps_job", "preview_job", "validation_job"]


def evaluation_set(entry: EvaluationSetConfig, data: DataConfig) -> EvaluationSet:
    """An evaluation set as the evaluation takes it; `data` has the classes that pasted objects stand on."""
    from mgcda_dist.evaluation.sets import PastedObjects

    paste = entry.paste
    pasted = None if paste is None else PastedObjects(paste_params(paste, data), paste.include, paste.exclude)
    return replace(bare_set(entry, len(data.class_names)), paste=pasted)


def bare_set(entry: EvaluationSetConfig, num_classes: int) -> EvaluationSet:
    """An evaluation set whose frames are judged as they are, without pasted objects.

    Args:
        num_classes: of the network; 0: scores come without classes.
    """
    from mgcda_dist.evaluation.sets import DatasetOfSet, EvaluationSet

    dataset = None
    if entry.dataset is not None:
        dataset = DatasetOfSet(entry.dataset, entry.dataset_arguments, entry.label_format, num_classes)
    return EvaluationSet(entry.name, entry.shards or "", entry.max_frames, dataset=dataset)


def evaluation_frames(
    entry: EvaluationSetConfig, data: DataConfig, size: InputSize | None = None, seed: int = 0
) -> EvaluationFrames:
    """The frames of one evaluation set: see `evaluation.sets.evaluation_frames`."""
    from mgcda_dist.data.pixels import OWN_SIZE
    from mgcda_dist.evaluation.sets import evaluation_frames

    return evaluation_frames(evaluation_set(entry, data), class_space(data), size or OWN_SIZE, seed)


def evaluation_job(
    config: Config,
    model: Path,
    *,
    section: EvaluationConfig | None = None,
    score: str | None = None,
    name: str = "",
) -> EvaluationJob:
    """The evaluation of a run's network on its sets.

    Args:
        model: folder of the exported network.
        section: sets and options; None: the run's own.
        score: None: the run's own.
        name: shown in tables; empty: the run's.

    Raises:
        CheckpointError: a score that needs statistics of a model that cannot be read.
    """
    from mgcda_dist.evaluation.job import EvaluationJob
    from mgcda_dist.evaluation.results import NetworkSettings
    from mgcda_dist.evaluation.test_time import TestTimeAugmentation
    from mgcda_dist.models.exported import read_metadata

    section, score = section or config.evaluation, score or config.model.score
    statistics = read_metadata(model).statistics if score_entry(score).calibrated else None
    network = NetworkSettings(
        height_px=section.height_px,
        longest_side_px=section.longest_side_px,
        augmentation=TestTimeAugmentation(
            tuple(section.scales), section.flip, section.window_px, section.window_overlap
        ),
        blur=section.blur,
        class_statistics={"mean": list(statistics.mean), "var": list(statistics.var)} if statistics else None,
    )
    return EvaluationJob(
        name=name or config.name,
        path=str(model),
        sets=tuple(evaluation_set(entry, config.data) for entry in section.sets),
        settings=replace(_settings(section), score=score, network=network),
        class_space=class_space(config.data),
        class_names=config.data.class_names,
        panel_frames=section.panel_frames,
        kept_frames=section.kept_frames,
    )


def maps_job(section: EvaluationConfig, maps: Path, *, name: str, resize: bool, ignore_extra: bool) -> EvaluationJob:
    """The evaluation of score maps of another method, in an absolute folder or archive; see `map_request`."""
    from mgcda_dist.evaluation.job import EvaluationJob

    return EvaluationJob(
        name=name,
        path=str(maps),
        sets=tuple(bare_set(entry, 0) for entry in section.sets),
        settings=replace(_settings(section), resize_maps=resize),
        kept_frames=section.kept_frames,
        ignore_extra_maps=ignore_extra,
    )


def preview_job(config: Config) -> EvaluationJob | None:
    """The first frames of a run's first set, for pictures while training goes on; None: no pictures are wanted."""
    num_frames, sets = config.tracking.preview_frames, config.evaluation.sets
    if not num_frames or not sets:
        return None
    entry = evaluation_set(sets[0], config.data)
    entry = replace(entry, max_frames=min(num_frames, entry.max_frames or num_frames))
    return replace(_pixel_metrics_only(config), sets=(entry,), panel_frames=num_frames)


def validation_job(config: Config) -> EvaluationJob | None:
    """The evaluation that measures every checkpoint; None: no set is configured."""
    best = config.checkpoint.best
    if best is None:
        return None
    return replace(_pixel_metrics_only(config), sets=(evaluation_set(best.set, config.data),))


def _pixel_metrics_only(config: Config) -> EvaluationJob:
    """The network of a run as every evaluation runs it, without what only the final tables and pictures need."""
    job = evaluation_job(config, Path(config.runs) / config.name)
    settings = replace(job.settings, conventions=("pooled",), components="none", instances=False)
    return replace(job, settings=settings, panel_frames=0, kept_frames=0, metrics_only=True)


def _settings(section: EvaluationConfig) -> EvaluationSettings:
    from mgcda_dist.evaluation.results import EvaluationSettings

    return EvaluationSettings(
        conventions=tuple(section.conventions),
        components=section.components,
        instances=section.instances,
        threshold=section.threshold,
    )

"""Requests to evaluate what is no model of this package: ONNX files, a user's functions and modules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mgcda_dist.build.evaluation import bare_set
from mgcda_dist.choices import CLASS_SPACES, SCORE, KnownClassSpace, score_entry
from mgcda_dist.config.run import EvaluationConfig, EvaluationSetConfig, ScalingConfig
from mgcda_dist.errors import ConfigError, near_or_all
from mgcda_dist.evaluation.foreign import open_foreign
from mgcda_dist.evaluation.job import EvaluationJob
from mgcda_dist.evaluation.results import AS_GIVEN, EvaluationSettings, NetworkSettings
from mgcda_dist.evaluation.test_time import TestTimeAugmentation
from mgcda_dist.models.scores import scorer
from mgcda_dist.references import PREFIX
from mgcda_dist.runs.evaluation_request import EvaluationOptions, EvaluationRequest, near, safe, section_of

__all__ = ["foreign_job", "foreign_request"]


def foreign_request(
    text: str,
    sets: Sequence[EvaluationSetConfig],
    options: EvaluationOptions,
    *,
    name: str = "",
    class_space: KnownClassSpace | None = None,
    input_range: str | None = None,
) -> EvaluationRequest:
    """The evaluation of an ONNX file or of a user's function or module; results go to the working folder or beside it.

    Args:
        text: path of an `.onnx` file, or `python:MODULE:NAME`; see `open_foreign`.
        sets: what to evaluate on.
        options: those that differ from the defaults.
        name: shown in tables; empty: the file's, or the last part of NAME.
        class_space: of its classes, in their order; None: no mIoU is measured.
        input_range: of its input in floating point, see `InputRange`.

    Raises:
        ConfigError: nothing there, no set, or an option that cannot be.
        MgcdaError: a package that it needs is missing.
    """
    is_code = text.startswith(PREFIX)
    path = Path(text).absolute()
    if not is_code and not path.is_file():
        raise ConfigError(text, "no such file", near(path) or "give the path of an ONNX file")
    opened = open_foreign(text, num_classes=len(_classes_of(class_space)), input_range=input_range)
    job = foreign_job(
        name or safe(text.rpartition(":")[2].rpartition(".")[2] if is_code else path.stem),
        text if is_code else str(path),
        sets,
        options,
        class_space=class_space,
        input_range=input_range,
        gives_scores=opened.gives_scores,
        digest=opened.digest,
    )
    beside = (Path.cwd() / job.name if is_code else path).with_name(f"{job.name if is_code else path.stem}-evaluation")
    return EvaluationRequest(job, beside, scaling=ScalingConfig())


def foreign_job(
    name: str,
    path: str,
    sets: Sequence[EvaluationSetConfig],
    options: EvaluationOptions,
    *,
    class_space: KnownClassSpace | None,
    input_range: str | None,
    gives_scores: bool,
    digest: str,
) -> EvaluationJob:
    """The job of a foreign subject, or of a module in memory, whose path is empty.

    Raises:
        ConfigError: no set, or an option that cannot be.
    """
    where = path or "a module"
    if not sets:
        raise ConfigError("data", f"{where} names no sets to evaluate on", "give `data`, the shards to evaluate on")
    if gives_scores and options.score is not None:
        raise ConfigError("score", f"{where} gives scores, and no logits", "leave `score` out")
    score = AS_GIVEN if gives_scores else options.score or SCORE
    if not gives_scores and score_entry(score).calibrated:
        problem = f"{score} needs class statistics, which only a model of a run has"
        raise ConfigError("score", problem, "choose another `score`")
    if not gives_scores:
        scorer(score)  # a score of the user's own is there
    section = section_of(EvaluationConfig(), sets, options)
    how = TestTimeAugmentation(tuple(section.scales), section.flip, section.window_px, section.window_overlap)
    names = _classes_of(class_space)
    return EvaluationJob(
        name=name,
        path=path,
        sets=tuple(bare_set(entry, len(names)) for entry in section.sets),
        settings=EvaluationSettings(
            conventions=tuple(section.conventions),
            score=score,
            components=section.components,
            instances=section.instances,
            threshold=section.threshold,
            network=NetworkSettings(
                section.height_px, how, section.blur, longest_side_px=section.longest_side_px, input_range=input_range
            ),
        ),
        class_space=class_space,
        class_names=names,
        kept_frames=section.kept_frames,
        digest=digest,
    )


def _classes_of(class_space: KnownClassSpace | None) -> tuple[str, ...]:
    """The classes of a space; empty: none is given."""
    if class_space is None:
        return ()
    if class_space not in CLASS_SPACES:
        raise ConfigError("class_space", f"no such class space {class_space!r}", near_or_all(class_space, CLASS_SPACES))
    return CLASS_SPACES[class_space]

"""Evaluation requests: models and sets found by the paths that a user gives, and the folder of their results."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from mgcda_dist import build
from mgcda_dist.addresses import has_secret, without_secrets
from mgcda_dist.choices import MANIFEST, PIPE, ComponentTrack, RunFile, SubmissionLayout
from mgcda_dist.config.fields import NAME
from mgcda_dist.config.keys import evaluation_with
from mgcda_dist.config.run import EvaluationConfig, EvaluationSetConfig, ScalingConfig
from mgcda_dist.config.schema import Config
from mgcda_dist.data.shards.remote import is_url
from mgcda_dist.errors import ConfigError
from mgcda_dist.evaluation.job import EvaluationJob
from mgcda_dist.models.compatibility import check_score, check_statistics
from mgcda_dist.models.exported import model_folder, read_metadata
from mgcda_dist.references import PREFIX, check_trusted
from mgcda_dist.trust import below

__all__ = [
    "EXPERIMENT",
    "EvaluationOptions",
    "EvaluationRequest",
    "map_request",
    "model_request",
    "named",
    "near",
    "safe",
    "section_of",
    "sets_of",
]

EXPERIMENT = "mgcda"
"""MLflow experiment of evaluations of foreign score maps, by default; a model's is that of its run."""
_GIVE_SHARDS = "give `data`, the shards to evaluate on"


@dataclass(frozen=True)
class EvaluationOptions:
    """Options that differ from those of the run; None: as the run.

    Attributes:
        max_frames: of every set.
        conventions, components, instances, threshold, kept_frames: as in the section `evaluation`.
        height_px: of the network's input; 0: the frame's own.
        longest_side_px: of the network's input, instead of its height; 0: not given.
        scales, flip, window_overlap, blur: as in the section `evaluation`.
        window_px: height and width; empty: whole frames.
    """

    max_frames: int | None = None
    conventions: Sequence[str] | None = None
    components: ComponentTrack | None = None
    instances: bool | None = None
    threshold: float | None = None
    kept_frames: int | None = None
    score: str | None = None
    height_px: int | None = None
    longest_side_px: int | None = None
    scales: Sequence[float] | None = None
    flip: bool | None = None
    window_px: tuple[int, ...] | None = None
    window_overlap: float | None = None
    blur: bool | None = None

    def of_network(self) -> list[str]:
        """Names of the given options that only a network has."""
        names = ("score", "height_px", "longest_side_px", "scales", "flip", "window_px", "window_overlap", "blur")
        return [name for name in names if getattr(self, name) is not None]


@dataclass(frozen=True)
class EvaluationRequest:
    """A job with what is known of the run that its model comes from.

    Attributes:
        beside: the folder that results go to by default.
        experiment: MLflow's, of the model's run; of foreign score maps `EXPERIMENT`.
        scaling: of the model's run; None: no network is run.
    """

    job: EvaluationJob
    beside: Path
    experiment: str = EXPERIMENT
    scaling: ScalingConfig | None = None

    def scaling_for(self, workers: int) -> ScalingConfig:
        """That many workers on this machine, wherever the model was trained."""
        assert self.scaling is not None
        gpus = 1 if torch.cuda.device_count() >= workers else 0
        update = {"workers": workers, "cpus_per_worker": 1.0, "gpus_per_worker": gpus, "elastic": None}
        return self.scaling.model_copy(update=update)

    def with_submission(self, layout: SubmissionLayout, folder: Path) -> EvaluationRequest:
        """The same, with score maps written in a benchmark's layout."""
        return replace(self, job=replace(self.job, submission=(layout, str(folder))))


def model_request(
    path: Path, sets: Sequence[EvaluationSetConfig], options: EvaluationOptions, *, name: str = ""
) -> EvaluationRequest:
    """The evaluation of the exported model in a run, a checkpoint or a model folder.

    Args:
        path: run folder, checkpoint or model folder.
        sets: what to evaluate on; empty: the run's own sets.
        name: shown in tables; empty: the run's, with the checkpoint's.

    Raises:
        CheckpointError: no model there.
        ConfigError: no set to evaluate, or an option that cannot be.
    """
    folder = model_folder(path, near(path))
    config, network = build.load_model(folder)
    if options.score is None and config.model.score.startswith(PREFIX):
        check_trusted("model.score", config.model.score)
    score = options.score or config.model.score
    check_score(score, network.logit_kind, config.loss.outlier)
    check_statistics(score, read_metadata(folder).statistics, folder)
    section = section_of(config.evaluation, sets, options)
    if not section.sets:
        raise ConfigError(str(path), "the run names no evaluation sets", _GIVE_SHARDS)
    run, step = _run_of(folder)
    if not sets:
        _refuse_strangers(section, run, config)
    shown = name or (f"{config.name}_{step}" if step else config.name)
    job = build.evaluation_job(config, folder.absolute(), section=section, score=score, name=shown)
    beside = below(run, f"evaluation-{step}" if step else "evaluation")
    return EvaluationRequest(job.with_digest(), beside.absolute(), config.tracking.experiment, config.scaling)


def map_request(
    path: Path,
    sets: Sequence[EvaluationSetConfig],
    options: EvaluationOptions,
    *,
    name: str = "",
    resize: bool = False,
    ignore_extra: bool = False,
) -> EvaluationRequest:
    """The evaluation of score maps of another method.

    Args:
        path: folder or archive of maps.
        sets: what they belong to.
        options: those that differ from the defaults; none of a network.
        name: shown in tables; empty: the folder's.
        resize: bring maps of another size to that of their label.
        ignore_extra: accept maps that belong to no frame.

    Raises:
        ConfigError: no set, or maps that are missing or left over.
    """
    if not sets:
        raise ConfigError(str(path), "score maps need the labels they are judged by", _GIVE_SHARDS)
    section = section_of(EvaluationConfig(), sets, options)
    shown = name or safe(path.stem if path.is_file() else path.absolute().name)
    job = build.maps_job(section, path.absolute(), name=shown, resize=resize, ignore_extra=ignore_extra)
    beside = path.absolute().with_name(f"{path.absolute().stem}-evaluation")
    return EvaluationRequest(job.with_digest(), beside)


def sets_of(folders: Sequence[str]) -> list[EvaluationSetConfig]:
    """Evaluation sets from folders or URLs of shards, each as it is or as `NAME=FOLDER`.

    Raises:
        ConfigError: a folder without shards.
    """
    pairs = [_place(folder) for folder in folders]
    # Names from the last two parts of each path; a number is added where two are equal.
    names = [name or safe("_".join(place.partition(PIPE)[0].rstrip("/").split("/")[-2:])) for name, place in pairs]
    names = [name if names.count(name) == 1 else f"{name}_{i}" for i, name in enumerate(names)]
    return [EvaluationSetConfig(name=name, shards=place) for name, (_, place) in zip(names, pairs, strict=True)]


def _refuse_strangers(section: EvaluationConfig, run: Path, config: Config) -> None:
    """Refuse places that a model's own configuration names: models are handed on, and would be read, or run, unseen.

    Folders are read if they lie in the run folder, or if that lies where its configuration says, as on the machine
    that trained it. Commands and addresses are the user's to give, and the code of a Dataset is trusted by name.
    """
    for entry in section.sets:
        if entry.dataset is not None:
            check_trusted(f"evaluation set {entry.name}", entry.dataset)
    at_home = os.path.realpath(run) == os.path.realpath(Path(config.runs) / config.name)
    places = [place for entry in section.sets for place in (entry.shards, entry.paste.objects if entry.paste else "")]
    for place in filter(None, places):
        inside = Path(os.path.realpath(place)).is_relative_to(os.path.realpath(run))
        if PIPE in place or is_url(place) or not (at_home or inside):
            kind = "a command" if PIPE in place else "an address" if is_url(place) else "a folder elsewhere"
            problem = f"the model's own configuration names {kind}: {place}"
            raise ConfigError("evaluation.sets", problem, "if you trust it, give the shards yourself as `data`")


def _place(text: str) -> tuple[str, str]:
    """`FOLDER` or `URL`, with `NAME=` before or ` pipe:COMMAND` behind it, as (name or empty, the absolute place)."""
    if has_secret(text):
        remedy = "give the credentials in the environment; the address is recorded with the results"
        raise ConfigError(without_secrets(text), "the address holds a password or a token", remedy)
    text, pipe, command = text.partition(PIPE)
    if pipe:
        name, place = _place(text)
        return name, place + pipe + command
    name, separator, rest = text.partition("=")
    if separator and is_url(rest) and not is_url(name):
        return name, rest
    if is_url(text):
        return "", text
    name, path = named(text)
    if not (path / MANIFEST).is_file():
        raise ConfigError(str(path), "no shards there (no manifest.json)", _near_shards(path))
    return name, str(path.absolute())


def section_of(
    section: EvaluationConfig, sets: Sequence[EvaluationSetConfig], options: EvaluationOptions
) -> EvaluationConfig:
    """The section with other values, validated; with other sets, if any are given.

    Raises:
        ConfigError: an option that cannot be.
    """
    entries = [entry.model_dump() for entry in (sets or section.sets)]
    if options.max_frames is not None:
        entries = [entry | {"max_frames": options.max_frames} for entry in entries]
    given = {key: value for key, value in asdict(options).items() if value is not None}
    if options.height_px and options.longest_side_px:
        raise ConfigError("longest_side_px", "is given, and `height_px`, too", "give one of them")
    if not {"height_px", "longest_side_px"}.isdisjoint(given):  # the other one is not the run's
        given = {"height_px": None, "longest_side_px": None} | given
    update = {key: value for key, value in given.items() if key not in ("score", "max_frames")}
    return evaluation_with(update, section.model_dump() | {"sets": entries})


def _run_of(model: Path) -> tuple[Path, str]:
    """The folder that an evaluation of this model lies beside, and the checkpoint's name if it is one's."""
    model = model.absolute()
    if model.parent.parent.name == RunFile.CHECKPOINTS:
        return model.parent.parent.parent, model.parent.name
    return (model.parent if model.name == "model" else model), ""


def named(text: str) -> tuple[str, Path]:
    """`PATH` or `NAME=PATH` as (name or empty, path).

    Raises:
        ConfigError: a name that cannot be a folder's.
    """
    name, separator, path = text.partition("=")
    if not separator or Path(text).exists():
        return "", Path(text)
    if re.fullmatch(NAME, name) is None:
        raise ConfigError(text, f"{name!r} is no name", "letters, digits, `_`, `.` and `-`; it becomes a folder")
    return name, Path(path)


def safe(text: str) -> str:
    """Text as a name that can be a folder's."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text).lstrip("_.-") or "set"


def _near_shards(path: Path) -> str:
    inside = sorted(child.parent for child in path.glob("*/manifest.json")) if path.is_dir() else []
    if inside:
        return "did you mean " + " or ".join(str(child) for child in inside[:3]) + "?"
    return near(path) or f"write them from frames and masks: `mgcda shards write DATASET FOLDER {path}`"


def near(path: Path) -> str:
    """The sibling that a misspelt path may mean."""
    parent = next((p for p in path.absolute().parents if p.is_dir()), None)
    if path.exists() or parent is None:
        return ""
    part = path.absolute().relative_to(parent).parts[0]
    close = difflib.get_close_matches(part, [child.name for child in parent.iterdir()], n=1)
    rest = path.absolute().relative_to(parent).parts[1:]
    return f"did you mean {parent.joinpath(close[0], *rest)}?" if close else ""

"""Checks before a run: networks, losses, scores, crops and data that do not fit the configuration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from mgcda_dist import build
from mgcda_dist.build.data import class_space, dataset_reader
from mgcda_dist.choices import ANOMALY, INLIER, OUTLIER_LOSSES, outlier_entry
from mgcda_dist.config.data import PasteConfig, StreamConfig
from mgcda_dist.config.run import EvaluationSetConfig
from mgcda_dist.config.schema import Config
from mgcda_dist.data.decode import decode_cutout
from mgcda_dist.data.folders import label_pixels, open_shards
from mgcda_dist.data.labels import mistaken_for_void
from mgcda_dist.data.reader import ShardReader
from mgcda_dist.data.shards.categories import choose_objects
from mgcda_dist.errors import ConfigError, MgcdaError, ShardError
from mgcda_dist.extras import need

if TYPE_CHECKING:
    from mgcda_dist.models.heads import AnySegmenter

__all__ = ["DataProblem", "check_data", "check_dataset", "check_model", "doubts"]

_VALIDATION = "choose a split for validation: held-out frames, with pasted objects of held-out kinds"
_SAME_RATE = 0.1  # shares of images with anomalies that differ by less count as one
_Path = tuple[str | int, ...]


class DataProblem(NamedTuple):
    """A problem with a run's data: the key of the configuration, the reason, and a remedy."""

    path: _Path
    problem: str
    remedy: str


def check_data(config: Config, *, samples: bool = False) -> tuple[list[DataProblem], list[str]]:
    """Problems with the data of a run, each of which would spoil or stop it, and warnings, in words.

    Reads manifests, whose histograms tell every id that labels hold; with `samples`, also one sample of each folder. Of
    a Dataset, the items that stand for all of it are read, twice; with `samples` their labels are checked, too.
    """
    problems, warnings = _check_data(config, samples=samples)
    for phase in config.training_phases[:-1]:
        if phase.config.data == config.data and phase.config.teacher == config.teacher:
            continue
        further, doubtful = _check_data(phase.config, samples=samples)
        at = ("phases", phase.index)
        problems += [DataProblem((*at, *each.path), each.problem, each.remedy) for each in further]
        warnings += [f"phase {phase.name}: {text}" for text in doubtful if text not in warnings]
    return problems, warnings


def _check_data(config: Config, *, samples: bool) -> tuple[list[DataProblem], list[str]]:
    """`check_data` of one phase."""
    problems: list[DataProblem] = []
    warnings: list[str] = []
    seen: dict[str, Counter[int] | None] = {}
    training: dict[str, StreamConfig] = {}
    for path, entry in _entries(config):
        key = "shards" if entry.dataset is None else "dataset"
        try:
            found = _check_entry(config, entry, samples=samples)
        except MgcdaError as error:
            problems.append(DataProblem((*path, key), f"{error.where}: {error.problem}", error.remedy))
            continue
        warnings += found.doubts
        if isinstance(entry, StreamConfig):
            seen[entry.name] = found.pixels
            warnings += _same_data(training.setdefault(found.digest, entry), entry)
            if entry.labelled and found.pixels is not None and not any(x < INLIER for x in found.pixels):
                warnings.append(f"stream {entry.name}: no pixel of its labels is of any class")
        elif path[0] == "checkpoint" and (found.digest in training or found.test_split):
            use = training.get(found.digest)
            problem = f"stream {use.name} trains on it" if use else found.test_split
            problems.append(
                DataProblem((*path, key), f"no model can be chosen on {entry.name}: {problem}", _VALIDATION)
            )
        elif found.digest in training:
            warnings.append(f"set {entry.name} is what stream {training[found.digest].name} trains on")
        elif found.pixels == Counter():
            warnings.append(f"set {entry.name} has no labels: nothing can be measured on it")
    if not problems:
        known = {name: pixels for name, pixels in seen.items() if pixels is not None}
        if len(known) == len(seen):  # nothing counts the pixels of a Dataset
            warnings += _unlearned(config, sum(known.values(), Counter()))
            warnings += _unaligned(config, known)
        warnings += _untaught(config)
    return problems, warnings


class _Found(NamedTuple):
    """Data that a stream or set reads."""

    digest: str
    pixels: Counter[int] | None
    """Per train id, none where labels are not read; None: nobody has counted them."""
    doubts: Sequence[str] = ()
    test_split: str = ""
    """In words, if it is one."""


def _check_entry(config: Config, entry: StreamConfig | EvaluationSetConfig, *, samples: bool) -> _Found:
    if entry.shards is None:
        digest, _ = check_dataset(config, entry, samples=samples)
        return _Found(digest, Counter() if isinstance(entry, StreamConfig) and not entry.labelled else None)
    manifest = open_shards(entry.shards, "frames")
    if samples:
        ShardReader(manifest).frame(0)
    _check_objects(entry.paste, samples=samples)
    is_stream = isinstance(entry, StreamConfig)
    if is_stream and entry.labelled and not manifest.label_histogram:
        problem = f"stream {entry.name} is labelled, but its shards hold no labels"
        raise ShardError(manifest.place, problem, "set labelled: false on the stream, or use labelled shards")
    read = not is_stream or entry.labelled
    pixels = label_pixels(manifest, class_space(config.data)) if read else Counter[int]()
    doubt = mistaken_for_void(manifest.label_format, manifest.label_histogram) if pixels else None
    test_split = f"{manifest.place} is a test split ({manifest.dataset})" if manifest.split == "test" else ""
    return _Found(manifest.digest, pixels, [f"{entry.name}: {doubt[0]}; {doubt[1]}"] if doubt else [], test_split)


def check_dataset(config: Config, entry: StreamConfig | EvaluationSetConfig, *, samples: bool) -> tuple[str, int]:
    """The digest of the Dataset of a stream or set, and its number of items.

    Args:
        samples: check the labels of the items that are read, too.

    Raises:
        MgcdaError: a Dataset that cannot be made or read, or does not fit the stream or set.
    """
    reader = dataset_reader(entry, config.data)
    labelled = not isinstance(entry, StreamConfig) or entry.labelled
    for index in reader.probes if samples else []:
        frame = reader.frame(index, labelled=labelled)
        if labelled and frame.ids is None and isinstance(entry, StreamConfig):
            raise ShardError(frame.where, "it has no label, but the stream is labelled", "set labelled: false on it")
    _check_objects(entry.paste, samples=samples)
    return reader.digest(), len(reader)


def _check_objects(paste: PasteConfig | None, *, samples: bool) -> None:
    if paste is None:
        return
    objects = open_shards(paste.objects, "objects")
    choose_objects(objects, paste.include, paste.exclude)
    if samples:
        first = ShardReader(objects).read(0)
        decode_cutout(first.image, first.where, first.exif)


def _same_data(first: StreamConfig, entry: StreamConfig) -> Iterator[str]:
    if first.domain_name != entry.domain_name:
        what = "shards" if entry.shards else "items"
        yield (
            f"domains {first.domain_name} and {entry.domain_name} are the same {what}: only objects and labels tell "
            f"them apart; give the streams {first.name} and {entry.name} one `domain`"
        )


def _entries(config: Config) -> Iterator[tuple[_Path, StreamConfig | EvaluationSetConfig]]:
    for i, stream in enumerate(config.data.streams):
        yield ("data", "streams", i), stream
    for i, entry in enumerate(config.evaluation.sets):
        yield ("evaluation", "sets", i), entry
    if config.checkpoint.best is not None:
        yield ("checkpoint", "best", "set"), config.checkpoint.best.set


def _unlearned(config: Config, seen: Counter[int]) -> Iterator[str]:
    """Classes and terms for which the labels have no training pixels."""
    missing = [name for i, name in enumerate(config.data.class_names) if not seen[i]]
    if missing:
        yield f"no labelled stream shows {', '.join(missing)}: the network cannot learn what that is"
    pastes = any(stream.paste and stream.paste.probability > 0 for stream in config.data.streams)
    if not pastes and not seen[ANOMALY]:
        terms = [name for name, on in (("the outlier term", config.loss.outlier != "none"),
                                       ("CACL", config.cacl.enabled)) if on]  # fmt: skip
        learns = f"{' and '.join(terms)} will learn nothing from anomalies" if terms else "none is needed as configured"
        yield f"no anomaly in training: no stream pastes objects, and no label holds one; {learns}"


def _untaught(config: Config) -> Iterator[str]:
    """Options for images without labels, where they do nothing."""
    teacher, outlier = config.teacher, config.loss.outlier
    all_labelled = all(stream.labelled for stream in config.data.streams)
    if config.data.augment.class_mix > 0 and all_labelled:
        yield (
            "data.augment.class_mix: all streams are labelled, so no crop takes classes of another; set labelled: "
            "false on one, or data.augment.class_mix=0"
        )
    if teacher.enabled and teacher.outlier_weight > 0:
        if teacher.weight == 0:
            yield (
                "teacher.outlier_weight: it is multiplied by teacher.weight, which is 0; raise that, or set "
                "teacher.outlier_weight=0"
            )
        if not outlier_entry(outlier).any_inlier:
            suited = ", ".join(name for name, entry in OUTLIER_LOSSES.items() if entry.any_inlier)
            yield (
                f"teacher.outlier_weight: loss.outlier={outlier} has no side for inliers of unknown class, so nothing "
                f"comes of it; set teacher.outlier_weight=0, or loss.outlier to one of {suited}"
            )
    if teacher.is_asked and all_labelled:
        yield (
            "teacher.enabled: all streams are labelled, so the teacher has no image to label; set labelled: false on "
            "one, or teacher.weight=0 and teacher.contrast=false for the average alone"
        )


def _unaligned(config: Config, seen: dict[str, Counter[int]]) -> Iterator[str]:
    """Warnings about a domain that lacks what MDAT and CACL align; `seen` is pixels per train id by stream."""
    rates, rows = dict.fromkeys(config.data.domains, 0.0), set[str]()
    given = config.cacl.unlabelled_confidence is not None or (config.teacher.enabled and config.teacher.contrast)
    share = {name: sum(s.per_step for s in config.data.streams if s.domain_name == name) for name in rates}
    for stream in config.data.streams:
        rate = stream.paste.probability if stream.paste else 0.0
        rate = 1.0 if seen[stream.name][ANOMALY] else rate  # of labels the share of images is not known
        rates[stream.domain_name] += rate * stream.per_step / share[stream.domain_name]
        if rate or stream.labelled or given:
            rows.add(stream.domain_name)
    with_anomalies = [name for name, rate in rates.items() if rate]
    if not (config.mdat.enabled or config.cacl.enabled) or len(rates) < 2:
        return
    if len(with_anomalies) == 1:
        (only,), others = with_anomalies, ", ".join(name for name in rates if name not in with_anomalies)
        yield (
            f"anomalies are in domain {only} alone: no anomaly of CACL meets one of another domain, and the "
            f"discriminators can tell {only} by its objects; paste at the same rate on the streams of {others}"
        )
    elif with_anomalies and max(rates.values()) - min(rates.values()) > _SAME_RATE:
        listed = ", ".join(f"{name} {rate:.0%}" for name, rate in rates.items())
        yield (
            f"domains differ in how many of their images have anomalies ({listed}): the discriminators can tell "
            "them by that; bring the streams' paste.probability to one value"
        )
    if config.cacl.enabled:
        for name in rates:
            if name not in rows:
                yield (
                    f"domain {name} gives CACL no pixel: its streams have no labels and no objects; set paste on them, "
                    "or cacl.unlabelled_confidence, or a teacher with teacher.contrast"
                )


def check_model(config: Config) -> list[str]:
    """Raise `ConfigError` for what a run could not build: network, weights, losses and scores, callbacks, trackers.

    Refused are a network or weights that do not exist, a norm that needs GPUs where none is used, losses and scores
    that do not suit it, callbacks that cannot be called, augmentations of one's own that are not functions of their
    draws, and trackers whose package is not installed. The network is made once and thrown away. One with a timm
    backbone is made on torch's `meta` device, without memory and without weights.

    Returns:
        What is doubtful, in words.
    """
    build.check_callbacks(config)
    _check_trackers(config)
    _check_for_gpus(config)
    found: list[str] = []
    for phase in config.training_phases:
        try:
            found += _check_network(phase.config)
        except ConfigError as error:
            if phase.is_last:
                raise
            raise ConfigError(
                f"phases.{phase.index} ({phase.name}), {error.where}", error.problem, error.remedy
            ) from error
    return list(dict.fromkeys(found))


def _check_network(config: Config) -> list[str]:
    """`check_model` of the network of one phase."""
    from mgcda_dist.models.activations import checkpoint_activations
    from mgcda_dist.models.backbone import check_backbone
    from mgcda_dist.models.invariants import check_compiles

    for change in build.own_augmentations(config.data):
        change.tried(config.data.crop_px, len(config.data.class_names))
    if config.model.backbone is not None:
        check_backbone(config.model.backbone, config.model.weights)
        network = _outline(config)
    else:
        network = build.segmenter(config)
    if config.model.compile:
        check_compiles(network)
    if config.engine.activation_checkpointing:
        checkpoint_activations(network, "engine.activation_checkpointing")
    build.check_stages(config, network)
    build.check_pairs(config, network, build.dropped_heads(config, network))
    if config.model.backbone is not None:
        return []
    _check_crop(config, network)
    return doubts(config, network)


def _check_trackers(config: Config) -> None:
    """Raise `MgcdaError` for a tracker whose package is not installed."""
    if config.tracking.tensorboard:
        need("tracking.tensorboard", "tensorboard")
    if config.tracking.wandb is not None:
        need("tracking.wandb", "wandb")


def _check_for_gpus(config: Config) -> None:
    """Raise `ConfigError` for what there is on GPUs alone, where none is used."""
    if config.engine.precision == "fp16" and config.scaling.gpus_per_worker == 0:
        raise ConfigError(
            "engine.precision",
            "'fp16' trains on GPUs only, and scaling.gpus_per_worker is 0",
            "set scaling.gpus_per_worker=1, or engine.precision=bf16, whose range is that of float32",
        )
    for key in ("norm", "head_norm"):
        if getattr(config.model, key) == "sync" and config.scaling.gpus_per_worker == 0:
            raise ConfigError(
                f"model.{key}",
                "'sync' trains on GPUs only, and scaling.gpus_per_worker is 0",
                f"set scaling.gpus_per_worker=1, or model.{key}=frozen (with pretrained weights) or group (without)",
            )


def _outline(config: Config) -> AnySegmenter:
    """The network with a timm backbone, of tensors without values."""
    with torch.device("meta"):
        return build.segmenter(config, weights="none")


def doubts(config: Config, network: nn.Module) -> list[str]:
    """Warnings about a network that can train, but badly."""
    from mgcda_dist.models.norm import norms_without_statistics

    unset, num_frozen = norms_without_statistics(network)
    if not unset:
        return []
    remedy = (
        ", or model.head_norm=group if it is the head's" if len(unset) < num_frozen and config.model.network else ""
    )
    return [
        f"{len(unset)} of {num_frozen} frozen batch norms of {config.model.shown} have no statistics (mean 0, variance "
        f"1) and normalise nothing, first {unset[0]}; give model.weights, or model.norm=group{remedy}"
    ]


def _check_crop(config: Config, network: AnySegmenter) -> None:
    """Try a crop that is smaller than the image the network was tried with: some pool away more than it has."""
    height, width = config.data.crop_px
    enough = network.example_size
    if height >= enough[0] and width >= enough[1]:
        return
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, height, width))
    except Exception as error:  # networks raise every kind
        raise ConfigError(
            "data.crop_px",
            f"{config.model.shown!r} does not take crops of {height}×{width}: {error}",
            f"{enough[0]}×{enough[1]} and more work",
        ) from error

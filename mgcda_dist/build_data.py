"""The part of the composition root that needs no torch: the class space, and whether the shards fit the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.config.data import CLASS_SPACES, DataConfig, DomainConfig
from mgcda_dist.config.run import EvaluationSetConfig
from mgcda_dist.config.schema import Config
from mgcda_dist.data.decode import decode_cutout, decode_image, decode_label
from mgcda_dist.data.labels import ClassSpace, lookup_table, mapped_ids
from mgcda_dist.data.reader import ShardReader
from mgcda_dist.data.shards.categories import choose_objects
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.errors import ConfigError, MgcdaError, ShardError
from mgcda_dist.label_values import ANOMALY, INLIER, VOID

__all__ = ["DataProblem", "check_data", "class_space", "label_pixels", "label_table", "open_shards", "road_ids"]

_NO_CLASS = {"normal": INLIER, "anomaly": ANOMALY, "void": VOID}
_VALIDATION = "choose a split for validation: held-out frames, with pasted objects of held-out kinds"
_Path = tuple[str | int, ...]


class DataProblem(NamedTuple):
    """What keeps a run from reading its data rightly: the key of the configuration, why, and what to do."""

    path: _Path
    problem: str
    remedy: str


def class_space(data: DataConfig) -> str | ClassSpace:
    """The class space as the label tables take it."""
    space = data.class_space
    if isinstance(space, str):
        return space
    train_ids = {name: i for i, name in enumerate(space.names)} | _NO_CLASS
    known = CLASS_SPACES[space.based_on] if space.based_on else ()
    return ClassSpace(
        space.based_on,
        {i: train_ids[space.map.get(name, name)] for i, name in enumerate(known)},
        {form: {raw: train_ids[name] for raw, name in table.items()} for form, table in space.ids.items()},
    )


def road_ids(data: DataConfig) -> tuple[int, ...]:
    """Train ids of the classes that objects stand on."""
    return tuple(data.class_names.index(name) for name in data.road_classes)


def open_shards(folder: str, kind: Literal["frames", "objects"]) -> Manifest:
    """The manifest of a folder that must hold this kind.

    Raises:
        ShardError: no readable manifest, or the other kind.
    """
    manifest = Manifest.open(folder)
    if manifest.kind != kind:
        wanted = "a domain or an evaluation set reads frames" if kind == "frames" else "pasting reads objects"
        raise ShardError(folder, f"holds {manifest.kind}, but {wanted}", "`mgcda shards ls` shows what a folder holds")
    return manifest


def label_table(manifest: Manifest, data: DataConfig) -> NDArray[np.uint8]:
    """Train id by raw id, 256 bytes.

    Raises:
        ConfigError: the class space cannot read the labels, or they hold ids that nobody explains.
    """
    label_pixels(manifest, data)
    return lookup_table(manifest.label_format, class_space(data))


def label_pixels(manifest: Manifest, data: DataConfig) -> Counter[int]:
    """Pixels per train id over all labels of a folder, by the manifest's histogram.

    Raises:
        ConfigError: as `label_table`.
    """
    form, histogram = manifest.label_format, manifest.label_histogram
    mapped = mapped_ids(form, class_space(data))
    unknown = sorted(histogram.keys() - mapped.keys())
    if unknown:
        share = sum(histogram[raw] for raw in unknown) / sum(histogram.values())
        listing = ", ".join(map(str, unknown[:8])) + (" …" if len(unknown) > 8 else "")
        problem = f"{share:.2%} of the labels' pixels have ids that {form} does not know: {listing}"
        remedy = f"write the shards with the right --label-format, or say in data.class_space.ids.{form} what they are"
        raise ConfigError(manifest.place, problem, f"{remedy} (`void` if nothing)")
    pixels: Counter[int] = Counter()
    for raw, count in histogram.items():
        pixels[mapped[raw]] += count
    return pixels


def check_data(config: Config, *, samples: bool = False) -> tuple[list[DataProblem], list[str]]:
    """What is wrong with the shards of a run, and what is doubtful about them.

    Reads manifests, whose histograms tell every id that labels hold; with `samples`, also one sample of each folder.

    Returns:
        Problems, each of which would spoil or stop the run, and warnings, in words.
    """
    problems: list[DataProblem] = []
    warnings: list[str] = []
    seen: Counter[int] = Counter()
    training: dict[str, str] = {}
    for path, entry in _entries(config):
        try:
            manifest, pixels = _check_entry(config, entry, samples=samples)
        except MgcdaError as error:
            problems.append(DataProblem((*path, "shards"), f"{error.where}: {error.problem}", error.remedy))
            continue
        if isinstance(entry, DomainConfig):
            seen += pixels
            training[manifest.digest] = entry.name
            if entry.labelled and not any(train_id < INLIER for train_id in pixels):
                warnings.append(f"domain {entry.name}: no pixel of its labels is of any class")
        elif path[0] == "checkpoint" and (manifest.digest in training or manifest.split == "test"):
            use = training.get(manifest.digest)
            problem = f"domain {use} trains on it" if use else f"{manifest.place} is a test split ({manifest.dataset})"
            problems.append(
                DataProblem((*path, "shards"), f"no model can be chosen on {entry.name}: {problem}", _VALIDATION)
            )
        elif manifest.digest in training:
            warnings.append(f"set {entry.name} is what domain {training[manifest.digest]} trains on")
        elif not pixels:
            warnings.append(f"set {entry.name} has no labels: nothing can be measured on it")
    if not problems:
        warnings += _unlearned(config, seen)
    return problems, warnings


def _check_entry(
    config: Config, entry: DomainConfig | EvaluationSetConfig, *, samples: bool
) -> tuple[Manifest, Counter[int]]:
    """The manifest of a domain or set, and its pixels per train id (none where labels are not read)."""
    manifest = open_shards(entry.shards, "frames")
    if samples:
        _try_frame(manifest)
    if entry.paste is not None:
        objects = open_shards(entry.paste.objects, "objects")
        choose_objects(objects, entry.paste.include, entry.paste.exclude)
        if samples:
            first = ShardReader(objects).read(0)
            decode_cutout(first.image, first.where)
    if not isinstance(entry, DomainConfig):
        return manifest, label_pixels(manifest, config.data)
    if not entry.labelled:
        return manifest, Counter()
    if not manifest.label_histogram:
        problem = f"domain {entry.name} is labelled, but its shards hold no labels"
        raise ShardError(manifest.place, problem, "set labelled: false on the domain, or use labelled shards")
    return manifest, label_pixels(manifest, config.data)


def _entries(config: Config) -> Iterator[tuple[_Path, DomainConfig | EvaluationSetConfig]]:
    for i, domain in enumerate(config.data.domains):
        yield ("data", "domains", i), domain
    for i, entry in enumerate(config.evaluation.sets):
        yield ("evaluation", "sets", i), entry
    if config.checkpoint.best is not None:
        yield ("checkpoint", "best", "set"), config.checkpoint.best.set


def _try_frame(manifest: Manifest) -> None:
    """Raise ShardError unless the first sample can be read, and its label fits its image."""
    sample = ShardReader(manifest).read(0)
    image = decode_image(sample.image, sample.where)
    if sample.label is None:
        return
    label = decode_label(sample.label, np.arange(256, dtype=np.uint8), sample.where)
    if label.shape != image.shape[:2]:
        problem = f"the image is {image.shape[1]}×{image.shape[0]}, its label {label.shape[1]}×{label.shape[0]} pixels"
        raise ShardError(sample.where, problem, "write the shards again from files that belong together")


def _unlearned(config: Config, seen: Counter[int]) -> Iterator[str]:
    """What the labels give nothing to learn about."""
    missing = [name for i, name in enumerate(config.data.class_names) if not seen[i]]
    if missing:
        yield f"no labelled domain shows {', '.join(missing)}: the network cannot learn what that is"
    pastes = any(domain.paste and domain.paste.probability > 0 for domain in config.data.domains)
    if not pastes and not seen[ANOMALY]:
        terms = [name for name, on in (("the outlier term", config.loss.outlier != "none"),
                                       ("CACL", config.cacl.enabled)) if on]  # fmt: skip
        learns = f"{' and '.join(terms)} will learn nothing from anomalies" if terms else "none is needed as configured"
        yield f"no anomaly in training: no domain pastes objects, and no label holds one; {learns}"

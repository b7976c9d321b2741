"""Checks of the data of a run: shards, Datasets and sets that do not fit the configuration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.build.data import class_space, dataset_reader
from mgcda_dist.checks.domains import unaligned
from mgcda_dist.checks.idle import idle
from mgcda_dist.checks.terms import unlearned
from mgcda_dist.checks.unlabelled import unlabelled
from mgcda_dist.choices import INLIER
from mgcda_dist.config.data import PasteConfig, StreamConfig
from mgcda_dist.config.keys import KeyPath
from mgcda_dist.config.run import EvaluationSetConfig
from mgcda_dist.config.schema import Config
from mgcda_dist.data.decode import decode_cutout
from mgcda_dist.data.folders import label_pixels, open_shards
from mgcda_dist.data.labels import doubtful_labels
from mgcda_dist.data.reader import ShardReader
from mgcda_dist.data.shards.categories import choose_objects
from mgcda_dist.errors import MgcdaError, ShardError

__all__ = ["DataProblem", "check_data", "check_dataset"]

_VALIDATION = "choose a split for validation: held-out frames, with pasted objects of held-out kinds"
_HELD_OUT = "leave it out, or measure on frames that are held out and have labels"
_READ = ("data", "loss", "mdat", "cacl", "teacher")
"""Sections that these checks read."""


class DataProblem(NamedTuple):
    """A problem with a run's data: the key of the configuration, the reason, and a remedy."""

    path: KeyPath
    problem: str
    remedy: str


def check_data(config: Config, *, samples: bool = False) -> tuple[list[DataProblem], list[str]]:
    """Problems with the data of a run, each of which would spoil or stop it, and warnings, in words.

    Reads manifests, whose histograms tell every id that labels hold; with `samples`, also one sample of each folder. Of
    a Dataset, the items that stand for all of it are read, twice; with `samples` their labels are checked, too.
    """
    problems, warnings = _check_data(config, samples=samples)
    for phase in config.training_phases[:-1]:
        if all(getattr(phase.config, name) == getattr(config, name) for name in _READ):
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
    pasted: dict[str, _Objects] = {}
    for path, entry in _entries(config):
        key = "shards" if entry.dataset is None else "dataset"
        objects: _Objects | None = None
        try:
            objects = _check_objects(entry.paste, samples=samples)
        except MgcdaError as error:
            at = (*path, "paste", "objects")
            problems.append(DataProblem(at, f"{error.where}: {error.problem}", error.remedy))
        try:
            found = _check_entry(config, entry, samples=samples)
        except MgcdaError as error:
            problems.append(DataProblem((*path, key), f"{error.where}: {error.problem}", error.remedy))
            continue
        warnings += found.doubts
        if isinstance(entry, StreamConfig):
            seen[entry.name] = found.pixels
            pasted |= {entry.name: objects} if objects else {}
            warnings += _same_data(training.setdefault(found.digest, entry), entry)
            if found.test_split:
                warnings.append(f"stream {entry.name}: {found.test_split}; train on another one, or measure elsewhere")
            if entry.labelled and found.pixels is not None and not any(x < INLIER for x in found.pixels):
                warnings.append(
                    f"stream {entry.name}: no pixel of its labels is of any class, so none is learned from; set "
                    "labelled: false on it, or use shards whose labels are of classes"
                )
        elif path[0] == "checkpoint" and (found.digest in training or found.test_split):
            use = training.get(found.digest)
            problem = f"stream {use.name} trains on it" if use else found.test_split
            problems.append(
                DataProblem((*path, key), f"no model can be chosen on {entry.name}: {problem}", _VALIDATION)
            )
        elif found.digest in training:
            warnings.append(f"set {entry.name} is what stream {training[found.digest].name} trains on; {_HELD_OUT}")
        elif found.pixels == Counter():
            warnings.append(f"set {entry.name} has no labels: nothing can be measured on it; {_HELD_OUT}")
        if not isinstance(entry, StreamConfig) and objects:
            warnings += _same_objects(entry.name, objects, pasted)
    if not problems:
        known = {name: pixels for name, pixels in seen.items() if pixels is not None}
        if len(known) == len(seen):  # nothing counts the pixels of a Dataset
            warnings += unlearned(config, sum(known.values(), Counter()))
        warnings += unaligned(config, seen)
        warnings += unlabelled(config)
        warnings += idle(config)
    return problems, warnings


class _Objects(NamedTuple):
    """Objects that are pasted: the digest of their shards, and those of them that were chosen, by number; None: all."""

    digest: str
    chosen: NDArray[np.int64] | None

    def meets(self, other: _Objects) -> bool:
        """True if an object is among both."""
        if self.digest != other.digest or self.chosen is None or other.chosen is None:
            return self.digest == other.digest
        return bool(np.isin(self.chosen, other.chosen).any())


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
        digest, _ = _check_dataset(config, entry, samples=samples)
        pixels = Counter[int]() if isinstance(entry, StreamConfig) and not entry.labelled else None
        return _Found(digest, pixels)
    manifest = open_shards(entry.shards, "frames")
    if samples:
        ShardReader(manifest).frame(0)
    is_stream = isinstance(entry, StreamConfig)
    if is_stream and entry.labelled and not manifest.label_histogram:
        problem = f"stream {entry.name} is labelled, but its shards hold no labels"
        raise ShardError(manifest.place, problem, "set labelled: false on the stream, or use labelled shards")
    read = not is_stream or entry.labelled
    pixels = label_pixels(manifest, class_space(config.data)) if read else Counter[int]()
    doubt = doubtful_labels(manifest.label_format, manifest.label_histogram) if pixels else None
    test_split = f"{manifest.place} is a test split ({manifest.dataset})" if manifest.split == "test" else ""
    doubtful = [f"{entry.name}: {doubt[0]}; {doubt[1]}"] if doubt else []
    return _Found(manifest.digest, pixels, doubtful, test_split)


def check_dataset(config: Config, entry: StreamConfig | EvaluationSetConfig, *, samples: bool) -> tuple[str, int]:
    """The digest of the Dataset of a stream or set, and its number of items.

    Args:
        samples: check the labels of the items that are read, too.

    Raises:
        MgcdaError: a Dataset that cannot be made or read, or does not fit the stream or set.
    """
    found = _check_dataset(config, entry, samples=samples)
    _check_objects(entry.paste, samples=samples)
    return found


def _check_dataset(config: Config, entry: StreamConfig | EvaluationSetConfig, *, samples: bool) -> tuple[str, int]:
    """`check_dataset` without the objects to paste."""
    reader = dataset_reader(entry, config.data)
    labelled = not isinstance(entry, StreamConfig) or entry.labelled
    for index in reader.probes if samples else []:
        frame = reader.frame(index, labelled=labelled)
        if labelled and frame.ids is None and isinstance(entry, StreamConfig):
            raise ShardError(frame.where, "it has no label, but the stream is labelled", "set labelled: false on it")
    return reader.digest(), len(reader)


def _check_objects(paste: PasteConfig | None, *, samples: bool) -> _Objects | None:
    if paste is None:
        return None
    objects = open_shards(paste.objects, "objects")
    chosen = choose_objects(objects, paste.include, paste.exclude)
    if samples:
        first = ShardReader(objects).read(0)
        decode_cutout(first.image, first.where, first.exif)
    return _Objects(objects.digest, chosen) if paste.probability > 0 else None


def _same_data(first: StreamConfig, entry: StreamConfig) -> Iterator[str]:
    if first.domain_name != entry.domain_name:
        what = "shards" if entry.shards else "items"
        yield (
            f"domains {first.domain_name} and {entry.domain_name} are the same {what}: only objects and labels tell "
            f"them apart; give the streams {first.name} and {entry.name} one `domain`"
        )


def _same_objects(name: str, objects: _Objects, pasted: Mapping[str, _Objects]) -> Iterator[str]:
    streams = [stream for stream, others in pasted.items() if objects.meets(others)]
    if streams:
        yield (
            f"set {name} pastes objects that {', '.join(streams)} train{'s' * (len(streams) == 1)} on: none of them is "
            "unseen; paste those of another split there, or other categories (paste.include, paste.exclude)"
        )


def _entries(config: Config) -> Iterator[tuple[KeyPath, StreamConfig | EvaluationSetConfig]]:
    for i, stream in enumerate(config.data.streams):
        yield ("data", "streams", i), stream
    for i, entry in enumerate(config.evaluation.sets):
        yield ("evaluation", "sets", i), entry
    if config.checkpoint.best is not None:
        yield ("checkpoint", "best", "set"), config.checkpoint.best.set

"""Evaluation sets: their shards, the objects pasted into them, their frames, and the record of which data it was."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from mgcda_dist.choices import ANOMALY, INLIER
from mgcda_dist.data.dataset import DatasetReader, LabelIds, MapDataset, make_dataset
from mgcda_dist.data.folders import label_table, open_shards, paste_source
from mgcda_dist.data.frames import EvaluationFrames
from mgcda_dist.data.labels import CATEGORIES, ClassSpace
from mgcda_dist.data.paste import PasteParams
from mgcda_dist.data.pixels import OWN_SIZE, InputSize
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.evaluation.results import SetData

__all__ = ["DatasetOfSet", "EvaluationSet", "PastedObjects", "evaluation_frames", "set_data"]


@dataclass(frozen=True)
class PastedObjects:
    """Held-out objects that are pasted into frames, the same ones every time.

    Attributes:
        params: the folder of objects, and how they are pasted.
        include: categories of objects to paste; none: all.
        exclude: categories never to paste.
    """

    params: PasteParams
    include: list[str] = field(default_factory=list[str])
    exclude: list[str] = field(default_factory=list[str])


@dataclass(frozen=True)
class DatasetOfSet:
    """A Dataset of the user's program, and the ids of its labels.

    Attributes:
        reference: `python:MODULE:NAME`.
        arguments: of the class or function it names.
        label_format: None: train ids of the network's classes.
        num_classes: of the network; 0: scores come without classes.
    """

    reference: str
    arguments: dict[str, Any] = field(default_factory=dict[str, Any])
    label_format: str | None = None
    num_classes: int = 0

    def reader(self, where: str, class_space: str | ClassSpace | None) -> DatasetReader:
        """The frames of a set; without classes, only anomaly, void and the rest are told apart."""
        if self.label_format is None:
            ids = LabelIds.train_ids(self.num_classes or INLIER)
        else:
            ids = LabelIds.of_format(self.label_format, class_space or "cityscapes19")
        return DatasetReader(self.made(where), where, ids)

    def made(self, where: str) -> MapDataset:
        """The Dataset."""
        return make_dataset(where, self.reference, self.arguments)


@dataclass(frozen=True)
class EvaluationSet:
    """An evaluation set.

    Attributes:
        name: shown in tables, and of its folder of results.
        shards: folder or URL of frames; empty: see `dataset`.
        max_frames: the first frames only; None: all.
        paste: None: frames as they are.
        dataset: frames that are in no shards.
    """

    name: str
    shards: str
    max_frames: int | None = None
    paste: PastedObjects | None = None
    dataset: DatasetOfSet | None = None


def evaluation_frames(
    entry: EvaluationSet, class_space: str | ClassSpace | None, size: InputSize = OWN_SIZE, seed: int = 0
) -> EvaluationFrames:
    """The frames of one evaluation set.

    Args:
        class_space: of the labels; None: scores come without classes, so only anomaly, void and the rest are told
            apart, and nothing is pasted.
        size: that images are brought to for the network.
        seed: of pasted objects.

    Raises:
        ShardError: shards that cannot be read, or hold no frames.
        ConfigError: labels that the class space cannot read.
    """
    if entry.dataset is not None:
        return _dataset_frames(entry, entry.dataset, class_space, size, seed)
    manifest = open_shards(entry.shards, "frames")
    table = label_table(manifest, class_space or "cityscapes19")
    paste = None if class_space is None else entry.paste
    anomalies = [raw for raw in manifest.label_histogram if table[raw] == ANOMALY]
    names = CATEGORIES.get(manifest.label_format, {})
    return EvaluationFrames(
        manifest,
        table,
        None if paste is None else paste_source(paste.params, paste.include, paste.exclude),
        size,
        entry.max_frames,
        seed,
        {raw: names.get(raw, f"id {raw}") for raw in anomalies} if len(anomalies) > 1 else None,
    )


def _dataset_frames(
    entry: EvaluationSet, dataset: DatasetOfSet, class_space: str | ClassSpace | None, size: InputSize, seed: int
) -> EvaluationFrames:
    reader = dataset.reader(f"set {entry.name}", class_space)
    paste = None if class_space is None else entry.paste
    source = None if paste is None else paste_source(paste.params, paste.include, paste.exclude)
    return EvaluationFrames(reader, reader.ids.table, source, size, entry.max_frames, seed)


def set_data(entry: EvaluationSet) -> SetData:
    """The record of which data a set is.

    Raises:
        ConfigError: no Dataset of that name.
        ShardError: shards that cannot be read; a Dataset that does not answer the same twice.
    """
    paste = None
    if entry.paste is not None:
        params = asdict(entry.paste.params)
        how = {key: value for key, value in params.items() if key not in ("objects", "road")}
        how |= {"scale": list(entry.paste.params.scale), "include": entry.paste.include, "exclude": entry.paste.exclude}
        paste = how | {"objects_digest": Manifest.open(entry.paste.params.objects).digest}
    if entry.dataset is not None:
        reader = DatasetReader(entry.dataset.made(f"set {entry.name}"), f"set {entry.name}", LabelIds({}, "", ""))
        return SetData(type(reader.dataset).__name__, "", reader.digest(), entry.max_frames, paste)
    manifest = Manifest.open(entry.shards)
    return SetData(manifest.dataset, manifest.split, manifest.digest, entry.max_frames, paste)

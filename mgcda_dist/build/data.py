"""Configuration → inputs of a run, class space, pasted objects and the training stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mgcda_dist.choices import CLASS_SPACES, NO_CLASS, VOID
from mgcda_dist.config.data import DataConfig, PasteConfig, StreamConfig
from mgcda_dist.config.run import EvaluationSetConfig
from mgcda_dist.config.schema import Config
from mgcda_dist.data.inputs import Role, RunInput
from mgcda_dist.data.labels import ClassSpace

if TYPE_CHECKING:
    from mgcda_dist.data.augment import Transform
    from mgcda_dist.data.dataset import DatasetReader
    from mgcda_dist.data.loader import StreamLoader
    from mgcda_dist.data.own_augment import OwnAugment
    from mgcda_dist.data.paste import PasteParams, PasteSource
    from mgcda_dist.data.plan import Plan
    from mgcda_dist.data.stream import FrameSource
    from mgcda_dist.method.batch import Batch

__all__ = [
    "class_space",
    "dataset_reader",
    "global_batches",
    "own_augmentations",
    "paste_params",
    "road_ids",
    "run_inputs",
    "scene_batches",
    "training_stream",
]


def class_space(data: DataConfig) -> str | ClassSpace:
    """The class space as the label tables take it."""
    space = data.class_space
    if isinstance(space, str):
        return space
    train_ids = {name: i for i, name in enumerate(space.names)} | NO_CLASS
    known = CLASS_SPACES[space.based_on] if space.based_on else ()
    return ClassSpace(
        space.based_on,
        {i: train_ids[space.map.get(name, name)] for i, name in enumerate(known)},
        {form: {raw: train_ids[name] for raw, name in table.items()} for form, table in space.ids.items()},
    )


def road_ids(data: DataConfig) -> tuple[int, ...]:
    """Train ids of the classes that objects stand on."""
    return tuple(data.class_names.index(name) for name in data.road_classes)


def training_stream(
    config: Config, rank: int, world_size: int, *, start_step: int = 0, on_gpu: bool = False
) -> StreamLoader:
    """This rank's loader over the micro-batches from `start_step` to the last step.

    Args:
        on_gpu: its batches go to a GPU: they are in page-locked memory, if `data.pin_memory` does not say otherwise.
    """
    from mgcda_dist.data.loader import make_loader
    from mgcda_dist.data.stream import TrainingStream

    data = config.data
    stream = TrainingStream(
        *_streamed(config),
        rank=rank,
        world_size=world_size,
        accumulation=config.engine.accumulation,
        start_step=start_step,
        num_steps=max(config.optim.steps - start_step, 0),
        on_bad_sample=data.on_bad_sample,
        weak_views=config.teacher.is_asked,
    )
    is_pinned = on_gpu if data.pin_memory is None else data.pin_memory
    return make_loader(stream, data.loader_workers, data.prefetch_steps, is_pinned, data.loader_timeout_s)


def global_batches(config: Config, num_steps: int) -> Iterator[Batch]:
    """The first global batches of a run, whole, read in this process."""
    from mgcda_dist.data.stream import TrainingStream

    stream = TrainingStream(*_streamed(config), num_steps=num_steps, on_bad_sample=config.data.on_bad_sample)
    return (stream[step] for step in range(num_steps))


def scene_batches(config: Config, num_steps: int) -> Iterator[Batch]:
    """Like `global_batches`, of the scenes alone: no pasted objects, no pixels or colours of another image.

    Of runs that differ in how they are trained, but not in their streams and seed, these are the same images.
    """
    data = config.data
    streams = [stream.model_copy(update={"paste": None}) for stream in data.streams]
    augment = data.augment.model_copy(update={"class_mix": 0.0, "style": 0.0, "own": []})
    plain = data.model_copy(update={"streams": streams, "augment": augment})
    return global_batches(config.model_copy(update={"data": plain}), num_steps)


def _streamed(config: Config) -> tuple[Plan, list[FrameSource], Transform]:
    """The plan of the samples, their sources, and the transform of each."""
    from mgcda_dist.data.augment import AugmentParams, Transform
    from mgcda_dist.data.folders import label_table, open_shards
    from mgcda_dist.data.plan import Plan, StreamPlan
    from mgcda_dist.data.reader import ShardReader
    from mgcda_dist.data.stream import FrameSource

    data = config.data
    plans: list[StreamPlan] = []
    sources: list[FrameSource] = []
    for stream in data.streams:
        if stream.shards is None:
            reader = dataset_reader(stream, data)
            sizes, table = reader.shard_sizes, reader.ids.table
        else:
            manifest = open_shards(stream.shards, "frames")
            reader, sizes = ShardReader(manifest), manifest.shard_sizes
            # The table of a stream without labels is never read, and its labels may hold any ids.
            table = label_table(manifest, class_space(data)) if stream.labelled else np.full(256, VOID, np.uint8)
        plans.append(StreamPlan(stream.name, sizes, stream.per_step))
        paste, domain = _paste(stream.paste, data), data.domains.index(stream.domain_name)
        sources.append(FrameSource(stream.name, reader, table, stream.labelled, paste, domain))
    plan = Plan(plans, config.seed, data.window_shards, data.shard_groups)
    params = AugmentParams(**data.augment.model_dump(exclude={"own"}))
    return plan, sources, Transform(data.crop_px, params, own_augmentations(data))


def own_augmentations(data: DataConfig) -> tuple[OwnAugment, ...]:
    """The changes of crops that are the user's own, not yet imported."""
    from mgcda_dist.data.own_augment import OwnAugment

    where = "data.augment.own"
    return tuple(OwnAugment(each.use, each.arguments, f"{where}.{i}") for i, each in enumerate(data.augment.own))


def dataset_reader(entry: StreamConfig | EvaluationSetConfig, data: DataConfig) -> DatasetReader:
    """The frames of a stream or evaluation set that reads a Dataset.

    Raises:
        ConfigError: no map-style Dataset of that name, or ids that the class space cannot read.
        ShardError: a Dataset without an item.
    """
    from mgcda_dist.data.dataset import DatasetReader, LabelIds, make_dataset

    assert entry.dataset is not None
    where = f"{'stream' if isinstance(entry, StreamConfig) else 'set'} {entry.name}"
    if entry.label_format is None or (isinstance(entry, StreamConfig) and not entry.labelled):
        ids = LabelIds.train_ids(len(data.class_names))
    else:
        ids = LabelIds.of_format(entry.label_format, class_space(data))
    return DatasetReader(make_dataset(where, entry.dataset, entry.dataset_arguments), where, ids)


def run_inputs(config: Config) -> list[RunInput]:
    """The data that a run reads, with the identity of its content: folders of shards, and Datasets.

    Raises:
        ConfigError: no Dataset of that name.
        ShardError: a damaged manifest, objects where frames are read, or the reverse; a Dataset that does not answer
            the same twice.
    """
    found = _inputs(config)
    for phase in config.training_phases[:-1]:
        for each in _inputs(phase.config):
            known = {one.key: one for one in found}
            if known.get(each.key) == each:
                continue
            found.append(replace(each, name=f"{phase.name}/{each.name}") if each.key in known else each)
    return found


def _inputs(config: Config) -> list[RunInput]:
    """`run_inputs` of one phase."""
    validation = [config.checkpoint.best.set] if config.checkpoint.best is not None else []
    parts: list[tuple[Role, Role, Sequence[StreamConfig | EvaluationSetConfig]]] = [
        (Role.TRAIN, Role.PASTE, config.data.streams),
        (Role.EVAL, Role.EVAL_PASTE, config.evaluation.sets),
        (Role.VALIDATION, Role.VALIDATION_PASTE, validation),
    ]
    inputs: list[RunInput] = []
    for frames, objects, entries in parts:
        inputs += [_frames_input(frames, entry, config.data) for entry in entries]
        inputs += [_shards_input(objects, entry.name, entry.paste.objects) for entry in entries if entry.paste]
    return inputs


def _frames_input(role: Role, entry: StreamConfig | EvaluationSetConfig, data: DataConfig) -> RunInput:
    if entry.shards is not None:
        return _shards_input(role, entry.name, entry.shards)
    reader = dataset_reader(entry, data)
    made = type(reader.dataset).__name__
    return RunInput(role, entry.name, str(entry.dataset), made, "", len(reader), 0, reader.digest())


def _shards_input(role: Role, name: str, folder: str) -> RunInput:
    from mgcda_dist.data.folders import open_shards

    m = open_shards(folder, role.kind)
    return RunInput(role, name, m.place, m.dataset, m.split, m.num_samples, m.num_shards, m.digest)


def paste_params(section: PasteConfig, data: DataConfig) -> PasteParams:
    """Parameters of pasting for the data path, without the chosen categories."""
    from mgcda_dist.data.paste import PasteParams

    return PasteParams(**section.model_dump(exclude={"include", "exclude"}), road=road_ids(data))


def _paste(section: PasteConfig | None, data: DataConfig) -> PasteSource | None:
    if section is None:
        return None
    from mgcda_dist.data.folders import paste_source

    return paste_source(paste_params(section, data), section.include, section.exclude)

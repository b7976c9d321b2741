"""Configuration → manifests, label tables, the training stream and evaluation frames."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.choices import ANOMALY, CLASS_SPACES, NO_CLASS, VOID, ShardKind
from mgcda_dist.config.data import DataConfig, PasteConfig
from mgcda_dist.config.run import EvaluationSetConfig
from mgcda_dist.config.schema import Config
from mgcda_dist.data.labels import ClassSpace, lookup_table, mapped_ids
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.errors import ConfigError, ShardError

if TYPE_CHECKING:
    from mgcda_dist.data.frames import EvaluationFrames
    from mgcda_dist.data.loader import StreamLoader
    from mgcda_dist.data.paste import PasteSource

__all__ = [
    "class_space",
    "evaluation_frames",
    "label_pixels",
    "label_table",
    "manifests",
    "open_shards",
    "road_ids",
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


def open_shards(folder: str, kind: ShardKind) -> Manifest:
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


def training_stream(config: Config, rank: int, world_size: int, *, start_step: int = 0) -> StreamLoader:
    """This rank's loader over the micro-batches from `start_step` to the last step."""
    from mgcda_dist.data.augment import AugmentParams, Transform
    from mgcda_dist.data.loader import DomainSource, TrainingStream, make_loader
    from mgcda_dist.data.plan import DomainPlan, Plan
    from mgcda_dist.data.reader import ShardReader

    data = config.data
    manifests = [open_shards(domain.shards, "frames") for domain in data.domains]
    plan = Plan(
        [DomainPlan(d.name, m.shard_sizes, d.per_step) for d, m in zip(data.domains, manifests, strict=True)],
        config.seed,
        data.window_shards,
    )
    # Nobody asks for the table of a domain whose labels are not read; its ids may be any.
    tables = {
        d.name: label_table(m, data) if d.labelled else np.full(256, VOID, np.uint8)
        for d, m in zip(data.domains, manifests, strict=True)
    }
    sources = [
        DomainSource(d.name, ShardReader(m), tables[d.name], d.labelled, _paste(d.paste, data))
        for d, m in zip(data.domains, manifests, strict=True)
    ]
    stream = TrainingStream(
        plan,
        sources,
        Transform(data.crop_px, AugmentParams(**data.augment.model_dump())),
        rank=rank,
        world_size=world_size,
        accumulation=config.engine.accumulation,
        start_step=start_step,
        num_steps=max(config.optim.steps - start_step, 0),
        on_bad_sample=data.on_bad_sample,
    )
    return make_loader(stream, data.loader_workers, data.prefetch_steps, data.pin_memory, data.loader_timeout_s)


def evaluation_frames(
    entry: EvaluationSetConfig, data: DataConfig | None, height_px: int | None = None, seed: int = 0
) -> EvaluationFrames:
    """The frames of one evaluation set.

    Args:
        entry: the set.
        data: has the class space; None: nobody asks for classes, only for anomaly, void, and the rest. No pasting then.
        height_px: height of the network's input; None: as is.
        seed: of pasted objects.
    """
    from mgcda_dist.data.frames import EvaluationFrames
    from mgcda_dist.data.labels import CATEGORIES, lookup_table

    manifest = open_shards(entry.shards, "frames")
    table = lookup_table(manifest.label_format, "cityscapes19") if data is None else label_table(manifest, data)
    anomalies = [raw for raw in manifest.label_histogram if table[raw] == ANOMALY]
    names = CATEGORIES.get(manifest.label_format, {})
    return EvaluationFrames(
        manifest,
        table,
        None if data is None else _paste(entry.paste, data),
        height_px,
        entry.max_frames,
        seed,
        {raw: names.get(raw, f"id {raw}") for raw in anomalies} if len(anomalies) > 1 else None,
    )


def manifests(config: Config) -> dict[str, dict[str, Any]]:
    """What the run reads, for the record: per domain and set, the manifest's identity.

    Raises:
        ShardError: a damaged manifest, or objects where frames are read, or the reverse.
    """
    folders = {f"train/{d.name}": d.shards for d in config.data.domains}
    folders |= {f"paste/{d.name}": d.paste.objects for d in config.data.domains if d.paste}
    folders |= {f"eval/{entry.name}": entry.shards for entry in config.evaluation.sets}
    folders |= {f"eval_paste/{entry.name}": entry.paste.objects for entry in config.evaluation.sets if entry.paste}
    if config.checkpoint.best is not None:
        entry = config.checkpoint.best.set
        folders[f"eval_validation/{entry.name}"] = entry.shards
        folders |= {f"eval_validation_paste/{entry.name}": entry.paste.objects} if entry.paste else {}
    found = {name: open_shards(folder, "objects" if "paste/" in name else "frames") for name, folder in folders.items()}
    return {
        name: {
            "folder": m.place,
            "dataset": m.dataset,
            "split": m.split,
            "samples": m.num_samples,
            "shards": m.num_shards,
            "digest": m.digest,
        }
        for name, m in found.items()
    }


def _paste(section: PasteConfig | None, data: DataConfig) -> PasteSource | None:
    if section is None:
        return None
    from mgcda_dist.data.paste import ObjectLibrary, PasteParams, PasteSource
    from mgcda_dist.data.reader import ShardReader
    from mgcda_dist.data.shards.categories import choose_objects

    manifest = open_shards(section.objects, "objects")
    library = ObjectLibrary(ShardReader(manifest), numbers=choose_objects(manifest, section.include, section.exclude))
    params = section.model_dump(exclude={"include", "exclude"})
    return PasteSource(library, PasteParams(**params, road=road_ids(data)))

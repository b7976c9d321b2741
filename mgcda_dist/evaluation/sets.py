"""Evaluation sets: their shards, the objects pasted into them, their frames, and the record of which data it was."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from mgcda_dist.choices import ANOMALY
from mgcda_dist.data.folders import label_table, open_shards, paste_source
from mgcda_dist.data.frames import EvaluationFrames
from mgcda_dist.data.labels import CATEGORIES, ClassSpace, lookup_table
from mgcda_dist.data.paste import PasteParams
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.evaluation.results import SetData

__all__ = ["EvaluationSet", "PastedObjects", "evaluation_frames", "set_data"]


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
class EvaluationSet:
    """An evaluation set.

    Attributes:
        name: shown in tables, and of its folder of results.
        shards: folder or URL of frames.
        max_frames: the first frames only; None: all.
        paste: None: frames as they are.
    """

    name: str
    shards: str
    max_frames: int | None = None
    paste: PastedObjects | None = None


def evaluation_frames(
    entry: EvaluationSet, class_space: str | ClassSpace | None, height_px: int | None = None, seed: int = 0
) -> EvaluationFrames:
    """The frames of one evaluation set.

    Args:
        class_space: of the labels; None: scores come without classes, so only anomaly, void and the rest are told
            apart, and nothing is pasted.
        height_px: height of the network's input; None: as is.
        seed: of pasted objects.

    Raises:
        ShardError: shards that cannot be read, or hold no frames.
        ConfigError: labels that the class space cannot read.
    """
    manifest = open_shards(entry.shards, "frames")
    if class_space is None:
        table = lookup_table(manifest.label_format, "cityscapes19")
    else:
        table = label_table(manifest, class_space)
    paste = None if class_space is None else entry.paste
    anomalies = [raw for raw in manifest.label_histogram if table[raw] == ANOMALY]
    names = CATEGORIES.get(manifest.label_format, {})
    return EvaluationFrames(
        manifest,
        table,
        None if paste is None else paste_source(paste.params, paste.include, paste.exclude),
        height_px,
        entry.max_frames,
        seed,
        {raw: names.get(raw, f"id {raw}") for raw in anomalies} if len(anomalies) > 1 else None,
    )


def set_data(entry: EvaluationSet) -> SetData:
    """The record of which data a set is.

    Raises:
        ShardError: shards that cannot be read.
    """
    manifest, paste = Manifest.open(entry.shards), None
    if entry.paste is not None:
        params = asdict(entry.paste.params)
        how = {key: value for key, value in params.items() if key not in ("objects", "road")}
        how |= {"scale": list(entry.paste.params.scale), "include": entry.paste.include, "exclude": entry.paste.exclude}
        paste = how | {"objects_digest": Manifest.open(entry.paste.params.objects).digest}
    return SetData(manifest.dataset, manifest.split, manifest.digest, entry.max_frames, paste)

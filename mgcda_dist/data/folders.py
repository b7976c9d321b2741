"""Shard folders opened for reading: the kind is checked, labels get their table of train ids, objects are chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.choices import ShardKind
from mgcda_dist.data.labels import ClassSpace, lookup_table, mapped_ids
from mgcda_dist.data.paste import ObjectLibrary, PasteParams, PasteSource
from mgcda_dist.data.reader import ShardReader
from mgcda_dist.data.shards.categories import choose_objects
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.errors import ConfigError, ShardError

__all__ = ["label_pixels", "label_table", "open_shards", "paste_source"]


def open_shards(folder: str, kind: ShardKind) -> Manifest:
    """The manifest of a folder that must hold this kind.

    Raises:
        ShardError: no readable manifest, or the other kind.
    """
    manifest = Manifest.open(folder)
    if manifest.kind != kind:
        wanted = "a stream or an evaluation set reads frames" if kind == "frames" else "pasting reads objects"
        problem = f"holds {manifest.kind}, but {wanted}"
        raise ShardError(manifest.place, problem, "`mgcda shards ls` shows what a folder holds")
    return manifest


def label_table(manifest: Manifest, class_space: str | ClassSpace) -> NDArray[np.uint8]:
    """Train id by raw id, 256 bytes.

    Raises:
        ConfigError: the class space cannot read the labels, or they hold ids that neither it nor their format knows.
    """
    label_pixels(manifest, class_space)
    return lookup_table(manifest.label_format, class_space)


def label_pixels(manifest: Manifest, class_space: str | ClassSpace) -> Counter[int]:
    """Pixels per train id over all labels of a folder, by the manifest's histogram.

    Raises:
        ConfigError: as `label_table`.
    """
    form, histogram = manifest.label_format, manifest.label_histogram
    mapped = mapped_ids(form, class_space)
    unknown = sorted(histogram.keys() - mapped.keys())
    if unknown:
        share = sum(histogram[raw] for raw in unknown) / sum(histogram.values())
        listing = ", ".join(map(str, unknown[:8])) + (" …" if len(unknown) > 8 else "")
        problem = f"{share:.2%} of the labels' pixels have ids that {form} does not know: {listing}"
        remedy = f"say in data.class_space.ids.{form} what they are (`void` if nothing)"
        remedy = f"write the shards anew with the right `label_format` of `mgcda shards write`, or {remedy}"
        raise ConfigError(manifest.place, problem, remedy)
    pixels: Counter[int] = Counter()
    for raw, count in histogram.items():
        pixels[mapped[raw]] += count
    return pixels


def paste_source(params: PasteParams, include: Collection[str] = (), exclude: Collection[str] = ()) -> PasteSource:
    """Objects of the folder `params.objects`, ready to be pasted.

    Args:
        include: categories to paste; none: all.
        exclude: categories never to paste.

    Raises:
        ShardError: no object shards there, or no such categories.
    """
    manifest = open_shards(params.objects, "objects")
    library = ObjectLibrary(ShardReader(manifest), numbers=choose_objects(manifest, include, exclude))
    return PasteSource(library, params)

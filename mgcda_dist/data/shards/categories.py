"""Choosing objects to paste by the categories in the sample tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.errors import ShardError

__all__ = ["choose_objects"]


def choose_objects(
    manifest: Manifest, include: Collection[str] = (), exclude: Collection[str] = ()
) -> NDArray[np.int64] | None:
    """Flat indices of the chosen objects; None: all of them, without reading a table.

    Args:
        manifest: of object shards.
        include: categories to take; none: all.
        exclude: categories to leave out.

    Raises:
        ShardError: the tables name no categories, a category that no object has, or nothing is left.
    """
    if not include and not exclude:
        return None
    names: list[str] = []
    for shard in range(manifest.num_shards):
        index = manifest.shard_index(shard)
        if "category" not in (index.dtype.names or ()):
            remedy = "write them again with `mgcda shards write` or `index`, from a source that has categories"
            raise ShardError(manifest.place, "its sample tables name no categories", remedy)
        names += [name.decode() for name in index["category"].tolist()]
    counts = Counter(names)
    unknown = sorted({*include, *exclude} - counts.keys())
    if unknown:
        near = [f"did you mean {name}? " for name in get_close_matches(unknown[0], counts, 1)]
        listing = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        problem = f"no object of category {unknown[0]!r}"
        raise ShardError(manifest.place, problem, f"{''.join(near)}there are {listing}")
    wanted = set(include or counts) - set(exclude)
    chosen = np.flatnonzero([name in wanted for name in names])
    if not len(chosen):
        raise ShardError(manifest.place, "no object is left to paste", "include more, or exclude less")
    return chosen.astype(np.int64)

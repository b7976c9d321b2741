"""Datasets of a user's program: the frames of `tests.support.shards`, and what users get wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Dataset, IterableDataset

from mgcda_dist.data.decode import decode_image
from mgcda_dist.data.pixels import Pixels
from mgcda_dist.data.reader import ShardReader
from mgcda_dist.data.shards.manifest import Manifest
from tests.support.shards import encoded, frame

__all__ = ["ITEMS", "Broken", "Drawn", "Endless", "Frames", "OfShards", "Stream", "frames"]


class Frames(Dataset[Any]):
    """The frames that `write_frames` writes with this number and seed, decoded; `road8` ids.

    Args:
        damaged: items that raise an error.
        labelled: False: their label is None.
    """

    def __init__(self, number: int, seed: int = 0, damaged: tuple[int, ...] = (), labelled: bool = True) -> None:
        self.number, self.seed, self.damaged, self.labelled = number, seed, damaged, labelled

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> tuple[Pixels, Pixels | None]:
        if index in self.damaged:
            raise OSError(f"cannot read frame {index}")
        image, label = frame(1000 * self.seed + index)
        return decode_image(encoded(image, ".jpg"), "frame"), label if self.labelled else None


class Drawn(Frames):
    """Another image at every reading."""

    def __getitem__(self, index: int) -> tuple[Pixels, Pixels | None]:
        image, label = super().__getitem__(index)
        return np.random.default_rng().integers(0, 256, image.shape, np.uint8), label


class Endless(Dataset[Any]):
    """A Dataset whose length nobody wrote."""

    def __getitem__(self, index: int) -> tuple[Pixels, Pixels]:
        return frame(index)


class OfShards(Dataset[Any]):
    """The frames of a folder of shards, decoded, as mappings."""

    def __init__(self, folder: str) -> None:
        self.reader = ShardReader(Manifest.open(folder))

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> dict[str, Pixels | None]:
        raw = self.reader.frame(index)
        return {"image": raw.image, "label": raw.ids}


class Broken(Frames):
    """A Dataset that cannot be made."""

    def __init__(self, root: str) -> None:
        raise FileNotFoundError(f"no folder {root}")


class Stream(IterableDataset[Any]):
    """Frames without an index."""

    def __iter__(self) -> Iterator[Any]:
        return iter(ITEMS)


def frames(number: int, **options: Any) -> Frames:
    """A function that makes a Dataset."""
    return Frames(number, **options)


ITEMS = [frame(number) for number in range(3)]

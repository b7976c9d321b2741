"""Evaluation frames by number: whole frames in a fixed order, with the same objects pasted into them every time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.data.augment import Paste
from mgcda_dist.data.items import key_of
from mgcda_dist.data.pixels import OWN_SIZE, InputSize, Pixels
from mgcda_dist.data.reader import FrameReader, ShardReader
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.method.batch import VOID
from mgcda_dist.method.randomness import numpy_generator

__all__ = ["EvaluationFrames", "Frame"]


class Frame(NamedTuple):
    """One frame to be evaluated."""

    image: Pixels
    """height×width×3 at the network's size, RGB."""
    label: Pixels
    """H×W train ids at the frame's own size, all VOID when the frame has no label."""
    key: str
    category: Pixels | None = None
    """H×W raw ids at the frame's own size, where the set distinguishes kinds of anomalies."""


class EvaluationFrames:
    """The frames of a shard folder, in shard order, or of a Dataset. Item i is a function of (data, seed, i).

    Args:
        data: the manifest of the folder, or a reader of other frames, whose keys are their numbers.
        lut: 256 train ids by raw id.
        paste: puts objects into the frame at its own size; None: frames as they are.
        size: that images are brought to.
        max_frames: first frames only; None: all.
        seed: of the pasted objects.
        categories: raw id → kind of anomaly, for results per kind; None: there is only one.
    """

    def __init__(
        self,
        data: Manifest | FrameReader,
        lut: NDArray[np.uint8],
        paste: Paste | None = None,
        size: InputSize = OWN_SIZE,
        max_frames: int | None = None,
        seed: int = 0,
        categories: dict[int, str] | None = None,
    ) -> None:
        self.manifest = data if isinstance(data, Manifest) else None
        self.lut, self.paste, self.size, self.seed = lut, paste, size, seed
        self.categories = categories
        self.reader: FrameReader = ShardReader(data) if isinstance(data, Manifest) else data
        self._length = len(self.reader) if max_frames is None else min(max_frames, len(self.reader))

    def __len__(self) -> int:
        return self._length

    @property
    def keys(self) -> list[str]:
        """Keys of the frames, in order."""
        if self.manifest is None:
            return [key_of(index) for index in range(self._length)]
        names: list[str] = []
        for shard in range(self.manifest.num_shards):
            if len(names) >= self._length:
                break
            names += [key.decode() for key in self.manifest.shard_index(shard)["key"].tolist()]
        return names[: self._length]

    def __getitem__(self, index: int) -> Frame:
        """The frame with this number.

        Raises:
            IndexError: no such frame.
            ShardError: the sample cannot be read, or image and label differ in size.
        """
        if not 0 <= index < self._length:
            raise IndexError(f"frame {index} of {self._length}")
        key, image, ids, _ = self.reader.frame(index)
        label = np.full(image.shape[:2], VOID, np.uint8) if ids is None else self.lut[ids]
        if self.paste is not None:
            image, label = self.paste(image, label, numpy_generator(self.seed, "evaluation paste", index))
        image = self.size.applied(image)
        if not image.flags.writeable:  # the memory of a Dataset, which networks may not be given
            image = image.copy()
        return Frame(image, label, key, ids if self.categories is not None else None)

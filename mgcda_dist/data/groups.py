"""The order of a stream's samples in groups: every slot of the batch reads from one group, so a node needs few shards.

Epoch e permutes the shards and cuts their N samples, in that order, in G groups of equal size, to within one sample and
through a shard where it must be. Of the p turns of a stream in a step the first p/G read from group 0, the next from
group 1, and so on; a rank has neighbouring slots, whose turns neighbour each other, so it reads from its groups alone.
Group g has given c(e, g) = ⌊(e·N + g)/G⌋ samples before epoch e. By Hermite's identity these add up to e·N: every
sample comes once per epoch, whatever the shards' sizes, and no group runs ahead of another by more than one sample.
Inside a group windows of shards are shuffled as those of a whole epoch are (`plan`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.data.lru_cache import LruCache
from mgcda_dist.method.randomness import numpy_generator

__all__ = ["GroupedOrder"]


class _Epoch(NamedTuple):
    shards: NDArray[np.int64]  # num_shards: the permuted shard numbers
    ends: NDArray[np.int64]  # num_shards: samples up to the end of each


class _Group(NamedTuple):
    first_shard: int  # position in the permuted shards
    starts: NDArray[np.int64]  # num_windows + 1: samples of the epoch in front of each window


class GroupedOrder:
    """The endless order of the samples of one stream, in groups.

    Args:
        name: of the stream, keys the draws.
        sizes: samples per shard, N > 0 in all.
        per_step: p, images of the stream in every step, a multiple of `num_groups`.
        num_groups: G.
    """

    def __init__(
        self, name: str, sizes: NDArray[np.integer], per_step: int, num_groups: int, seed: int, window_shards: int
    ) -> None:
        self.name, self.seed, self.window_shards, self.num_groups = name, seed, window_shards, num_groups
        self.sizes, self.per_step = sizes, per_step
        ends = np.cumsum(sizes, dtype=np.int64)
        self.num_samples = int(ends[-1])
        self.first = ends - sizes  # flat index of each shard's first sample
        self._epochs: LruCache[int, _Epoch] = LruCache(self._make_epoch, limit=2)
        # A process may read from all groups, each of which may straddle two epochs and two windows.
        self._groups: LruCache[tuple[int, int], _Group] = LruCache(self._make_group, limit=2 * num_groups)
        self._windows: LruCache[tuple[int, int, int], NDArray[np.int64]] = LruCache(
            self._make_window, limit=3 * num_groups
        )

    def sample(self, position: int) -> int:
        """Flat index of the sample at `position` of the stream."""
        step, turn = divmod(position, self.per_step)
        turns = self.per_step // self.num_groups
        group, place = divmod(turn, turns)
        draw = step * turns + place  # of this group
        epoch = ((draw + 1) * self.num_groups - 1 - group) // self.num_samples
        offset = self._begin(epoch, group) + draw - self._given(epoch, group)
        starts = self._groups[epoch, group].starts
        window = int(np.searchsorted(starts, offset, side="right")) - 1
        return int(self._windows[epoch, group, window][offset - int(starts[window])])

    def _given(self, epoch: int, group: int) -> int:
        """c(e, g)."""
        return (epoch * self.num_samples + group) // self.num_groups

    def _begin(self, epoch: int, group: int) -> int:
        """Samples of the epoch in front of the group: the sum of c(e+1, ·) - c(e, ·) over the groups before it."""
        return self._given_before(epoch + 1, group) - self._given_before(epoch, group)

    def _given_before(self, epoch: int, group: int) -> int:
        """Sum of c(e, ·) over the groups before one: ⌊e·N/G⌋ of each, and one more of the last e·N mod G groups."""
        each, more = divmod(epoch * self.num_samples, self.num_groups)
        return group * each + max(0, group - (self.num_groups - more))

    def _make_epoch(self, epoch: int) -> _Epoch:
        shards = numpy_generator(self.seed, self.name, epoch, "shards").permutation(len(self.sizes))
        return _Epoch(shards, np.cumsum(self.sizes[shards], dtype=np.int64))

    def _make_group(self, key: tuple[int, int]) -> _Group:
        epoch, group = key
        begin, end = self._begin(epoch, group), self._begin(epoch, group + 1)
        ends = self._epochs[epoch].ends
        first, last = (int(np.searchsorted(ends, sample, side="right")) for sample in (begin, end - 1))
        borders = ends[first + self.window_shards - 1 : last : self.window_shards]
        return _Group(first, np.concatenate([[begin], borders, [end]]))

    def _make_window(self, key: tuple[int, int, int]) -> NDArray[np.int64]:
        epoch, group, window = key
        (shards, ends), (first_shard, starts) = self._epochs[epoch], self._groups[epoch, group]
        first = first_shard + window * self.window_shards
        samples: list[NDArray[np.int64]] = []
        for shard, end in zip(*(of[first : first + self.window_shards].tolist() for of in (shards, ends)), strict=True):
            size = int(self.sizes[shard])
            inside = np.clip(starts[window : window + 2] - (end - size), 0, size)
            samples.append(self.first[shard] + np.arange(inside[0], inside[1]))
        joined = np.concatenate(samples)
        return joined[numpy_generator(self.seed, self.name, epoch, group, window, "window").permutation(len(joined))]

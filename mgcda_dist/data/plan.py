"""The samples of global batch t: a pure function of (seed, streams, t), in integers, without IO.

A stream's samples are numbered through its shard table (*flat index*). Epoch e permutes the shards, cuts them in
windows of `window_shards` consecutive ones, and permutes the samples inside each window: neighbours in the stream come
from few shards, so reading stays local, and every sample comes exactly once per epoch. Position n of an endless stream
is sample n mod size of epoch n // size, and step t takes positions t·per_step … (t+1)·per_step - 1. Nothing is
carried from step to step: step 10⁹ costs as much as step 0, a resumed run starts at t, and memory holds the shard table
and the permutations in use (docs/data-path.md).

The global batch is one list of B slots. It is cut into contiguous pieces for ranks and micro-batches (`slots_of`), so
every number of ranks reads the same batch. With `groups` above 1 each slot reads from one group of shards
(`data.groups`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.data.groups import GroupedOrder
from mgcda_dist.data.lru_cache import LruCache
from mgcda_dist.errors import ConfigError, ShardError
from mgcda_dist.method.randomness import numpy_generator

__all__ = ["Plan", "SlotRef", "StreamPlan", "slots_of"]


class SlotRef(NamedTuple):
    """The sample in one slot of the global batch."""

    slot: int
    """Position in the global batch, 0…B-1."""
    stream: int
    """Index of the stream."""
    sample: int
    """Flat index within the stream's shards."""


@dataclass(frozen=True, eq=False)
class StreamPlan:
    """The part of one stream in every step.

    Attributes:
        name: keys the stream's random draws; two streams over the same shards get different orders.
        shard_sizes: samples per shard, integers, in the order of the shard table; a memory map is fine.
        per_step: images of this stream in every global batch.
    """

    name: str
    shard_sizes: NDArray[np.integer]
    per_step: int


class Plan:
    """The order of all samples.

    Args:
        streams: what is read; their position is the stream index.
        seed: of the order.
        window_shards: shards whose samples are shuffled together.
        groups: of shards, from one of which each slot reads; 1: every slot reads from all.

    Raises:
        ConfigError: no stream, a name used twice, `per_step`, window or groups below 1, or groups that do not divide a
            `per_step`.
        ShardError: a stream without a sample.
    """

    def __init__(self, streams: Sequence[StreamPlan], seed: int, window_shards: int, groups: int = 1) -> None:
        names = [stream.name for stream in streams]
        if not names or len(set(names)) < len(names):
            raise ConfigError("plan", f"streams {names}", "give at least one stream, and each its own name")
        if min(window_shards, groups, *(stream.per_step for stream in streams)) < 1:
            raise ConfigError("plan", "window_shards, groups and per_step must be at least 1")
        for stream in streams:
            if stream.per_step % groups:
                problem = f"{stream.per_step} images per step do not come from {groups} groups of shards alike"
                remedy = f"change per_step, or take {math.gcd(groups, stream.per_step)} groups"
                raise ConfigError(f"stream {stream.name}", problem, remedy)
            if not np.any(stream.shard_sizes):
                remedy = "write its shards, or leave it out"
                raise ShardError(f"stream {stream.name}", "its shards hold no sample", remedy)
        self.streams, self.seed, self.window_shards, self.groups = tuple(streams), seed, window_shards, groups
        self._orders = [_order(stream, seed, window_shards, groups) for stream in streams]
        self._layout = _interleave([stream.per_step for stream in streams])

    @property
    def global_batch(self) -> int:
        """B, images per step over all streams."""
        return len(self._layout)

    @property
    def slot_streams(self) -> tuple[int, ...]:
        """Stream of each slot, the same at every step."""
        return tuple(stream for stream, _ in self._layout)

    @property
    def stream_sizes(self) -> tuple[int, ...]:
        """Samples of each stream."""
        return tuple(order.num_samples for order in self._orders)

    def step(self, t: int) -> list[SlotRef]:
        """The B slots of global batch `t`, in slot order."""
        return self.slots(t, range(self.global_batch))

    def slots(self, t: int, slots: range) -> list[SlotRef]:
        """Some slots of global batch `t`: equal to `step(t)[slots.start:slots.stop]`, at a cost in their number."""
        if t < 0:
            raise ConfigError("plan", f"step {t} is before the first step, 0")
        found: list[SlotRef] = []
        for slot in slots:
            stream, turn = self._layout[slot]
            position = t * self.streams[stream].per_step + turn
            found.append(SlotRef(slot, stream, self._orders[stream].sample(position)))
        return found


def slots_of(rank: int, world_size: int, accumulation: int, micro: int, global_batch: int) -> range:
    """The slots of `rank` in micro-batch `micro`.

    The batch is first cut in `accumulation` contiguous micro-batches, each of which is cut in `world_size` contiguous
    parts: a micro-batch is the same set of images at every world size.

    Raises:
        ConfigError: the batch cannot be cut evenly, or there is no such rank or micro-batch.
    """
    if world_size < 1 or accumulation < 1 or global_batch % (world_size * accumulation):
        raise ConfigError(
            "plan",
            f"{global_batch} images per step cannot be cut in {accumulation} micro-batches × {world_size} ranks",
            "change per_step of a stream, the number of workers, or the accumulation",
        )
    if not (0 <= rank < world_size and 0 <= micro < accumulation):
        raise ConfigError("plan", f"rank {rank} of {world_size}, micro-batch {micro} of {accumulation} does not exist")
    length = global_batch // (world_size * accumulation)
    first = (micro * world_size + rank) * length
    return range(first, first + length)


def _interleave(counts: Sequence[int]) -> list[tuple[int, int]]:
    """Per slot (stream, turn): turn j of a stream with p turns stands at (j + ½)/p of the batch, as Bresenham's line.

    So every contiguous piece of the batch holds each stream in proportion, to within one image. Positions are compared
    as integers, (2j + 1)/(2p) times the product of all p, since float ties could be broken differently elsewhere.
    """
    product = math.prod(counts)
    keyed = [
        ((2 * turn + 1) * (product // count), stream, turn)
        for stream, count in enumerate(counts)
        for turn in range(count)
    ]
    return [(stream, turn) for _, stream, turn in sorted(keyed)]


def _order(stream: StreamPlan, seed: int, window_shards: int, groups: int) -> _StreamOrder | GroupedOrder:
    if groups == 1:
        return _StreamOrder(stream, seed, window_shards)
    return GroupedOrder(stream.name, stream.shard_sizes, stream.per_step, groups, seed, window_shards)


class _Epoch(NamedTuple):
    shards: NDArray[np.int64]  # num_shards: the permuted shard numbers
    starts: NDArray[np.int64]  # num_windows + 1: samples in front of each window


class _StreamOrder:
    """The endless order of the samples of one stream."""

    def __init__(self, stream: StreamPlan, seed: int, window_shards: int) -> None:
        self.name, self.seed, self.window_shards = stream.name, seed, window_shards
        self.sizes = stream.shard_sizes
        ends = np.cumsum(self.sizes, dtype=np.int64)
        self.num_samples = int(ends[-1])
        self.first = ends - self.sizes  # flat index of each shard's first sample
        # A step may straddle two epochs and two windows; one more window serves the prefetch of later steps.
        self._epochs: LruCache[int, _Epoch] = LruCache(self._make_epoch, limit=2)
        self._windows: LruCache[tuple[int, int], NDArray[np.int64]] = LruCache(self._make_window, limit=3)

    def sample(self, position: int) -> int:
        """Flat index of the sample at `position` of the stream."""
        epoch, offset = divmod(position, self.num_samples)
        starts = self._epochs[epoch].starts
        window = int(np.searchsorted(starts, offset, side="right")) - 1
        return int(self._windows[epoch, window][offset - int(starts[window])])

    def _make_epoch(self, epoch: int) -> _Epoch:
        shards = numpy_generator(self.seed, self.name, epoch, "shards").permutation(len(self.sizes))
        counts = np.add.reduceat(self.sizes[shards], np.arange(0, len(shards), self.window_shards), dtype=np.int64)
        return _Epoch(shards, np.concatenate([[0], np.cumsum(counts)]))

    def _make_window(self, key: tuple[int, int]) -> NDArray[np.int64]:
        epoch, window = key
        shards = self._epochs[epoch].shards[window * self.window_shards : (window + 1) * self.window_shards]
        ranges = zip(self.first[shards].tolist(), self.sizes[shards].tolist(), strict=True)
        samples = np.concatenate([np.arange(first, first + size) for first, size in ranges])
        return samples[numpy_generator(self.seed, self.name, epoch, window, "window").permutation(len(samples))]

"""A frame's scores as a few thousand ranked rows, in a form that adds up exactly over frames, ranks and any order.

AP, AUROC and FPR95 see only the *order* of the scores, so what is kept is chosen by rank, not by value: no range, scale
or tail can defeat it. One frame's sorted scores are cut into *chunks* of consecutive ranks, small where the metrics
look closely; equal scores are never cut apart. A chunk is written down as (node, count): the node is the coarsest point
of the binary tree over all floating-point numbers that lies between the chunk's lowest and highest score. So

- the node depends on this frame only: tables of frames add up node by node, whoever adds them and in whatever order;
- chunks of similar frames meet in the same nodes: the sum stays small;
- nodes in tree order are in score order.

When a sum outgrows its bound, rows move up the tree, each relative to its own `scale` (the width of its neighbourhood
in its frame), by the same number of levels `shift`: dense and sparse regions lose equally. Moving rows up only ever
joins them, so the smallest sufficient shift is a function of the multiset of frames alone, and so is the table.

`mgcda_dist.evaluation.codes` writes node and scale as numbers: one int64, or two where scores in double precision use
their last 8 bits.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.evaluation import codes as tree

__all__ = ["RankTable", "anomaly_cuts", "chunks", "distinct", "inlier_cuts"]

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]
_Number = TypeVar("_Number", np.int64, np.floating)

NO_SHIFT = -tree.WIDE_BITS - 1
"""The shift at which no row moves."""
NEIGHBOURS = 4
"""Chunks on one side that make a row's neighbourhood."""
TOP_RANKS = 128
"""Ranks from the top that are joined more reluctantly than their neighbourhood would allow."""


class RankTable:
    """Counts per node, summed over frames, never more than `max_rows` rows."""

    def __init__(self, max_rows: int) -> None:
        self.max_rows = max_rows
        self.shift = NO_SHIFT
        self._codes = np.zeros(0, np.int64)
        self._counts = np.zeros(0, np.int64)
        self._waiting: list[tuple[Ints, Ints]] = []

    def add(self, codes: Ints, counts: Ints, shift: int = NO_SHIFT) -> None:
        """Add rows (of one frame, or of another table with its shift)."""
        self.shift = max(self.shift, shift)
        self._waiting.append((codes, counts))
        if sum(len(codes) for codes, _ in self._waiting) > self.max_rows:
            self._settle()

    def rows(self) -> tuple[Ints, Ints]:
        """(codes, counts), codes ascending: lowest scores first."""
        self._settle()
        return self._codes, self._counts

    def _settle(self) -> None:
        if not self._waiting:
            return
        codes = tree.joined([self._codes, *(codes for codes, _ in self._waiting)])
        counts = np.concatenate([self._counts, *(counts for _, counts in self._waiting)])
        self._waiting = []
        codes, counts = _sum_equal(self._moved(codes, self.shift), counts)
        if len(codes) > self.max_rows:
            self.shift = self._sufficient_shift(codes)
            codes, counts = _sum_equal(self._moved(codes, self.shift), counts)
        self._codes, self._counts = codes, counts

    def _sufficient_shift(self, codes: Ints) -> int:
        def fits(shift: int) -> bool:
            return tree.num_distinct(self._moved(codes, shift)) <= self.max_rows

        # At `high` every row reaches the root, one per scale. One more level is the usual answer after the first time.
        low, high = self.shift, tree.WIDE_BITS
        if low > NO_SHIFT and fits(low + 1):
            return low + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(middle) else (middle, high)
        return high

    def _moved(self, codes: Ints, shift: int) -> Ints:
        return codes if shift == NO_SHIFT else tree.ancestors(codes, shift)


def inlier_cuts(num: int, per_octave: int) -> Ints:
    """Cuts of `num` ascending ranks such that a chunk holds at most 1/per_octave of what ranks above it.

    The `per_octave` highest ranks are single, the next `per_octave` chunks have two, then four, and so on.
    """
    pieces = [np.arange(min(num, per_octave))]
    depth, size = per_octave, 1
    while depth < num:
        pieces.append(np.arange(depth, min(num, 2 * depth), size))
        depth, size = 2 * depth, 2 * size
    from_top = np.concatenate(pieces).astype(np.int64)
    # A chunk that begins at depth d from the top ends, in ascending order, in front of rank num - d.
    return np.concatenate([np.zeros(1, np.int64), (num - from_top)[:0:-1]])


def anomaly_cuts(num: int, parts: int) -> Ints:
    """Cuts of `num` ascending ranks into chunks of equal size: at least `parts` of them, or single ranks."""
    return np.arange(0, num, max(1, num // parts), dtype=np.int64)


def chunks(scores: Floats, cuts: Ints) -> tuple[Ints, Ints]:
    """Rows of one frame and class: codes and counts (R int64), ascending in score.

    Args:
        scores: n >= 1, ascending, finite, float32 or float64.
        cuts: ranks where chunks begin, the first one 0.
    """
    starts = _outside_ties(scores, cuts)
    counts = np.diff(starts, append=scores.size)
    low, high = tree.keys(scores[starts]), tree.keys(scores[starts + counts - 1])
    scale = tree.bit_length(_neighbourhood(low, high))
    # The neighbours of rank 3 are a large share of what ranks above it: near the top the scale follows the rank.
    scale = np.maximum(scale - tree.bit_length(TOP_RANKS // (scores.size - starts)), 1)
    scale[(low == high) & (counts >= 4 * _mean_size(starts, cuts))] = 0  # a heavy tie: a point at any zoom
    return tree.codes_between(low, high, scale), counts


def _outside_ties(scores: Floats, cuts: Ints) -> Ints:
    """The cuts moved so that none falls inside a run of equal scores: to both ends of the run instead."""
    value = scores[cuts]
    follows = (cuts > 0) & (scores[cuts - 1] == value)
    leads = scores[np.minimum(cuts + 1, scores.size - 1)] == value
    tied = distinct(value[follows | leads])
    if not tied.size:
        return cuts
    ends = np.searchsorted(scores, tied, side="right").astype(np.int64)
    starts = np.searchsorted(scores, tied, side="left").astype(np.int64)
    merged = distinct(np.concatenate([cuts[~(follows | leads)], starts, ends]))
    return merged[merged < scores.size]


def _neighbourhood(low: tree.Keys, high: tree.Keys) -> tree.Keys:
    # The narrower side: at the edge of a cluster the gap to the next cluster says nothing.
    if low.size <= NEIGHBOURS:
        return np.full(low.size, high[-1] - low[0])
    span = high[NEIGHBOURS:] - low[:-NEIGHBOURS]
    unknown = np.full(NEIGHBOURS, np.iinfo(np.uint64).max)
    return np.minimum(np.concatenate([unknown, span]), np.concatenate([span, unknown]))


def _mean_size(starts: Ints, cuts: Ints) -> Ints:
    # Planned size of the chunk around each start, before ties moved the cuts.
    sizes = np.diff(cuts, append=cuts[-1] + 1)
    return sizes[np.clip(np.searchsorted(cuts, starts, side="right") - 1, 0, sizes.size - 1)]


def distinct(values: NDArray[_Number]) -> NDArray[_Number]:
    """The values without repetition, ascending; NumPy's own `unique` hashes, which takes many times as long."""
    values = np.sort(values)
    return values[np.concatenate([np.ones(min(1, values.size), np.bool_), values[1:] != values[:-1]])]


def _sum_equal(codes: Ints, counts: Ints) -> tuple[Ints, Ints]:
    order = tree.order(codes)
    codes, counts = codes[order], counts[order]
    first = np.flatnonzero(tree.starts_of_equal(codes))
    return codes[first], np.add.reduceat(counts, first) if first.size else counts

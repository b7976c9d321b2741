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

A row's code is one int64: node (57 bits, in-order numbering) << 6 | scale (0 … 56).
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["RankTable", "anomaly_cuts", "chunks", "code_is_tied", "code_score", "distinct", "inlier_cuts"]

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]
_Number = TypeVar("_Number", np.int64, np.floating)

KEY_BITS = 56
"""Leaves of the tree: float64 without its 8 lowest mantissa bits. Every float32 is a leaf of its own, but scores in
double precision that differ by less than 2⁻⁴⁴ of themselves are one."""
SCALE_BITS = 6
NO_SHIFT = -KEY_BITS - 1
"""The shift at which no row moves."""
NEIGHBOURS = 4
"""Chunks on one side that make a row's neighbourhood."""
TIE_SHIFT = 24
"""The shift from which on heavy ties move too: sooner, none would meet another, but anomalies would leave inliers."""
TOP_RANKS = 128
"""Ranks from the top that are joined more reluctantly than their neighbourhood would allow."""


class RankTable:
    """Counts per node, summed over frames, never more than `max_rows` rows.

    Args:
        max_rows: bound on the rows kept.
    """

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
        if sum(rows.size for rows, _ in self._waiting) > self.max_rows:
            self._settle()

    def rows(self) -> tuple[Ints, Ints]:
        """(codes, counts), codes ascending: lowest scores first."""
        self._settle()
        return self._codes, self._counts

    def _settle(self) -> None:
        if not self._waiting:
            return
        codes = np.concatenate([self._codes, *(codes for codes, _ in self._waiting)])
        counts = np.concatenate([self._counts, *(counts for _, counts in self._waiting)])
        self._waiting = []
        codes, counts = _sum_equal(_move_up(codes, self.shift), counts)
        if codes.size > self.max_rows:
            self.shift = self._sufficient_shift(codes)
            codes, counts = _sum_equal(_move_up(codes, self.shift), counts)
        self._codes, self._counts = codes, counts

    def _sufficient_shift(self, codes: Ints) -> int:
        def fits(shift: int) -> bool:
            return distinct(_move_up(codes, shift)).size <= self.max_rows

        # At `high` every row reaches the root, one per scale. One more level is the usual answer after the first time.
        low, high = self.shift, KEY_BITS
        if low > NO_SHIFT and fits(low + 1):
            return low + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(middle) else (middle, high)
        return high


def inlier_cuts(num: int, per_octave: int) -> Ints:
    """Where to cut `num` ascending ranks so that a chunk holds at most 1/per_octave of what ranks above it.

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
    """Where to cut `num` ascending ranks into chunks of equal size: at least `parts` of them, or single ranks."""
    return np.arange(0, num, max(1, num // parts), dtype=np.int64)


def chunks(scores: Floats, cuts: Ints) -> tuple[Ints, Ints]:
    """Rows of one frame and class.

    Args:
        scores: n >= 1, ascending, finite, float32 or float64.
        cuts: ranks where chunks begin, the first one 0.

    Returns:
        codes and counts of the rows, ascending in score.
    """
    starts = _outside_ties(scores, cuts)
    counts = np.diff(starts, append=scores.size)
    low, high = _key(scores[starts]), _key(scores[starts + counts - 1])
    level = _bit_length(low ^ high)
    node = (low >> level << (level + 1)) | (np.int64(1) << level)
    scale = _bit_length(_neighbourhood(low, high))
    # The neighbours of rank 3 are a large share of what ranks above it: near the top the scale follows the rank.
    scale = np.maximum(scale - _bit_length(TOP_RANKS // (scores.size - starts)), 1)
    scale[(low == high) & (counts >= 4 * _mean_size(starts, cuts))] = 0  # a heavy tie: a point at any zoom
    return (node << SCALE_BITS) | scale, counts


def code_score(codes: Ints) -> NDArray[np.float64]:
    """The score a row stands at: the shared score of a tie, else the middle of the node's interval."""
    key = codes >> (SCALE_BITS + 1)
    bits = key.astype(np.uint64) << np.uint64(64 - KEY_BITS)
    top = np.uint64(1 << 63)
    # Undo `_key`. The bits it cut off are zero, so that a truncated score is not above its pixels.
    score = np.where(bits >= top, bits ^ top, _negated(bits)).view(np.float64)
    return np.maximum(score, -np.finfo(np.float64).max)  # the bits next below the lowest number mean -∞


def code_is_tied(codes: Ints) -> NDArray[np.bool_]:
    """Whether a row's pixels share one score."""
    return ((codes >> SCALE_BITS) & 1 == 1) | (codes & ((1 << SCALE_BITS) - 1) == 0)


def _key(scores: Floats) -> Ints:
    # IEEE 754 orders as integers once negative numbers are negated; + 0.0 turns -0.0 into 0.0. Not flipped: then the
    # zeros at the end of a float32 would become ones, and cutting bits off would move negative scores up, not down.
    bits = (scores.astype(np.float64) + 0.0).view(np.uint64)
    ordered = np.where(bits >> np.uint64(63) == 1, _negated(bits), bits | np.uint64(1 << 63))
    return (ordered >> np.uint64(64 - KEY_BITS)).astype(np.int64)


def _negated(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return ~bits + np.uint64(1)


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


def _neighbourhood(low: Ints, high: Ints) -> Ints:
    # The narrower side: at the edge of a cluster the gap to the next cluster says nothing.
    if low.size <= NEIGHBOURS:
        return np.full(low.size, high[-1] - low[0])
    span = high[NEIGHBOURS:] - low[:-NEIGHBOURS]
    unknown = np.full(NEIGHBOURS, np.iinfo(np.int64).max)
    return np.minimum(np.concatenate([unknown, span]), np.concatenate([span, unknown]))


def _mean_size(starts: Ints, cuts: Ints) -> Ints:
    # Planned size of the chunk around each start, before ties moved the cuts.
    sizes = np.diff(cuts, append=cuts[-1] + 1)
    return sizes[np.clip(np.searchsorted(cuts, starts, side="right") - 1, 0, sizes.size - 1)]


def _bit_length(values: Ints) -> Ints:
    # Clearing the bit below the leading one keeps float64 from rounding up to the next power of two.
    exponents = np.frexp((values & ~(values >> 1)).astype(np.float64))[1]
    return exponents.astype(np.int64)


def _move_up(codes: Ints, shift: int) -> Ints:
    if shift == NO_SHIFT:
        return codes
    node, scale = codes >> SCALE_BITS, codes & ((1 << SCALE_BITS) - 1)
    level = np.clip(np.where((scale == 0) & (shift < TIE_SHIFT), 0, scale + shift), 0, KEY_BITS)
    bit = np.int64(1) << level
    moved = (node >> (level + 1) << (level + 1)) | bit
    return (np.where(node & (bit - 1) != 0, moved, node) << SCALE_BITS) | scale


def distinct(values: NDArray[_Number]) -> NDArray[_Number]:
    """The values without repetition, ascending; NumPy's own `unique` hashes, which takes many times as long."""
    values = np.sort(values)
    return values[np.concatenate([np.ones(min(1, values.size), np.bool_), values[1:] != values[:-1]])]


def _sum_equal(codes: Ints, counts: Ints) -> tuple[Ints, Ints]:
    order = np.argsort(codes)
    codes, counts = codes[order], counts[order]
    first = np.flatnonzero(np.concatenate([np.ones(min(1, codes.size), np.bool_), codes[1:] != codes[:-1]]))
    return codes[first], np.add.reduceat(counts, first) if first.size else counts

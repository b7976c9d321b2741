"""Codes of rows: a point of the binary tree over all floating-point numbers, and the scale of its neighbourhood.

The tree's points are numbered in order, so that codes sort as scores do. There are two forms of an array of codes:

- *narrow*, R int64: node (57 bits) << 6 | scale (0 … 56). The leaves are float64 without its 8 lowest mantissa bits:
  every float32, and every float64 that ends with zeros there, is a leaf of its own;
- *wide*, R×2 int64: node, then the node in a subtree of those 8 bits (1 … 511) << 7 | scale (0 … 64). Only scores in
  double precision need it; it costs more to sort.

`joined` brings arrays to one form. Scale 0 marks a heavy tie: a point at any zoom.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "WIDE_BITS",
    "ancestors",
    "bit_length",
    "code_is_tied",
    "code_score",
    "codes_between",
    "first_of_node",
    "joined",
    "keys",
    "num_distinct",
    "order",
    "places",
    "starts_of_equal",
]

Ints = NDArray[np.int64]
Keys = NDArray[np.uint64]

WIDE_BITS = 64
"""Levels of the whole tree. `level` and `scale` of a narrow code are less by the 8 levels that it lacks."""
REST_BITS = 8
NARROW_BITS = WIDE_BITS - REST_BITS
TIE_SHIFT = 24
"""The shift from which on heavy ties move too: sooner, none would meet another, but anomalies would leave inliers."""

_NARROW_SCALE, _WIDE_SCALE = 6, 7  # bits of the scale
_WHOLE_LEAF = 1 << REST_BITS  # root of the subtree below a narrow leaf


def keys(scores: NDArray[np.floating]) -> Keys:
    """Float64 as integers of the same order: the leaves of the whole tree."""
    # IEEE 754 orders as integers once negative numbers are negated; + 0.0 turns -0.0 into 0.0. Not flipped: then the
    # zeros at the end of a float32 would become ones, and no negative number would be a narrow leaf.
    bits = (scores.astype(np.float64) + 0.0).view(np.uint64)
    return np.where(bits >> np.uint64(63) == 1, _negated(bits), bits | np.uint64(1 << 63))


def codes_between(low: Keys, high: Keys, scale: Ints) -> Ints:
    """Codes of chunks from their lowest and highest key: narrow where that loses nothing.

    Args:
        low: R keys.
        high: R keys, none below `low`.
        scale: R, of the whole tree (0 … 64).
    """
    rest = np.uint64(_WHOLE_LEAF - 1)
    level = bit_length(low ^ high)
    node = _node((low >> np.uint64(REST_BITS)).astype(np.int64), np.maximum(level - REST_BITS, 0))
    if not np.any((low | high) & rest):
        narrow = np.where(scale == 0, 0, np.maximum(scale - REST_BITS, 1))
        return (node << _NARROW_SCALE) | narrow
    within = _node((low & rest).astype(np.int64), np.minimum(level, REST_BITS))
    return np.stack([node, (within << _WIDE_SCALE) | scale], axis=1)


def joined(every: Sequence[Ints]) -> Ints:
    """Arrays of codes one after the other: narrow if all are, else wide."""
    if any(codes.ndim == 2 for codes in every):
        return np.concatenate([_widened(codes) for codes in every])
    return np.concatenate([np.zeros(0, np.int64), *every])


def order(codes: Ints) -> Ints:
    """The positions of the codes, ascending."""
    return np.lexsort((codes[:, 1], codes[:, 0])) if codes.ndim == 2 else np.argsort(codes)


def num_distinct(codes: Ints) -> int:
    """The number of different codes."""
    return int(np.count_nonzero(starts_of_equal(codes[order(codes)] if codes.ndim == 2 else np.sort(codes))))


def first_of_node(codes: Ints) -> NDArray[np.bool_]:
    """Of codes in order: which stand at another node than the one before, whatever their scale."""
    if codes.ndim == 2:
        return starts_of_equal(codes[:, 0]) | starts_of_equal(codes[:, 1] >> _WIDE_SCALE)
    return starts_of_equal(codes >> _NARROW_SCALE)


def places(every: Sequence[Ints]) -> list[Ints]:
    """For each array of codes, where their nodes stand among the nodes of all, the lowest at 0."""
    codes = joined(every)
    ranked = order(codes)
    place = np.zeros(len(codes), np.int64)
    place[ranked] = np.cumsum(first_of_node(codes[ranked])) - 1
    return np.split(place, np.cumsum([len(each) for each in every])[:-1])


def ancestors(codes: Ints, shift: int) -> Ints:
    """The codes moved up the tree, each to the level of its scale plus `shift`; heavy ties from `TIE_SHIFT` on."""
    if codes.ndim == 1:
        node, scale = codes >> _NARROW_SCALE, codes & ((1 << _NARROW_SCALE) - 1)
        level = np.where((scale == 0) & (shift < TIE_SHIFT), 0, scale + shift)
        return (_raised(node, np.clip(level, 0, NARROW_BITS)) << _NARROW_SCALE) | scale
    node, within, scale = codes[:, 0], codes[:, 1] >> _WIDE_SCALE, codes[:, 1] & ((1 << _WIDE_SCALE) - 1)
    # A heavy tie counts as a neighbourhood of one narrow leaf, in either form.
    level = np.where(scale == 0, REST_BITS + shift if shift >= TIE_SHIFT else 0, scale + shift)
    moved = _raised(node, np.clip(level - REST_BITS, 0, NARROW_BITS))
    within = np.where(moved == node, _raised(within, np.clip(level, 0, REST_BITS)), _WHOLE_LEAF)
    return np.stack([moved, (within << _WIDE_SCALE) | scale], axis=1)


def code_score(codes: Ints) -> NDArray[np.float64]:
    """The score a row stands at: the shared score of a tie, else the middle of the node's interval."""
    wide = codes.ndim == 2
    node = codes[:, 0] if wide else codes >> _NARROW_SCALE
    bits = (node >> 1).astype(np.uint64) << np.uint64(REST_BITS)
    if wide:
        bits |= np.where(node & 1 == 1, codes[:, 1] >> (_WIDE_SCALE + 1), 0).astype(np.uint64)
    top = np.uint64(1 << 63)
    score = np.where(bits >= top, bits ^ top, _negated(bits)).view(np.float64)
    return np.maximum(score, -np.finfo(np.float64).max)  # the bits next below the lowest number mean -∞


def code_is_tied(codes: Ints) -> NDArray[np.bool_]:
    """True for rows whose pixels share one score."""
    if codes.ndim == 2:
        leaf = (codes[:, 0] & 1 == 1) & ((codes[:, 1] >> _WIDE_SCALE) & 1 == 1)
        return leaf | (codes[:, 1] & ((1 << _WIDE_SCALE) - 1) == 0)
    return ((codes >> _NARROW_SCALE) & 1 == 1) | (codes & ((1 << _NARROW_SCALE) - 1) == 0)


def bit_length(values: NDArray[np.integer]) -> Ints:
    """Bits of each number without the zeros in front; 0 has none."""
    # Clearing the bit below the leading one keeps float64 from rounding up to the next power of two.
    exponents = np.frexp((values & ~(values >> values.dtype.type(1))).astype(np.float64))[1]
    return exponents.astype(np.int64)


def _widened(codes: Ints) -> Ints:
    if codes.ndim == 2:
        return codes
    node, scale = codes >> _NARROW_SCALE, codes & ((1 << _NARROW_SCALE) - 1)
    within = np.where(node & 1 == 1, 1, _WHOLE_LEAF)  # a narrow leaf is the number that ends with zeros
    return np.stack([node, (within << _WIDE_SCALE) | np.where(scale == 0, 0, scale + REST_BITS)], axis=1)


def _node(key: Ints, level: Ints) -> Ints:
    """Number in order of the ancestor at `level` of the leaf `key`."""
    return (key >> level << (level + 1)) | (np.int64(1) << level)


def _raised(node: Ints, level: Ints) -> Ints:
    """The ancestor at `level` of each node that is below it."""
    bit = np.int64(1) << level
    moved = (node >> (level + 1) << (level + 1)) | bit
    return np.where(node & (bit - 1) != 0, moved, node)


def starts_of_equal(codes: Ints) -> NDArray[np.bool_]:
    """Of codes in order: which differ from the one before."""
    first = np.ones(len(codes), np.bool_)
    changes = codes[1:] != codes[:-1]
    first[1:] = changes.any(axis=1) if codes.ndim == 2 else changes
    return first


def _negated(bits: Keys) -> Keys:
    return ~bits + np.uint64(1)

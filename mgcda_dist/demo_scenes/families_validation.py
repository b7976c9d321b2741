"""Families of objects for validation: neither pasted in training nor met in the test."""

from __future__ import annotations

import numpy as np

from mgcda_dist.demo_scenes.camera import Float
from mgcda_dist.demo_scenes.sketch import (
    Sketch,
    box,
    bright,
    capsule,
    chaikin,
    colour,
    ellipse,
    plaid,
    plain,
    speckle,
    spots,
    stripes,
)

__all__ = ["cactus", "drum", "suitcase", "vase"]

Rng = np.random.Generator


def _rounded(left: float, foot: float, right: float, top: float) -> Float:
    """A rectangle with its corners cut round."""
    x, y = (left, left + 0.08, right - 0.08, right), (foot, foot + 0.08, top - 0.08, top)
    return chaikin(
        [
            (x[1], y[0]),
            (x[2], y[0]),
            (x[3], y[1]),
            (x[3], y[2]),
            (x[2], y[3]),
            (x[1], y[3]),
            (x[0], y[2]),
            (x[0], y[1]),
        ],
        2,
    )


def vase(board: Sketch, rng: Rng) -> None:
    """A vase, wide below its neck."""
    heights = np.linspace(0, 0.95, 7)
    widths = np.array([0.2, 0.3, 0.38, 0.33, 0.2, 0.13, 0.2]) * rng.uniform(0.8, 1.2, 7)
    outline = np.concatenate([np.stack([widths, heights], 1), np.stack([-widths, heights], 1)[::-1]])
    board.part(chaikin(outline.astype(np.float32), 2), spots(bright(rng), bright(rng), 0.07, rng), bulge=0.8)


def suitcase(board: Sketch, rng: Rng) -> None:
    """A checked suitcase on wheels."""
    base = colour(rng, (0.1, 0.7), (0.2, 0.7))
    board.part(chaikin([(-0.1, 0.6), (0.1, 0.6), (0.1, 0.95), (-0.1, 0.95)], 1), plain(base * 0.5))
    board.part(_rounded(-0.52, 0.04, 0.52, 0.82), plaid(base, bright(rng), 0.17), bulge=0.4)
    for x in (-0.35, 0.3):
        board.part(box(x, 0.04, x + 0.06, 0.82), plain(base * 0.6), bulge=0.2)
    for x in (-0.38, 0.38):
        board.part(ellipse(x, 0.05, 0.05, 0.05), plain(np.full(3, 0.1, np.float32)))


def drum(board: Sketch, rng: Rng) -> None:
    """A drum."""
    base, tall = bright(rng), rng.uniform(0.45, 0.7)
    zigzag = stripes(base, bright(rng), 0.9, 0.16)
    board.part(ellipse(0, 0.1, 0.5, 0.1), zigzag, bulge=0.2)
    board.part(box(-0.5, 0.1, 0.5, tall), zigzag, bulge=0.6)
    board.part(ellipse(0, tall, 0.5, 0.11), plain(base * 0.5), bulge=0.1)
    board.part(ellipse(0, tall, 0.46, 0.09), speckle(np.array([0.9, 0.86, 0.76], np.float32), rng, 0.1), bulge=0.1)


def cactus(board: Sketch, rng: Rng) -> None:
    """A cactus in its pot."""
    green = stripes(np.array([0.2, 0.45, 0.3], np.float32), np.array([0.3, 0.55, 0.35], np.float32), 0, 0.05)
    board.part(capsule((0, 0.3), (0, 0.95), 0.24), green, bulge=0.8)
    for side in (-1, 1):
        y = rng.uniform(0.45, 0.6)
        board.part(capsule((0, y), (side * 0.3, y), 0.13), green)
        board.part(capsule((side * 0.3, y), (side * 0.3, y + rng.uniform(0.1, 0.3)), 0.14), green, bulge=0.7)
    pot = np.array([[-0.2, 0], [0.2, 0], [0.28, 0.34], [-0.28, 0.34]], np.float32)
    board.part(pot, plain(np.array([0.66, 0.35, 0.24], np.float32)), bulge=0.7)

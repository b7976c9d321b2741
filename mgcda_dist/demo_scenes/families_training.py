"""Families of objects for pasting in training: plain colours, bands and chessboards on simple bodies."""

from __future__ import annotations

import numpy as np

from mgcda_dist.demo_scenes.sketch import (
    Sketch,
    Texture,
    box,
    bright,
    capsule,
    chaikin,
    checks,
    ellipse,
    plain,
    stripes,
)

__all__ = ["ball", "barrel", "blob", "blocks", "bucket", "cone", "crate", "shard", "star", "umbrella"]

Rng = np.random.Generator


def _training_texture(rng: Rng) -> Texture:
    first, second = bright(rng), bright(rng)
    kind = rng.integers(4)
    if kind == 0:
        return plain(first)
    if kind == 1:
        return checks(first, second, rng.uniform(0.08, 0.2))
    return stripes(first, second, rng.uniform(0, np.pi), rng.uniform(0.08, 0.3), rng.uniform(0.3, 0.6))


def crate(board: Sketch, rng: Rng) -> None:
    """A box with a frame, seen over a corner."""
    texture, tall, deep = _training_texture(rng), rng.uniform(0.45, 0.8), rng.uniform(0.12, 0.25)
    front = box(-0.42, 0.0, 0.3, tall)
    side = np.array([[0.3, 0], [0.3 + deep, 0.08], [0.3 + deep, tall + 0.08], [0.3, tall]], np.float32)
    top = np.array([[-0.42, tall], [0.3, tall], [0.3 + deep, tall + 0.08], [-0.42 + deep, tall + 0.08]], np.float32)
    board.part(side, texture, bulge=0, tone=0.6)
    board.part(top, texture, bulge=0, tone=1.15)
    board.part(front, texture, bulge=0.1, tone=0.9)
    edge = plain(bright(rng) * 0.7)
    for bar in (
        box(-0.42, 0, -0.35, tall),
        box(0.23, 0, 0.3, tall),
        box(-0.42, 0, 0.3, 0.08),
        box(-0.42, tall - 0.08, 0.3, tall),
    ):
        board.part(bar, edge, bulge=0.2)


def ball(board: Sketch, rng: Rng) -> None:
    """A shiny ball."""
    board.part(ellipse(0, 0.4, 0.4, 0.4), _training_texture(rng), bulge=0.9)
    board.part(ellipse(-0.14, 0.56, 0.09, 0.06, 0.6), plain(np.ones(3, np.float32)), bulge=0.2)


def bucket(board: Sketch, rng: Rng) -> None:
    """A bucket."""
    texture, tall = _training_texture(rng), rng.uniform(0.5, 0.85)
    board.part(np.array([[-0.27, 0], [0.27, 0], [0.4, tall], [-0.4, tall]], np.float32), texture, bulge=0.7)
    board.part(ellipse(0, tall, 0.4, 0.09), plain(bright(rng)), bulge=0.1, tone=0.9)
    board.part(ellipse(0, tall, 0.34, 0.06), plain(bright(rng)), bulge=0, tone=0.4)


def barrel(board: Sketch, rng: Rng) -> None:
    """A barrel with three hoops."""
    body = chaikin(
        [(-0.3, 0), (0.3, 0), (0.36, 0.25), (0.36, 0.65), (0.3, 0.9), (-0.3, 0.9), (-0.36, 0.65), (-0.36, 0.25)], 2
    )
    board.part(body, _training_texture(rng), bulge=0.8)
    hoop = plain(bright(rng))
    for y in (0.15, 0.45, 0.72):
        board.part(box(-0.345, y, 0.345, y + 0.06), hoop, bulge=0.3, tone=0.8)
    board.part(ellipse(0, 0.87, 0.27, 0.06), hoop, bulge=0, tone=0.6)


def umbrella(board: Sketch, rng: Rng) -> None:
    """An open umbrella."""
    angle = np.linspace(0, np.pi, 20)
    dome = np.stack([0.6 * np.cos(angle), 0.5 + 0.45 * np.sin(angle)], axis=1)
    scallops = np.array([[-0.6 + 0.15 * i, 0.5 + (0.07 if i % 2 else 0.0)] for i in range(1, 8)])
    board.part(capsule((0, 0.03), (0, 0.9), 0.035), plain(bright(rng) * 0.6))
    board.part(np.concatenate([dome, scallops]).astype(np.float32), _training_texture(rng), bulge=0.6)


def star(board: Sketch, rng: Rng) -> None:
    """A star of five to eight points."""
    points, inner = int(rng.integers(5, 9)), rng.uniform(0.45, 0.65)
    angle = np.pi / 2 + np.arange(2 * points) * np.pi / points
    radius = np.where(np.arange(2 * points) % 2, inner, 1.0) * 0.47
    board.part(
        np.stack([radius * np.cos(angle), 0.45 + radius * np.sin(angle)], 1).astype(np.float32), _training_texture(rng)
    )


def blocks(board: Sketch, rng: Rng) -> None:
    """A stack of blocks."""
    y = 0.0
    for _ in range(rng.integers(2, 5)):
        tall, wide, shift = rng.uniform(0.15, 0.3), rng.uniform(0.15, 0.4), rng.uniform(-0.08, 0.08)
        if y + tall > 1.05:
            break
        board.part(box(shift - wide, y, shift + wide, y + tall), _training_texture(rng), bulge=0.25)
        y += tall


def cone(board: Sketch, rng: Rng) -> None:
    """A banded cone on its foot."""
    first, second = bright(rng), bright(rng)
    board.part(box(-0.34, 0, 0.34, 0.08), plain(first), bulge=0.3, tone=0.8)
    cone = np.array([[-0.25, 0.08], [0.25, 0.08], [0.04, 0.95], [-0.04, 0.95]], np.float32)
    board.part(cone, stripes(first, second, np.pi / 2, rng.uniform(0.2, 0.4)), bulge=0.7)


def blob(board: Sketch, rng: Rng) -> None:
    """Any smooth outline."""
    angle = np.sort(rng.uniform(0, 2 * np.pi, 9))
    radius = rng.uniform(0.25, 0.5, 9)
    outline = np.stack([radius * np.cos(angle) * rng.uniform(0.8, 1.3), 0.5 + radius * np.sin(angle)], axis=1)
    board.part(chaikin(outline.astype(np.float32)), _training_texture(rng), bulge=rng.uniform(0.2, 0.8))


def shard(board: Sketch, rng: Rng) -> None:
    """Any polygon."""
    angle = np.sort(rng.uniform(0, 2 * np.pi, 7))
    outline = np.stack([0.5 * np.cos(angle), 0.5 + 0.48 * np.sin(angle)], axis=1) * rng.uniform(0.8, 1, (7, 1))
    board.part(outline.astype(np.float32), _training_texture(rng), bulge=rng.uniform(0, 0.3))
    board.part(outline[[0, 2, 4]].astype(np.float32), plain(bright(rng)), bulge=0.1)

"""Families of objects of the test, with textures (hide, feather, stone, timber, cloth) that no training family has."""

from __future__ import annotations

import numpy as np

from mgcda_dist.demo_scenes.camera import Float
from mgcda_dist.demo_scenes.sketch import (
    Sketch,
    Texture,
    box,
    bright,
    capsule,
    chaikin,
    colour,
    ellipse,
    fur,
    plaid,
    plain,
    speckle,
    spots,
    wood,
)

__all__ = ["beast", "boulder", "chair", "goose", "log", "machine", "sofa", "tyres"]

Rng = np.random.Generator
EARTH = (0.03, 0.12)
"""Hues of hides and timber."""


def _hide(rng: Rng) -> tuple[Texture, Float]:
    base = colour(rng, (0.1, 0.65), (0.2, 0.85), EARTH)
    if rng.random() < 0.5:
        other = np.full(3, rng.uniform(0.75, 0.95) if base.mean() < 0.5 else 0.15, np.float32)
        return spots(base, other, rng.uniform(0.06, 0.16), rng), base
    return fur(base, rng), base


def beast(board: Sketch, rng: Rng) -> None:
    """A cow, deer or dog, seen from the side."""
    coat, base = _hide(rng)
    leg, slim, neck = rng.uniform(0.32, 0.45), rng.uniform(0.75, 1.0), rng.uniform(0.12, 0.34)
    far, back = plain(base * 0.5), leg + 0.2 * slim
    for x in (-0.36, 0.24):
        step = rng.uniform(-0.06, 0.06)
        board.part(capsule((x + 0.06, leg + 0.05), (x + 0.06 + step, 0.05), 0.1 * slim, 0.06), far)
    trunk = [(-0.48, back + 0.1), (-0.2, back + 0.15 * slim), (0.15, back + 0.13 * slim), (0.42, back + 0.16),
             (0.46, leg + 0.1), (0.2, leg - 0.05), (-0.2, leg), (-0.46, leg + 0.02)]  # fmt: skip
    head = (0.6, back + 0.12 + neck)
    board.part(capsule((-0.45, back + 0.08), (-0.58, leg * 0.8), 0.05, 0.035), coat)
    board.part(capsule((0.36, back + 0.05), head, 0.24 * slim, 0.15), coat, bulge=0.6)
    board.part(chaikin(trunk), coat, bulge=0.7)
    for x in (-0.36, 0.32):
        step = rng.uniform(-0.05, 0.05)
        board.part(capsule((x, leg + 0.1), (x + step / 2, leg * 0.5), 0.15 * slim, 0.08), coat)
        board.part(capsule((x + step / 2, leg * 0.5), (x + step, 0.03), 0.08, 0.06), coat)
    board.part(capsule((head[0] - 0.06, head[1]), (head[0] + 0.1, head[1] - 0.08), 0.16, 0.09), coat, bulge=0.6)
    board.part(capsule((head[0] - 0.08, head[1] + 0.06), (head[0] - 0.15, head[1] + 0.1), 0.07, 0.02), coat)
    if rng.random() < 0.5:
        horn = plain(np.array([0.75, 0.68, 0.55], np.float32))
        for lean in (0.0, 0.08):
            board.part(
                capsule(
                    (head[0] - 0.05, head[1] + 0.06), (head[0] - 0.1 + lean, min(1.08, head[1] + 0.2)), 0.035, 0.015
                ),
                horn,
            )
    board.part(ellipse(head[0] + 0.01, head[1] + 0.01, 0.014, 0.014), plain(np.zeros(3, np.float32)), bulge=0)


def goose(board: Sketch, rng: Rng) -> None:
    """A goose or swan."""
    light = np.full(3, rng.uniform(0.75, 0.95), np.float32)
    dark = colour(rng, (0.1, 0.35), (0.2, 0.5))
    orange = plain(np.array([0.9, 0.5, 0.12], np.float32))
    for x in (-0.05, 0.08):
        board.part(capsule((x, 0.3), (x, 0.04), 0.04), orange)
        board.part(capsule((x, 0.02), (x + 0.1, 0.015), 0.05, 0.03), orange)
    body = chaikin([(-0.5, 0.52), (-0.1, 0.62), (0.25, 0.6), (0.34, 0.42), (0.15, 0.24), (-0.2, 0.26)])
    board.part(body, fur(light, rng, 0.12), bulge=0.8)
    neck = chaikin([(0.12, 0.5), (0.2, 0.75), (0.2, 0.95), (0.3, 1.02), (0.36, 0.94), (0.3, 0.75), (0.34, 0.45)])
    board.part(neck, fur(light if rng.random() < 0.5 else dark, rng, 0.12), bulge=0.7)
    board.part(np.array([[0.33, 0.98], [0.5, 0.91], [0.33, 0.9]], np.float32), orange)
    wing = chaikin([(-0.45, 0.53), (0.05, 0.56), (0.18, 0.42), (-0.1, 0.36)])
    board.part(wing, fur(dark, rng, 0.5), bulge=0.6)


def boulder(board: Sketch, rng: Rng) -> None:
    """A rock with facets."""
    angle = np.linspace(0, 2 * np.pi, 11, endpoint=False) + rng.uniform(-0.2, 0.2, 11)
    radius = rng.uniform(0.75, 1.05, 11)
    outline = np.stack([0.58 * radius * np.cos(angle), 0.32 + 0.36 * radius * np.sin(angle)], axis=1)
    outline[:, 1] = np.maximum(outline[:, 1], 0.0)
    stone = speckle(colour(rng, (0.03, 0.25), (0.35, 0.65)), rng)
    rock = chaikin(outline.astype(np.float32), 1)
    board.part(rock, stone, bulge=0.8)
    for _ in range(3):
        pick = rng.choice(11, 3, replace=False)
        inner = outline[pick] * 0.75 + outline.mean(axis=0) * 0.25
        board.part(inner.astype(np.float32), stone, bulge=0.15, tone=rng.uniform(0.75, 1.2))


def chair(board: Sketch, rng: Rng) -> None:
    """A wooden chair, turned a little."""
    timber = wood(colour(rng, (0.3, 0.7), (0.3, 0.75), EARTH), rng, np.pi / 2)
    for x in (-0.16, 0.34):
        board.part(capsule((x, 0.5), (x + 0.02, 0.07), 0.05), timber, tone=0.6)
    for y in (0.66, 0.8, 0.94):
        board.part(box(-0.28, y, 0.24, y + 0.07), timber, bulge=0.3)
    for x in (-0.3, 0.2):
        board.part(capsule((x, 0.02), (x + 0.03, 1.05), 0.06), timber, bulge=0.5)
    seat = np.array([[-0.32, 0.44], [0.22, 0.44], [0.38, 0.53], [-0.18, 0.53]], np.float32)
    board.part(seat, plaid(bright(rng), bright(rng) * 0.5, 0.09) if rng.random() < 0.5 else timber, bulge=0.2)
    board.part(box(-0.32, 0.38, 0.22, 0.45), timber, bulge=0.2, tone=0.85)


def sofa(board: Sketch, rng: Rng) -> None:
    """A checked sofa."""
    base = colour(rng, (0.15, 0.6), (0.3, 0.75))
    cloth = plaid(base, colour(rng, (0.1, 0.6), (0.3, 0.9)), rng.uniform(0.08, 0.16))
    for x in (-0.62, 0.58):
        board.part(box(x, 0, x + 0.05, 0.08), plain(np.array([0.25, 0.17, 0.1], np.float32)))
    board.part(chaikin(box(-0.6, 0.25, 0.6, 0.75), 2), cloth, bulge=0.4, tone=0.85)
    board.part(box(-0.66, 0.07, 0.66, 0.28), cloth, bulge=0.2, tone=0.75)
    for x in (-0.52, 0.0):
        board.part(chaikin(box(x, 0.24, x + 0.52, 0.4), 2), cloth, bulge=0.5, tone=1.05)
    for x in (-0.72, 0.54):
        board.part(chaikin(box(x, 0.06, x + 0.18, 0.52), 2), cloth, bulge=0.6)


def tyres(board: Sketch, rng: Rng) -> None:
    """A stack of tyres."""
    rubber = speckle(np.full(3, rng.uniform(0.1, 0.2), np.float32), rng, 0.4)
    y = shift = 0.0
    for _ in range(rng.integers(2, 4)):
        shift = rng.uniform(-0.06, 0.06)
        board.part(chaikin(box(shift - 0.46, y, shift + 0.46, y + 0.27), 2), rubber, bulge=0.9, tone=1.3)
        for x in np.arange(-0.38, 0.39, 0.095):
            board.part(
                box(shift + x, y + 0.03, shift + x + 0.025, y + 0.22), plain(np.full(3, 0.04, np.float32)), bulge=0
            )
        y += 0.25
    board.part(ellipse(shift, y - 0.01, 0.4, 0.08), rubber, bulge=0.2, tone=1.5)
    board.part(ellipse(shift, y - 0.01, 0.22, 0.04), plain(np.full(3, 0.02, np.float32)), bulge=0)


def log(board: Sketch, rng: Rng) -> None:
    """A felled trunk."""
    bark = wood(np.array([0.36, 0.26, 0.18], np.float32) * rng.uniform(0.7, 1.3), rng, rng.uniform(-0.08, 0.08))
    thick = rng.uniform(0.28, 0.42)
    board.part(capsule((-0.55, thick / 2 + 0.02), (0.5, thick / 2), thick, thick * 0.9), bark, bulge=0.9)
    board.part(capsule((-0.1, thick * 0.8), (0.05, thick + 0.12), 0.1, 0.07), bark)
    cut = np.array([0.78, 0.62, 0.42], np.float32)
    for share, tone in ((1.0, 0.7), (0.88, 1.0), (0.6, 0.85), (0.45, 1.0), (0.2, 0.8)):
        board.part(
            ellipse(-0.56, thick / 2 + 0.02, thick * 0.3 * share, thick * 0.5 * share), plain(cut * tone), bulge=0
        )


def machine(board: Sketch, rng: Rng) -> None:
    """A washing machine, somewhat rusty."""
    shell = np.full(3, rng.uniform(0.7, 0.95), np.float32) * np.array([1.0, 0.99, 0.96], np.float32)
    side = np.array([[0.34, 0], [0.5, 0.07], [0.5, 1.0], [0.34, 0.95]], np.float32)
    board.part(side, speckle(shell, rng, 0.08), bulge=0, tone=0.6)
    board.part(box(-0.38, 0, 0.34, 0.95), speckle(shell, rng, 0.05), bulge=0.15, tone=0.92)
    board.part(box(-0.34, 0.8, 0.3, 0.91), plain(shell * 0.75), bulge=0.1)
    board.part(ellipse(0.2, 0.855, 0.035, 0.035), plain(shell * 0.4))
    board.part(ellipse(-0.02, 0.42, 0.26, 0.26), plain(shell * 0.6), bulge=0.4)
    board.part(ellipse(-0.02, 0.42, 0.2, 0.2), plain(np.array([0.12, 0.15, 0.2], np.float32)), bulge=0.5)
    rust = np.array([0.5, 0.28, 0.14], np.float32)
    for _ in range(rng.integers(0, 4)):
        board.part(ellipse(rng.uniform(-0.35, 0.3), rng.uniform(0.02, 0.3), 0.05, 0.03), speckle(rust, rng), bulge=0)

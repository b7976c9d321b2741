"""Colours: of inlier classes (by name, as Cityscapes draws them), of labels, and of lines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.data import colours

__all__ = ["ANOMALY_COLOUR", "LINE_COLOURS", "LINE_COLOURS_ON_DARK", "VOID_COLOUR", "class_colours"]

ANOMALY_COLOUR = (228, 26, 28)
VOID_COLOUR = (140, 140, 140)

LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, distinct for colour-blind readers."""

LINE_COLOURS_ON_DARK = ("#4ba3e3", "#f08030", "#2cc79a", "#e29ac4", "#f0b429", "#9bdcff", "#f2f2f2")
"""The same hues, light enough for a dark ground."""


def class_colours(names: Sequence[str]) -> NDArray[np.uint8]:
    """One colour per class, C×3, uint8; a name without a known colour gets a hue of its own."""
    return np.array(colours.class_colours(names), np.uint8).reshape(-1, 3)

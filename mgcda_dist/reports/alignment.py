"""The domain gap as a picture: embeddings of pixels in two dimensions, by domain and by type, before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.reports.figures import _tidy, hex_of, new_figure, save_figure
from mgcda_dist.reports.palette import ANOMALY_COLOUR, LINE_COLOURS, class_colours

__all__ = ["EmbeddedPixels", "alignment_figure", "domain_accuracy"]

_RIDGE = 1e-3
_DOT = {"s": 7, "linewidths": 0, "alpha": 0.55}


@dataclass(frozen=True)
class EmbeddedPixels:
    """Embeddings of pixels, and what the pixels are.

    Attributes:
        embedding: n×D, of unit length.
        domain: n, index of the domain.
        type: n: 0 … C-1 inlier class, C anomaly, -1 where there is no label.
        image: n, number of the image; those of a domain are counted on.
    """

    embedding: NDArray[np.float32]
    domain: NDArray[np.int64]
    type: NDArray[np.int64]
    image: NDArray[np.int64]


def domain_accuracy(pixels: EmbeddedPixels, num_domains: int, num_classes: int) -> float:
    """Balanced accuracy of a linear classifier of the domains of pixels that are no anomalies.

    Ridge regression on every other image, measured on the rest; chance is 1 / domains present. The less a
    *linear* probe finds, the better the domains are aligned (in the spirit of the proxy A-distance: Ben-David et al.,
    Analysis of Representations for Domain Adaptation, 2006).

    Returns:
        In [0, 1]; NaN with fewer than two domains.
    """
    chosen = pixels.type != num_classes
    features = np.concatenate([pixels.embedding[chosen], np.ones((chosen.sum(), 1), np.float32)], axis=1)
    features, domain = features.astype(np.float64), pixels.domain[chosen]
    fitted = pixels.image[chosen] % 2 == 0
    present = [d for d in range(num_domains) if (domain[fitted] == d).any() and (domain[~fitted] == d).any()]
    if len(present) < 2:
        return float("nan")
    target = (domain[:, None] == np.array(present)).astype(np.float64)
    weight = 1.0 / np.array([(domain[fitted] == d).sum() or 1 for d in range(num_domains)])[domain[fitted], None]
    x = features[fitted]
    gram = x.T @ (weight * x) + _RIDGE * np.eye(x.shape[1])
    found = np.argmax(features[~fitted] @ np.linalg.solve(gram, x.T @ (weight * target[fitted])), axis=1)
    told, domain = np.array(present)[found] == domain[~fitted], domain[~fitted]
    return float(np.mean([told[domain == d].mean() for d in present]))


def alignment_figure(
    moments: Mapping[str, EmbeddedPixels],
    domains: Sequence[str],
    classes: Sequence[str],
    path: Path,
    title: str = "Embeddings of pixels",
) -> Path:
    """One column per moment: above coloured by domain, below by type; the two principal axes of each moment.

    Args:
        moments: heading → pixels.
        path: PNG to write.
    """
    figure = new_figure(5.2 * len(moments) + 1.4, 8.6)
    grid: Any = figure.subplots(2, len(moments), squeeze=False)
    types = [
        (index, name, hex_of(colour))
        for index, (name, colour) in enumerate(zip(classes, class_colours(classes), strict=True))
    ]
    types = [(-1, "not labelled", "#bbbbbb"), *types, (len(classes), "anomaly", hex_of(ANOMALY_COLOUR))]
    for column, (heading, pixels) in enumerate(moments.items()):
        points = _principal_axes(pixels.embedding)
        above, below = grid[0, column], grid[1, column]
        # In one order drawn by chance: no domain hides the others.
        order = np.random.default_rng(0).permutation(len(points))
        colours = np.array([LINE_COLOURS[d % len(LINE_COLOURS)] for d in range(len(domains))])
        above.scatter(*points[order].T, c=colours[pixels.domain[order]], **_DOT)
        accuracy, chance = domain_accuracy(pixels, len(domains), len(classes)), 1 / len(np.unique(pixels.domain))
        above.set_title(f"{heading}: domain told right {accuracy:.0%}, chance {chance:.0%}", fontsize=10)
        for index, _, colour in types:
            shape = {"marker": "^", "s": 14} if index == len(classes) else {}
            below.scatter(*points[pixels.type == index].T, c=colour, **(_DOT | shape))
        for axes in (above, below):
            _tidy(axes)
            axes.set_xticklabels([])
            axes.set_yticklabels([])
            axes.set_xlabel("first principal axis", fontsize=8)
            axes.set_ylabel("second principal axis", fontsize=8)
    _key(grid[0, -1], [(name, LINE_COLOURS[d % len(LINE_COLOURS)]) for d, name in enumerate(domains)], "domain")
    seen = {int(t) for pixels in moments.values() for t in np.unique(pixels.type)}
    _key(grid[1, -1], [(name, colour) for index, name, colour in types if index in seen], "type")
    figure.suptitle(title, fontsize=12)
    return save_figure(figure, path)


def _principal_axes(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """n×D → n×2; the sign of an axis is fixed by its largest entry."""
    centred = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, ::-1][:, :2]
    return centred @ (axes * np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]]))


def _key(axes: Any, entries: Sequence[tuple[str, str]], title: str) -> None:
    for name, colour in entries:
        axes.scatter([], [], c=colour, s=30, label=name, marker="^" if name == "anomaly" else "o")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False, title=title)

"""Confidence intervals by resampling images: pixels of one image are not independent, and sets are small.

Each image is kept as a coarse ranked table (at most a few thousand rows, 0.1 MB). A replicate draws the images with
replacement, and its pooled metrics follow from the weighted sum of their tables over a few thousand common bins. The
coarse tables are off the exact pooled values by less than 1e-3, far inside any interval they give. mIoU follows from
each image's counts per class, exactly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.choices import INTERVAL_LEVEL, REPLICATES
from mgcda_dist.errors import MgcdaError
from mgcda_dist.evaluation import codes as tree
from mgcda_dist.evaluation.metrics import area_under_roc, average_precision, best_f1, fpr_at_tpr
from mgcda_dist.evaluation.miou import ClassCounts, miou_of
from mgcda_dist.evaluation.pixel import merge_rows
from mgcda_dist.evaluation.ranks import anomaly_cuts, chunks, inlier_cuts
from mgcda_dist.method.randomness import numpy_generator
from mgcda_dist.trust import unpacked

__all__ = [
    "RESAMPLED_METRICS",
    "ImageTables",
    "Interval",
    "PairedDifference",
    "bootstrap",
    "paired_difference",
    "percentiles",
    "put_once",
    "replicates_of",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Rows = tuple[Ints, Ints]
_Counted = TypeVar("_Counted")

RESAMPLED_METRICS = ("ap", "auroc", "fpr95", "best_f1")
"""Metrics that come from scores; with class counts there is `miou`, too."""
_PER_OCTAVE, _PARTS = 256, 2048  # rows per image
_REPLICATES_AT_ONCE = 64


@dataclass(frozen=True)
class Interval:
    """A metric's value on the set, and the percentile interval over images (NaN where the metric does not exist)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """Second run minus first run on the same images: value, percentile interval, two-sided p of "no difference"."""

    value: float
    low: float
    high: float
    p_value: float


class ImageTables:
    """Coarse ranked tables of the images of one evaluation set, and their counts per class, by image key.

    Tables of ranks merge; the result does not depend on order or world size, because images are taken in key order.
    """

    def __init__(self) -> None:
        self._tables: dict[str, tuple[Rows, Rows]] = {}
        self._classes: dict[str, ClassCounts] = {}

    def __len__(self) -> int:
        return len(self._tables)

    @property
    def keys(self) -> tuple[str, ...]:
        """Image keys, sorted."""
        return tuple(sorted(self._tables))

    def add(self, key: str, inlier: NDArray[np.floating], anomaly: NDArray[np.floating]) -> None:
        """Add one image from what `split_scores` made of it.

        Raises:
            MgcdaError: the key came before.
        """
        nothing = (np.zeros(0, np.int64), np.zeros(0, np.int64))
        rows = (
            chunks(inlier, inlier_cuts(inlier.size, _PER_OCTAVE)) if inlier.size else nothing,
            chunks(anomaly, anomaly_cuts(anomaly.size, _PARTS)) if anomaly.size else nothing,
        )
        put_once(self._tables, key, rows)

    def add_classes(self, key: str, counts: ClassCounts) -> None:
        """Add what an image's predicted classes gave, `Confusion.counts`."""
        self._classes[key] = counts

    def class_counts(self) -> NDArray[np.int64] | None:
        """Images × 3 × C in key order, see `Confusion.counts`; None if they are not known of every image."""
        known = bool(self._tables) and self._classes.keys() == self._tables.keys()
        return np.stack([self._classes[key] for key in self.keys]) if known else None

    def merge(self, other: ImageTables) -> None:
        """Add the images of another rank."""
        for key, (inlier, anomaly) in other._tables.items():
            put_once(self._tables, key, (inlier, anomaly))
        self._classes |= other._classes

    def save(self, path: Path) -> None:
        """Write all tables to an .npz file, so that runs can be compared later."""
        parts = [part for key in self.keys for part in self._tables[key]]
        sizes = np.array([counts.size for _, counts in parts], np.int64)
        codes, counts = _concatenate(parts)
        classes = self.class_counts()
        arrays = {"keys": np.array(self.keys, np.str_), "sizes": sizes, "codes": codes, "counts": counts}
        arrays |= {} if classes is None else {"classes": classes}
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> ImageTables:
        """Read what `save` wrote."""
        tables = cls()
        # Opened here: of a file that is cut off, NumPy would leave its own handle open.
        with unpacked(path).open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            ends = np.cumsum(file["sizes"])[:-1]
            parts = list(zip(np.split(file["codes"], ends), np.split(file["counts"], ends), strict=True))
            for index, key in enumerate(file["keys"]):
                put_once(tables._tables, str(key), (parts[2 * index], parts[2 * index + 1]))
            if "classes" in file:  # not before the version that has intervals of mIoU
                tables._classes = dict(zip(map(str, file["keys"]), file["classes"], strict=True))
        return tables

    def binned(self) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """Anomaly and inlier counts per image over common bins (each I×R, highest first), and which are ties."""
        every = [self._tables[key] for key in self.keys]
        inlier, anomaly = (_concatenate(rows[side] for rows in every) for side in range(2))
        counts = merge_rows(inlier, anomaly)
        if not counts.tied.size:
            return np.zeros((len(every), 0)), np.zeros((len(every), 0)), counts.tied
        edges = _bin_edges(counts.anomaly, counts.inlier)
        tied = np.logical_and.reduceat(counts.tied, edges) & (np.diff(edges, append=counts.tied.size) == 1)
        # merge_rows has one row per node, highest first: find each image's rows there, then their bins.
        places = iter(tree.places([codes for rows in every for codes, _ in rows]))
        tables = np.zeros((2, len(every), edges.size))
        for image, rows in enumerate(every):
            for side, (_, values) in enumerate(rows):
                row = counts.threshold.size - 1 - next(places)
                np.add.at(tables[side, image], np.searchsorted(edges, row, side="right") - 1, values)
        return tables[1], tables[0], tied


def put_once(table: dict[str, _Counted], key: str, counted: _Counted) -> None:
    """Add what was counted on an image; `MgcdaError` if the key came before."""
    if key in table:
        raise MgcdaError(key, "this image was counted before", "give every image of the set its own key")
    table[key] = counted


def bootstrap(
    tables: ImageTables, *, replicates: int = REPLICATES, level: float = INTERVAL_LEVEL, seed: int = 0
) -> dict[str, Interval]:
    """Percentile intervals of the pooled metrics over images.

    Args:
        tables: at least one image.
        replicates: draws of the whole set with replacement.
        level: coverage, e.g. 0.95.
        seed: names the draws; equal seeds draw equal images.
    """
    draws = replicates_of(tables, replicates=replicates, seed=seed)
    return {name: Interval(float(each[0]), *percentiles(each[1:], level)) for name, each in draws.items()}


def replicates_of(tables: ImageTables, *, replicates: int = REPLICATES, seed: int = 0) -> dict[str, Floats]:
    """The pooled metrics of the set itself and, after it, of its replicates: 1 + replicates values each.

    Equal seeds draw equal images from every set with the same image keys, so the arrays of two runs may be subtracted.
    """
    weights = np.concatenate([np.ones((1, len(tables))), image_weights(len(tables), replicates, seed)])
    classes = tables.class_counts()
    return _metrics(tables.binned(), weights) | ({} if classes is None else {"miou": miou_of(weights, classes)})


def paired_difference(differences: Floats, level: float) -> PairedDifference:
    """A difference on the set itself (first value) with the interval and p-value of its replicates (the rest)."""
    draws = differences[1:][np.isfinite(differences[1:])]
    # + 1: the set itself is one of the possible draws, so that p is never 0.
    tail = (min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0)) + 1) / (draws.size + 1)
    return PairedDifference(float(differences[0]), *percentiles(draws, level), float(min(1.0, 2.0 * tail)))


def percentiles(draws: Floats, level: float) -> tuple[float, float]:
    """The central interval that holds the share `level` of the finite draws; NaN if there is none."""
    draws = draws[np.isfinite(draws)]
    if not draws.size:
        return float("nan"), float("nan")
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def image_weights(num_images: int, replicates: int, seed: int) -> Floats:
    """Times that each image is drawn, K×I: a function of the number of images and the seed, equal for all metrics."""
    drawn = numpy_generator(seed, "bootstrap").integers(0, num_images, (replicates, num_images))
    weights = np.zeros((replicates, num_images))
    np.add.at(weights, (np.arange(replicates)[:, None], drawn), 1.0)
    return weights


def _metrics(binned: tuple[Floats, Floats, NDArray[np.bool_]], weights: Floats) -> dict[str, Floats]:
    anomaly, inlier, tied = binned
    if not tied.size:  # no pixel of any image is valid
        return {name: np.full(len(weights), np.nan) for name in RESAMPLED_METRICS}
    parts: dict[str, list[Floats]] = {name: [] for name in RESAMPLED_METRICS}
    for start in range(0, len(weights), _REPLICATES_AT_ONCE):
        some = weights[start : start + _REPLICATES_AT_ONCE]
        p, n = some @ anomaly, some @ inlier
        complete = (p.sum(-1) > 0) & (n.sum(-1) > 0)
        parts["ap"].append(np.where(complete, average_precision(p, n, tied), np.nan))
        parts["auroc"].append(np.where(complete, area_under_roc(p, n), np.nan))
        parts["fpr95"].append(np.where(complete, fpr_at_tpr(p, n, tied), np.nan))
        parts["best_f1"].append(np.where(complete, best_f1(p, n), np.nan))
    return {name: np.concatenate(values) for name, values in parts.items()}


def _concatenate(rows: Iterable[Rows]) -> Rows:
    pairs = list(rows)
    return tree.joined([codes for codes, _ in pairs]), np.concatenate([np.zeros(0, np.int64), *(n for _, n in pairs)])


def _bin_edges(anomaly: Ints, inlier: Ints) -> Ints:
    """First rows of bins that hold about 1/1024 of the anomalies and 1/512 octave of the inliers from the top."""
    tp, fp = np.cumsum(anomaly), np.cumsum(inlier)
    by_anomaly = np.floor(1024 * tp / max(int(tp[-1]), 1))
    by_inlier = np.floor(512 * np.log2(np.maximum(fp, 1)))
    new = (np.diff(by_anomaly) > 0) | (np.diff(by_inlier) > 0)
    return np.concatenate([np.zeros(1, np.int64), np.flatnonzero(new) + 1])

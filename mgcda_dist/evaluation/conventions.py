"""All pixel metrics of one set in one pass: any conventions side by side, tables for intervals, and a breakdown.

The conventions and their sources are in docs/metrics.md. Memory does not grow with the pixels; per frame it keeps
a dozen numbers for `per_image`, 18 kB for `smiyc`, and less than 0.1 MB for the bootstrap over images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.choices import ANOMALY, Convention
from mgcda_dist.errors import MgcdaError
from mgcda_dist.evaluation.bootstrap import ImageTables
from mgcda_dist.evaluation.metrics import PixelMetrics, known_convention, mean_per_image, pixel_metrics
from mgcda_dist.evaluation.pixel import PixelHistogram, as_array, exact_counts, split_scores
from mgcda_dist.evaluation.ranks import RankTable, anomaly_cuts, chunks
from mgcda_dist.evaluation.smiyc import SmiycFrame, smiyc_frame, smiyc_metrics

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PixelEvaluation"]

OTHER = "other"
"""Category of anomaly pixels whose id has no name."""

_MAX_KINDS = 64  # categories, or groups
_KIND_ROWS = 1 << 15  # rows of each: 64 kinds stay under 0.2 GB
_KIND_PARTS = 1 << 13


class PixelEvaluation:
    """Pixel metrics of the frames of one set.

    Objects of ranks pickle and merge; results do not depend on order or world size, because frames are taken in the
    order of their keys.

    Args:
        conventions: which to report, names of `choices.CONVENTIONS`.

    Raises:
        MgcdaError: unknown convention.
    """

    def __init__(self, conventions: Iterable[str] = ("pooled",)) -> None:
        self.conventions: tuple[Convention, ...] = tuple(known_convention(name) for name in conventions)
        self.tables = ImageTables()
        self.pooled = PixelHistogram()
        self._skipping = PixelHistogram()
        self._images: dict[str, PixelMetrics] = {}
        self._smiyc: dict[str, SmiycFrame] = {}
        self._categories: dict[str, RankTable] = {}
        self._frames_with: dict[str, int] = {}
        self._groups: dict[str, PixelHistogram] = {}

    def update(
        self,
        key: str,
        score: NDArray[np.generic] | Tensor,
        label: NDArray[np.generic] | Tensor,
        *,
        category: NDArray[np.integer] | None = None,
        names: Mapping[int, str] | None = None,
        group: str = "",
    ) -> None:
        """Count one frame.

        Args:
            key: name of the frame, its own in the set; errors carry it.
            score: H×W, floating point, higher = more anomalous.
            label: H×W: 0 … 253 inlier, 254 anomaly, 255 void.
            category: H×W ids that say what each anomaly pixel shows (other pixels may hold anything); None: no
                breakdown by category.
            names: id → name; several ids may share one, and an id without a name is of the category "other".
            group: domain, city, weather … of the frame; empty: none.

        Raises:
            MgcdaError: shapes differ, a valid pixel's score is NaN or infinite, the key came before, more than 64
                categories or groups.
        """
        values, labels = as_array(score), as_array(label)
        inlier, anomaly = split_scores(values, labels, key)
        self.tables.add(key, inlier, anomaly)  # first: it refuses a key that came before
        self.pooled.add(inlier, anomaly)
        if "skip_empty" in self.conventions and anomaly.size:
            self._skipping.add(inlier, anomaly)
        if "per_image" in self.conventions:
            self._images[key] = pixel_metrics(exact_counts(inlier, anomaly), 1, convention="per_image")
        if "smiyc" in self.conventions:
            self._smiyc[key] = smiyc_frame(inlier, anomaly, key)
        if group:
            self._group(group).add(inlier, anomaly)
        if category is not None:
            self._count_categories(key, values, labels, category, names or {})

    def merge(self, other: PixelEvaluation) -> None:
        """Add the frames of another rank.

        Raises:
            MgcdaError: a frame was counted on both.
        """
        self.tables.merge(other.tables)
        self.pooled.merge(other.pooled)
        self._skipping.merge(other._skipping)
        self._images |= other._images
        self._smiyc |= other._smiyc
        for name, histogram in other._groups.items():
            self._group(name).merge(histogram)
        for name, table in other._categories.items():
            self._category(name).add(*table.rows(), table.shift)
            self._frames_with[name] += other._frames_with[name]

    def results(self) -> dict[str, PixelMetrics]:
        """The metrics under each convention, in the order given."""
        return {name: self._result(name) for name in self.conventions}

    def by_category(self) -> dict[str, PixelMetrics]:
        """Pooled metrics of each category's anomaly pixels against *all* inlier pixels of the set, by name.

        Categories share the inliers, so their AUROC and FPR95 compare with one another and with the set's; AP does not,
        because a rare category has a low prior: `num_anomaly` stands with it.
        """
        return {
            name: pixel_metrics(self.pooled.counts_against(table), self._frames_with[name])
            for name, table in sorted(self._categories.items())
        }

    def by_group(self) -> dict[str, PixelMetrics]:
        """Pooled metrics of each group's frames on their own, by name."""
        return {name: histogram.result() for name, histogram in sorted(self._groups.items())}

    def _result(self, convention: Convention) -> PixelMetrics:
        match convention:
            case "pooled" | "pooled_nearest":
                return self.pooled.result(convention)
            case "skip_empty":
                return self._skipping.result("skip_empty")
            case "per_image":
                total = self.pooled.result()
                return mean_per_image([self._images[key] for key in sorted(self._images)], total)
            case "smiyc":
                return smiyc_metrics([self._smiyc[key] for key in sorted(self._smiyc)])

    def _count_categories(
        self,
        key: str,
        score: NDArray[np.generic],
        label: NDArray[np.generic],
        category: NDArray[np.integer],
        names: Mapping[int, str],
    ) -> None:
        if category.shape != label.shape:
            problem = f"the category map has shape {category.shape}, the label {label.shape}"
            raise MgcdaError(key, problem, "give one id per pixel of the label")
        anomaly = label == ANOMALY
        ids, values = category[anomaly], score[anomaly].astype(np.float64)
        present = [int(each) for each in np.unique(ids)]
        for name in {names.get(each, OTHER) for each in present}:
            of_it = np.isin(ids, [each for each in present if names.get(each, OTHER) == name])
            part = np.sort(values[of_it])
            self._category(name).add(*chunks(part, anomaly_cuts(part.size, _KIND_PARTS)))
            self._frames_with[name] += 1

    def _category(self, name: str) -> RankTable:
        if name not in self._categories:
            _check_number(name, self._categories, "categories")
            self._categories[name], self._frames_with[name] = RankTable(_KIND_ROWS), 0
        return self._categories[name]

    def _group(self, name: str) -> PixelHistogram:
        if name not in self._groups:
            _check_number(name, self._groups, "groups")
            self._groups[name] = PixelHistogram(max_rows=_KIND_ROWS, parts=_KIND_PARTS)
        return self._groups[name]


def _check_number(name: str, kinds: Mapping[str, object], what: str) -> None:
    if len(kinds) == _MAX_KINDS:
        raise MgcdaError(name, f"more than {_MAX_KINDS} {what} in one set", "give several ids one name")

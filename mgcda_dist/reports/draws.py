"""Replicates of the metrics of runs: what intervals and tests of a comparison are made of."""

from __future__ import annotations

from collections.abc import Callable
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.errors import MgcdaError
from mgcda_dist.evaluation.bootstrap import ImageTables, replicates_of
from mgcda_dist.evaluation.results import SetNumbers
from mgcda_dist.method.randomness import numpy_generator
from mgcda_dist.reports.groups import Group
from mgcda_dist.reports.runs import RunRecord
from mgcda_dist.trust import below

__all__ = ["RESAMPLED", "Draws", "Progress", "convention_of", "numbers_of"]

Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]
"""Receives the tables resampled so far, and how many there are."""

RESAMPLED = "pooled"
"""The convention whose metrics the bootstrap has; intervals of another one would be of other numbers."""


class Draws:
    """Replicates of each run's metrics on a set, computed once: (1 + replicates) per metric."""

    def __init__(self, replicates: int, seed: int, num_tables: int, progress: Progress | None) -> None:
        self._replicates, self._seed, self._total, self._progress = replicates, seed, num_tables, progress
        self._known: dict[tuple[str, str], tuple[tuple[str, ...], dict[str, Floats]] | None] = {}

    def of(self, run: RunRecord, set_name: str) -> tuple[tuple[str, ...], dict[str, Floats]] | None:
        """Image keys and replicates; None if the run did not keep its frames."""
        key = (run.source, set_name)
        if key not in self._known:
            self._known[key] = self._read(run, set_name)
            if self._progress is not None:
                self._progress(len(self._known), self._total)
        return self._known[key]

    def of_group(self, group: Group, set_name: str, metric: str) -> Floats | None:
        """Mean over drawn runs, one value per replicate after that of the group itself."""
        per_run: list[Floats] = []
        for run in group.runs:
            found = self.of(run, set_name)
            if found is None or metric not in found[1]:
                return None
            per_run.append(found[1][metric])
        stacked = np.stack(per_run)
        num_runs = len(per_run)
        if num_runs == 1:
            return stacked[0]
        # Named by the seeds, so that groups with equal seeds draw equal ones: their noise in common cancels.
        generator = numpy_generator(self._seed, "runs", *group.seeds)
        drawn = generator.integers(0, num_runs, (num_runs - 1, self._replicates))
        means = np.take_along_axis(stacked[:, 1:], drawn, axis=0).mean(axis=0)
        return np.concatenate([stacked[:, :1].mean(axis=0), means])

    def _read(self, run: RunRecord, set_name: str) -> tuple[tuple[str, ...], dict[str, Floats]] | None:
        path = None if run.evaluation is None else below(run.evaluation, f"sets/{set_name}/frames.npz")
        if path is None or not path.is_file() or convention_of(run) != RESAMPLED:
            return None
        try:
            tables = ImageTables.load(path)
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise MgcdaError(str(path), f"not readable: {error}", f"evaluate {run.name} again") from None
        return tables.keys, replicates_of(tables, replicates=self._replicates, seed=self._seed)


def numbers_of(run: RunRecord, set_name: str) -> SetNumbers | None:
    """The numbers of a run on a set; None if it was not evaluated there."""
    return None if run.results is None else run.results.sets.get(set_name)


def convention_of(run: RunRecord) -> str:
    """Pooling convention of each set."""
    return "unknown" if run.results is None else run.results.settings.convention

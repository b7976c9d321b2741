"""Comparison of runs from a program."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mgcda_dist.api.run import Run
from mgcda_dist.choices import INTERVAL_LEVEL, REPLICATES
from mgcda_dist.errors import ConfigError

if TYPE_CHECKING:
    from mgcda_dist.reports.compare import Comparison
    from mgcda_dist.reports.draws import Progress

__all__ = ["compare", "compare_found"]


def compare(
    *runs: Run | str | Path,
    reference: str | None = None,
    metrics: Sequence[str] = (),
    replicates: int = REPLICATES,
    level: float = INTERVAL_LEVEL,
) -> Comparison:
    """Compare runs and evaluations: parameters that differ, metrics with intervals, significant differences.

    Runs that differ in nothing but their seed form a group, and groups are compared.

    Args:
        runs: runs, and folders of runs or evaluations.
        reference: name of the run or group that the others are compared with; None: the first.
        metrics: keys of `choices.METRICS`; empty: ap, fpr95, auroc, miou.
        replicates: draws of the bootstrap.
        level: coverage of the intervals.

    Returns:
        The numbers; `str` of it is a table in Markdown.

    Raises:
        MgcdaError: no run, or a folder that holds none.
    """
    for each in runs:
        folder = each.folder if isinstance(each, Run) else Path(each)
        if not folder.is_dir():
            raise ConfigError(str(each), "there is no such folder", "give runs, or their folders")
    words = [str(each.folder if isinstance(each, Run) else each) for each in runs]
    return compare_found(words, reference=reference, metrics=metrics, replicates=replicates, level=level)


def compare_found(
    words: Sequence[str],
    *,
    runs: Path = Path("runs"),
    mlflow_uri: str | None = None,
    experiment: str | None = None,
    search: str | None = None,
    reference: str | None = None,
    metrics: Sequence[str] = (),
    replicates: int = REPLICATES,
    level: float = INTERVAL_LEVEL,
    progress: Progress | None = None,
) -> Comparison:
    """`compare` of what words mean: run folders, MLflow run ids, names, sweeps, experiments; see `find_runs`."""
    from mgcda_dist.reports.compare import compare as compared
    from mgcda_dist.reports.runs import find_runs

    if not words and experiment is None and search is None:
        raise ConfigError("compare", "which runs?", "give two or more, for example runs/baseline and runs/full")
    records, notes = find_runs(words, runs=runs, mlflow_uri=mlflow_uri, experiment=experiment, search=search)
    comparison = compared(
        records, reference=reference, metrics=metrics, replicates=replicates, level=level, progress=progress
    )
    comparison.notes += [f"{note[:1].upper()}{note[1:]}." for note in notes]
    return comparison

"""Comparing runs: which parameters differ, what each reached, which differences are more than chance.

Runs that differ in nothing but their seed form a group. A group's value is the mean over its runs. Its interval, and
that of its difference to the reference group, come from replicates that draw images (the same ones for every run) and
runs: of K runs, K - 1 are drawn with replacement, which makes the variance of the drawn mean that of the mean of K
(McCarthy and Snowden, The Bootstrap and Finite Population Sampling, 1985). p-values are corrected by Holm's method over
the groups of one column (one metric on one set).

What was measured in another way (convention, data, frames) is not subtracted, and the comparison says so in words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mgcda_dist.choices import HEADLINE_METRICS, INTERVAL_LEVEL, METRICS, REPLICATES
from mgcda_dist.errors import MgcdaError
from mgcda_dist.evaluation.bootstrap import RESAMPLED_METRICS, paired_difference, percentiles
from mgcda_dist.reports.draws import RESAMPLED, Draws, Progress, convention_of, numbers_of
from mgcda_dist.reports.groups import Group, differing_params, group_runs
from mgcda_dist.reports.runs import RunRecord
from mgcda_dist.tracking.tags import Tag

__all__ = ["Comparison", "Difference", "GroupValue", "SetComparison", "compare"]

_FEW_FRAMES = 20
"""Of a mean over n frames a 95 % percentile interval is ±1.96·√((n-1)/n) standard errors, and Student's t puts that at
87 % for n = 6, 91 % for 12, 93 % for 20."""


@dataclass(frozen=True)
class GroupValue:
    """A group's value of a metric, all as fractions.

    Attributes:
        value: mean over the runs.
        spread: standard deviation over the runs (n - 1); NaN with one run.
        low, high: interval over images and runs; NaN where no run kept its frames.
        num_runs: runs that have the metric.
    """

    value: float
    spread: float
    low: float
    high: float
    num_runs: int


@dataclass(frozen=True)
class Difference:
    """A group minus the reference group, as fractions; p and interval are NaN where a run kept no frames.

    Attributes:
        value: difference of the two means.
        low, high: interval over images and runs.
        p_value: two-sided, of "no difference".
        p_corrected: by Holm's method over the groups of the column.
        verdict: `better`, `worse`, `not significant`, or `not tested`.
    """

    value: float
    low: float
    high: float
    p_value: float
    p_corrected: float
    verdict: str


@dataclass
class SetComparison:
    """One evaluation set: values per group and metric, differences to the reference, and what keeps groups apart."""

    name: str
    convention: str
    frames: int
    metrics: tuple[str, ...] = ()
    cells: dict[str, dict[str, GroupValue]] = field(default_factory=dict)
    differences: dict[str, dict[str, Difference]] = field(default_factory=dict)
    marks: list[str] = field(default_factory=list)


@dataclass
class Comparison:
    """Everything a table says.

    Attributes:
        groups: in the order of the runs given.
        reference: name of the group that the others are compared with.
        params: per parameter that differs its value in each group, as text.
        sets: per evaluation set.
        notes: what a reader must know, in words.
        replicates, level, seed: of the bootstrap.
    """

    groups: list[Group]
    reference: str
    params: dict[str, list[str]]
    sets: list[SetComparison]
    notes: list[str]
    replicates: int
    level: float
    seed: int

    def __str__(self) -> str:
        from mgcda_dist.reports.tables import markdown

        return markdown(self)

    def _repr_markdown_(self) -> str:
        return str(self)


def compare(
    records: Sequence[RunRecord],
    *,
    reference: str | None = None,
    metrics: Sequence[str] = (),
    replicates: int = REPLICATES,
    level: float = INTERVAL_LEVEL,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Compare runs on every evaluation set that any of them has.

    Args:
        records: at least one run; those without results are left out, and a note names them.
        reference: name of the group, or of one of its runs, that the others are compared with; default: the first.
        metrics: names to show, of those in `results.json`; default: ap, fpr95, auroc, miou where they exist.
        level: coverage of the intervals; 1 - level is the level of significance.
        seed: names the draws.
        progress: told how far the resampling is.

    Raises:
        MgcdaError: no such reference or metric, or no run with results.
    """
    left_out = [record.name for record in records if not _has_numbers(record)]
    if len(left_out) == len(records):
        problem = "none of the runs has results"
        raise MgcdaError(", ".join(left_out), problem, "let them finish, or `mgcda evaluate` them")
    if reference in left_out:
        raise MgcdaError("reference", f"{reference} has no results yet", "let it finish, or name another run")
    records = [record for record in records if _has_numbers(record)]
    groups = group_runs(records)
    base = _reference(groups, reference)
    comparison = Comparison(groups, base.name, differing_params(groups), [], [], replicates, level, seed)
    if left_out:
        comparison.notes.append(f"Left out, no results yet: {', '.join(left_out)}.")
    measured = [record.results.sets for record in records if record.results is not None]
    names = list(dict.fromkeys(name for sets in measured for name in sets))
    available = {metric for sets in measured for numbers in sets.values() for metric in numbers.metrics}
    for metric in metrics:
        if metric not in available:
            raise MgcdaError(f"metric {metric!r}", "no run has it", f"there are {', '.join(sorted(available))}")
    shown = tuple(metrics) or tuple(m for m in HEADLINE_METRICS if m in available)
    num_tables = sum(map(len, measured))
    draws = Draws(replicates, seed, num_tables, progress)
    for name in names:
        comparison.sets.append(_compare_set(name, comparison, base, shown, draws))
    comparison.notes += _notes(comparison)
    return comparison


def _compare_set(name: str, comparison: Comparison, base: Group, shown: Sequence[str], draws: Draws) -> SetComparison:
    groups = [group for group in comparison.groups if any(numbers_of(run, name) for run in group.runs)]
    base = base if base in groups else groups[0]
    first = next(run for run in base.runs if numbers_of(run, name))
    numbers = numbers_of(first, name)
    result = SetComparison(name, convention_of(first), numbers.frames if numbers is not None else 0)
    if base.name != comparison.reference:
        result.marks.append(f"{comparison.reference} was not evaluated on {name}: compared with {base.name}")
    absent = [group.name for group in comparison.groups if group not in groups]
    if absent:
        result.marks.append(f"not evaluated on {name}: {', '.join(absent)}")
    apart: set[str] = set()
    for group in groups:
        reasons, warnings = _unlike(group, first, name, draws)
        if reasons:
            apart.add(group.name)
            result.marks.append(f"{group.name} is not compared with {base.name}: {'; '.join(reasons)}")
        result.marks += [f"{group.name}: {warning}" for warning in warnings]
        cells = {metric: _cell(group, name, metric, draws, comparison.level) for metric in shown}
        result.cells[group.name] = {metric: cell for metric, cell in cells.items() if cell is not None}
    result.metrics = tuple(m for m in shown if any(m in cells for cells in result.cells.values()))
    if base.name not in apart:
        others = [group for group in groups if group.name != base.name and group.name not in apart]
        for metric in result.metrics:
            found = _column(base, others, result, metric, draws, comparison.level)
            for group_name, difference in found.items():
                result.differences.setdefault(group_name, {})[metric] = difference
    result.marks += _without_intervals(groups, result, draws)
    return result


def _without_intervals(groups: Sequence[Group], result: SetComparison, draws: Draws) -> list[str]:
    """Runs whose numbers cannot be compared, with the reason."""
    runs = {run.name: draws.of(run, result.name) for g in groups for run in g.runs if numbers_of(run, result.name)}
    marks: list[str] = []
    without = sorted(name for name, found in runs.items() if found is None)
    if without and set(result.metrics) & {*RESAMPLED_METRICS, "miou"}:
        why = "the frames were not kept; evaluate again"
        if result.convention != RESAMPLED:
            why = f"the bootstrap has the convention {RESAMPLED} only"
        marks.append(f"no intervals for {', '.join(without)}: {why}")
    uncounted = sorted(name for name, found in runs.items() if found is not None and "miou" not in found[1])
    if uncounted and "miou" in result.metrics:
        marks.append(f"no intervals of mIoU for {', '.join(uncounted)}: an older evaluation; evaluate again")
    return marks


def _column(
    base: Group, others: Sequence[Group], result: SetComparison, metric: str, draws: Draws, level: float
) -> dict[str, Difference]:
    """Differences of one metric to the reference, p corrected over all of them."""
    before = draws.of_group(base, result.name, metric)
    plain: dict[str, tuple[float, float, float, float]] = {}
    for group in others:
        mine, theirs = result.cells[base.name].get(metric), result.cells[group.name].get(metric)
        if mine is None or theirs is None:
            continue
        after = draws.of_group(group, result.name, metric)
        low = high = p_value = math.nan
        if before is not None and after is not None:
            paired = paired_difference(after - before, level)
            low, high, p_value = paired.low, paired.high, paired.p_value
        plain[group.name] = (theirs.value - mine.value, low, high, p_value)
    tested = {name: numbers[3] for name, numbers in plain.items() if math.isfinite(numbers[3])}
    corrected = _holm(tested)
    found: dict[str, Difference] = {}
    for name, (value, low, high, p_value) in plain.items():
        p_corrected = corrected.get(name, math.nan)
        verdict = "not tested"
        if math.isfinite(p_corrected):
            gain = -value if metric in METRICS and METRICS[metric].lower_is_better else value
            verdict = "not significant" if p_corrected >= 1 - level else "better" if gain > 0 else "worse"
        found[name] = Difference(value, low, high, p_value, p_corrected, verdict)
    return found


def _cell(group: Group, set_name: str, metric: str, draws: Draws, level: float) -> GroupValue | None:
    rows = [numbers_of(run, set_name) for run in group.runs]
    values = [row.metrics[metric] for row in rows if row is not None and metric in row.metrics]
    if not values:
        return None
    low = high = math.nan
    replicates = draws.of_group(group, set_name, metric) if len(values) == len(rows) else None
    if replicates is not None:
        low, high = percentiles(replicates[1:], level)
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return GroupValue(float(np.mean(values)), spread, low, high, len(values))


def _unlike(group: Group, first: RunRecord, name: str, draws: Draws) -> tuple[list[str], list[str]]:
    """The reason why a group cannot be compared with the reference run on a set, and differences that allow it."""
    reasons, warnings = list[str](), list[str]()
    for run in group.runs:
        mine, theirs = numbers_of(run, name), numbers_of(first, name)
        if mine is None or theirs is None:
            warnings.append(f"{run.name} was not evaluated on {name}")
            continue
        if convention_of(run) != convention_of(first):
            reasons.append(f"convention {convention_of(run)}, not {convention_of(first)}")
        digests = [(row.data.manifest_digest or "unknown")[:8] for row in (mine, theirs)]
        if mine.data.manifest_digest != theirs.data.manifest_digest:
            reasons.append(f"other data of the same name (manifest digest {digests[0]}, not {digests[1]})")
        if mine.data.paste != theirs.data.paste:
            reasons.append("other objects were pasted, or in another way")
        here, there = draws.of(run, name), draws.of(first, name)
        if here is not None and there is not None and here[0] != there[0]:
            missing, extra = len(set(there[0]) - set(here[0])), len(set(here[0]) - set(there[0]))
            reasons.append(f"other frames ({missing} missing, {extra} more)")
        elif mine.frames != theirs.frames:
            reasons.append(f"{mine.frames} frames, not {theirs.frames}")
        elif mine.pixels != theirs.pixels and mine.pixels is not None and theirs.pixels is not None:
            reasons.append("other labels on the same frames: the numbers of anomaly and inlier pixels differ")
        options, others = ({} if r.results is None else r.results.settings.options() for r in (run, first))
        differing = [k for k in {**others, **options} if options.get(k) != others.get(k)]
        if differing:
            was = ", ".join(f"{key} {options.get(key)}, not {others.get(key)}" for key in differing)
            warnings.append(f"evaluated in another way: {was}")
    return list(dict.fromkeys(reasons)), list(dict.fromkeys(warnings))


def _notes(comparison: Comparison) -> list[str]:
    notes: list[str] = []
    level = f"{comparison.level:.0%}"
    if any(math.isfinite(cell.low) for s in comparison.sets for row in s.cells.values() for cell in row.values()):
        several = any(len(group.runs) > 1 for group in comparison.groups)
        over = "images and runs" if several else "images"
        notes.append(f"[low, high]: {level} bootstrap interval over {over}, {comparison.replicates} replicates.")
        if several:
            notes.append("±: standard deviation over the runs of a group.")
        else:
            notes.append("One run each: the intervals do not hold what another seed would change.")
    differences = [d for s in comparison.sets for row in s.differences.values() for d in row.values()]
    if any(math.isfinite(d.p_value) for d in differences):
        notes.append(
            f"Differences are paired over images; p is corrected over the rows of a column (Holm), not over columns; "
            f"significant: p < {1 - comparison.level:.2g}."
        )
    few = [group for group in comparison.groups if 1 < len(group.runs) < 5]
    if few and any(math.isfinite(d.p_value) for d in differences):
        counts = "/".join(str(n) for n in sorted({len(group.runs) for group in few}))
        notes.append(f"{counts} runs say little about the spread over seeds: read such an interval as a rough one.")
    small = [f"{s.name} ({s.frames})" for s in comparison.sets if s.frames < _FEW_FRAMES]
    if small and any(math.isfinite(d.p_value) for d in differences):
        notes.append(
            f"Few frames: {', '.join(small)}. The bootstrap is too sure of itself there; a small p proves little."
        )
    for group in comparison.groups:
        twice = sorted({seed for seed in group.seeds if group.seeds.count(seed) > 1})
        if all(twice) and twice:
            notes.append(f"{group.name}: several runs have the seed {', '.join(twice)}.")
        elif twice:
            notes.append(f"{group.name}: several runs name no seed; were they measured twice?")
    digests: dict[str, set[str]] = {}
    for record in (run for group in comparison.groups for run in group.runs):
        for each in record.inputs:
            if each.role.is_training:
                digests.setdefault(each.key, set()).add(each.digest)
    changed = sorted(use for use, found in digests.items() if len(found) > 1)
    if changed:
        notes.append(f"The runs did not read the same training data under the same name: {', '.join(changed)}.")
    commits = {run.tags.get(Tag.COMMIT, "")[:10] for group in comparison.groups for run in group.runs}
    if len(commits - {""}) > 1:
        notes.append(f"The runs come from different code: commits {', '.join(sorted(commits - {''}))}.")
    return notes


def _reference(groups: Sequence[Group], wanted: str | None) -> Group:
    if wanted is None:
        return groups[0]
    for group in groups:
        if wanted == group.name or any(wanted in (run.name, run.run_id, run.source) for run in group.runs):
            return group
    names = ", ".join(group.name for group in groups)
    raise MgcdaError("reference", f"none of the runs is called {wanted!r}", f"one of {names}")


def _holm(p_values: dict[str, float]) -> dict[str, float]:
    """Holm's step-down correction (Scandinavian Journal of Statistics 6, 1979)."""
    corrected: dict[str, float] = {}
    largest = 0.0
    for rank, (name, p_value) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_value))
        corrected[name] = largest
    return corrected


def _has_numbers(record: RunRecord) -> bool:
    return record.results is not None and bool(record.results.sets)

"""The sections of a report that are numbers: results, PR and ROC curves, the history of training, IoU per class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mgcda_dist.choices import METRICS
from mgcda_dist.evaluation.results import SetNumbers
from mgcda_dist.evaluation.tables import metric_column, metric_number
from mgcda_dist.reports.charts import Chart, line_chart
from mgcda_dist.reports.evaluated import EvaluatedSet
from mgcda_dist.reports.plots import curve_plots, history_plots, number
from mgcda_dist.reports.runs import RunRecord
from mgcda_dist.tables import Column, RunName, Table, best_in_bold

__all__ = ["Bar", "ChartGroup", "SetSection", "history_charts", "set_sections"]


@dataclass(frozen=True)
class Bar:
    """One run's IoU of one class, as text and as a share of the bar's width."""

    value: str
    share: float


@dataclass
class SetSection:
    """One evaluation set, all runs.

    Attributes:
        told: frames, pixels, data and its digest, in words.
        settings: per way of evaluating (convention, score, blur, size) the runs that were evaluated so.
        results: the metrics of each run; None: the set gave no number.
        curves: PR, ROC, ROC with a logarithmic axis; empty if no run kept its curves.
        classes: per inlier class the bars of the runs that have it.
        more: further numbers of the evaluation, a column per run; None: there are none.
    """

    name: str
    told: str = ""
    settings: list[str] = field(default_factory=list[str])
    results: Table | None = None
    curves: list[Chart] = field(default_factory=list[Chart])
    classes: list[tuple[str, list[tuple[int, Bar]]]] = field(default_factory=list[tuple[str, list[tuple[int, Bar]]]])
    more: Table | None = None


@dataclass
class ChartGroup:
    """Charts under one heading."""

    title: str
    charts: list[Chart] = field(default_factory=list[Chart])


def set_sections(runs: Sequence[RunRecord], sets: Sequence[Sequence[EvaluatedSet]]) -> list[SetSection]:
    """A section per evaluation set, in the order in which the runs name them."""
    names = list(dict.fromkeys(each.name for mine in sets for each in mine))
    sections: list[SetSection] = []
    for index, name in enumerate(names):
        found = [(run, each) for run, mine in enumerate(sets) for each in mine if each.name == name]
        section = SetSection(name, _told(found[0][1].row), _settings(runs, found))
        section.results, section.more = _results(runs, found), _further_numbers(runs, found)
        _fill_classes(section, found)
        drawn = [
            (runs[run].name, run, each.curves, each.row.metrics)
            for run, each in found
            if each.curves is not None and "ap" in each.row.metrics
        ]
        if drawn:
            charts = zip(("pr", "roc", "roclog"), curve_plots(drawn), strict=True)
            section.curves = [line_chart(f"set{index}-{kind}", plot) for kind, plot in charts]
        sections.append(section)
    return sections


def history_charts(runs: Sequence[RunRecord]) -> list[ChartGroup]:
    """Losses and health signals over the steps, in groups."""
    groups: dict[str, ChartGroup] = {}
    for index, (name, plot) in enumerate(history_plots([(run.name, run.history) for run in runs])):
        groups.setdefault(name, ChartGroup(name)).charts.append(line_chart(f"history{index}", plot))
    return list(groups.values())


def _results(runs: Sequence[RunRecord], found: Sequence[tuple[int, EvaluatedSet]]) -> Table | None:
    shown = [key for key in METRICS if any(key in each.row.metrics for _, each in found)]
    columns = [Column("run, %", align="left"), *map(metric_column, shown)]
    rows = [
        [RunName(runs[run].name, run), *(metric_number(each.row, key) for key in shown)]
        for run, each in found
    ]  # fmt: skip
    return best_in_bold(Table(columns, rows)) if shown else None


def _fill_classes(section: SetSection, found: Sequence[tuple[int, EvaluatedSet]]) -> None:
    for name in dict.fromkeys(name for _, each in found for name in each.row.iou):
        bars = [
            (run, Bar(number(each.row.iou[name], True), min(max(each.row.iou[name], 0.0), 1.0)))
            for run, each in found
            if name in each.row.iou
        ]
        section.classes.append((name.replace("_", " "), bars))


def _further_numbers(runs: Sequence[RunRecord], found: Sequence[tuple[int, EvaluatedSet]]) -> Table | None:
    """Numbers under other conventions, of components, instances, categories and groups."""
    flat = [_flat_numbers(each.row.as_json()) for _, each in found]
    names = list(dict.fromkeys(name for numbers in flat for name in numbers))
    columns = [Column("number", align="left"), *(Column(RunName(runs[run].name, run)) for run, _ in found)]
    rows = [[name, *(number(numbers[name]) if name in numbers else None for numbers in flat)] for name in names]
    return Table(columns, rows) if rows else None


def _flat_numbers(row: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Numbers of nested JSON objects by their path: the page lists all, whatever they are."""
    flat: dict[str, float] = {}
    for name, value in row.items():
        if not prefix and (name in METRICS or name in ("iou", "intervals", "frames")):
            continue
        if isinstance(value, dict):
            flat |= _flat_numbers(value, f"{prefix}{name} ")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            flat[f"{prefix}{name}".replace("_", " ")] = float(value)
    return flat


def _told(row: SetNumbers) -> str:
    words = [f"{row.frames} frames"] if row.frames else []
    if row.pixels is not None:
        total = row.pixels.anomaly + row.pixels.inlier
        share = f"{number(100 * row.pixels.anomaly / total)} %" if row.pixels.anomaly else "none"
        words.append(f"{share} of {total:,} judged pixels are anomalies")
    data = " ".join(word for word in (row.data.dataset, row.data.split) if word)
    digest = row.data.manifest_digest[:12]
    return ", ".join([*words, *([data] if data else []), *([f"manifest {digest}"] if digest else [])])


def _settings(runs: Sequence[RunRecord], found: Sequence[tuple[int, EvaluatedSet]]) -> list[str]:
    """Settings of the evaluations; by run where they differ."""
    ways: dict[str, list[str]] = {}
    for run, _ in found:
        results = runs[run].results
        assert results is not None
        options = {"convention": results.settings.convention} | results.settings.options()
        words = [
            f"{name.removesuffix('_px').replace('_', ' ')} {_plain(value)}{' px' if name.endswith('_px') else ''}"
            for name, value in options.items()
            if value not in (None, "none") and not isinstance(value, dict)
        ]
        ways.setdefault(", ".join(words), []).append(runs[run].name)
    return [way if len(ways) == 1 else f"{', '.join(names)}: {way}" for way, names in ways.items()]


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "×".join(map(str, value)) if isinstance(value, list) else str(value)

"""The sections of a report that are numbers: results, PR and ROC curves, the history of training, IoU per class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mgcda_dist.choices import METRICS
from mgcda_dist.evaluation.results import SetNumbers
from mgcda_dist.evaluation.tables import metric_column, metric_number
from mgcda_dist.reports.charts import Axis, Chart, Line, line_chart, number
from mgcda_dist.reports.evaluated import Curves, EvaluatedSet
from mgcda_dist.reports.histories import HISTORIES, HistoryPlot, chance_level, matching_metrics, smoothed
from mgcda_dist.reports.runs import RunRecord
from mgcda_dist.tables import Column, RunName, Table, best_in_bold

__all__ = ["Bar", "ChartGroup", "SetSection", "history_charts", "set_sections"]

_LOWEST_FPR = 1e-4
_FEW_POINTS = 20
_SMOOTHED_SHARE = 0.06


@dataclass(frozen=True)
class Bar:
    """One run's IoU of one class, as text and as a share of the bar's width."""

    value: str
    share: float


@dataclass
class SetSection:
    """One evaluation set, all runs.

    Attributes:
        name: of the set.
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
            (run, each, each.curves) for run, each in found if each.curves is not None and "ap" in each.row.metrics
        ]
        if drawn:
            section.curves = _curve_charts(f"set{index}", name, runs, drawn)
        sections.append(section)
    return sections


def history_charts(runs: Sequence[RunRecord]) -> list[ChartGroup]:
    """Losses and health signals over the steps: with one run a line per metric, with several a chart per metric."""
    groups: dict[str, ChartGroup] = {}
    for plot in HISTORIES:
        matched = [_without_twins(run, matching_metrics(run.history, plot.pattern)) for run in runs]
        labels = list(dict.fromkeys(label for each in matched for label in each))
        together = [labels] if len(runs) == 1 else [[label] for label in labels]
        for shown in together:
            lines = [
                _history_line(
                    runs[run], run if len(runs) > 1 else position, label, each[label], plot.exact, len(runs) > 1
                )
                for run, each in enumerate(matched)
                for position, label in enumerate(shown)
                if label in each
            ]
            if lines:
                group = groups.setdefault(plot.group, ChartGroup(plot.group))
                title = plot.title.removesuffix(" (dashed: chance)")
                title = title if len(together) == 1 else f"{title}: {shown[0]}"
                chart_id = f"history{sum(len(each.charts) for each in groups.values())}"
                group.charts.append(_history_chart(chart_id, title, plot, lines, runs, matched))
    return list(groups.values())


def _history_line(run: RunRecord, colour: int, label: str, metric: str, exact: bool, by_run: bool) -> Line:
    steps, values = run.history[metric]
    smooth = None if exact or len(values) < _FEW_POINTS else smoothed(values, _SMOOTHED_SHARE)
    return Line(run.name if by_run else label, steps, values, colour, smooth)


def _history_chart(
    chart_id: str,
    title: str,
    plot: HistoryPlot,
    lines: list[Line],
    runs: Sequence[RunRecord],
    matched: Sequence[dict[str, str]],
) -> Chart:
    levels = {
        chance_level(run.history, metric) for run, each in zip(runs, matched, strict=True) for metric in each.values()
    } - {None}
    level = None
    if len(levels) == 1:
        chance = levels.pop()
        assert chance is not None
        level = (chance, f"chance {number(chance)}")
    low, high = (0.0, 1.0) if plot.share else (None, None)
    y_axis = Axis(plot.unit, low, high, log=plot.log, from_zero=not plot.log)
    return line_chart(chart_id, title, Axis("step"), y_axis, lines, level=level)


def _without_twins(run: RunRecord, names: dict[str, str]) -> dict[str, str]:
    """Without metrics that are another one again (a group's learning rate with and without weight decay)."""
    kept: dict[str, str] = {}
    for label, metric in names.items():
        if not any(run.history[metric] == run.history[other] for other in kept.values() if _is_twin(metric, other)):
            kept[label] = metric
    return kept


def _is_twin(metric: str, other: str) -> bool:
    return metric.startswith("lr/") and other.startswith("lr/") and metric.startswith(other)


def _curve_charts(
    prefix: str, name: str, runs: Sequence[RunRecord], drawn: Sequence[tuple[int, EvaluatedSet, Curves]]
) -> list[Chart]:
    pr: list[Line] = []
    roc: list[Line] = []
    for run, each, curves in drawn:
        metrics, f1 = each.row.metrics, curves.f1()
        best = int(np.argmax(f1))
        dot = (float(curves.recall[best]), float(curves.precision[best]), f"best F1 {100 * float(f1[best]):.2f} %")
        # The first point's precision holds down to recall 0, as the step sum takes it.
        first = [np.zeros(1), curves.precision[:1], curves.threshold[:1]]
        x, y, threshold = (
            np.concatenate([begin, column])
            for begin, column in zip(first, (curves.recall, curves.precision, curves.threshold), strict=True)
        )
        note = _in_words(metrics, "ap")
        pr.append(Line(runs[run].name, x, y, run, dots=(dot,), note=note, extra={"threshold": threshold}))
        dots = ()
        if "fpr95" in metrics:
            dots = ((metrics["fpr95"], 0.95, _in_words(metrics, "fpr95")),)
        x, y, threshold = (
            np.concatenate([begin, column])
            for begin, column in zip(
                (np.zeros(1), np.zeros(1), curves.threshold[:1]),
                (curves.fpr, curves.recall, curves.threshold),
                strict=True,
            )
        )
        roc.append(
            Line(
                runs[run].name,
                x,
                y,
                run,
                dots=dots,
                note=_in_words(metrics, "auroc", "fpr95"),
                extra={"threshold": threshold},
            )
        )
    unit = {"low": 0.0, "high": 1.0, "percent": True}
    recall, tpr = Axis("recall", **unit), Axis("true positive rate", **unit)
    low_fpr = Axis("false positive rate", _LOWEST_FPR, 1.0, log=True, percent=True)
    level = (0.95, "95 %")
    return [
        line_chart(f"{prefix}-pr", "Precision and recall", recall, Axis("precision", **unit), pr,
                   behind=_equal_f1()),
        line_chart(f"{prefix}-roc", "ROC", Axis("false positive rate", **unit), tpr, roc, level=level),
        line_chart(f"{prefix}-roclog", "ROC, logarithmic axis", low_fpr, tpr, roc, level=level),
    ]  # fmt: skip


def _equal_f1() -> list[tuple[list[float], list[float], str]]:
    lines: list[tuple[list[float], list[float], str]] = []
    for f1 in (0.2, 0.4, 0.6, 0.8):
        recall = np.linspace(f1 / (2 - f1), 1, 60)
        lines.append((recall.tolist(), (f1 * recall / (2 * recall - f1)).tolist(), f"F1 {100 * f1:.0f}"))
    return lines


def _in_words(metrics: Mapping[str, float], *keys: str) -> str:
    return ", ".join(f"{METRICS[key].title} {number(metrics[key], True)} %" for key in keys if key in metrics)


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

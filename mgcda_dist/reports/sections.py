"""The sections of a report that are numbers: results, PR and ROC curves, the history of training, IoU per class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mgcda_dist.reports.charts import Axis, Chart, Line, line_chart, number
from mgcda_dist.reports.evaluated import Curves, EvaluatedSet
from mgcda_dist.reports.histories import HISTORIES, HistoryPlot, chance_level, matching_metrics, smoothed
from mgcda_dist.reports.runs import RunRecord

__all__ = ["Bar", "ChartGroup", "Result", "SetSection", "history_charts", "set_sections"]

METRICS = {"ap": "AP", "auroc": "AUROC", "fpr95": "FPR95", "best_f1": "best F1", "miou": "mIoU"}
_LOWER_IS_BETTER = frozenset({"fpr95"})
_LOWEST_FPR = 1e-4
_FEW_POINTS = 20
_SMOOTHED_SHARE = 0.06


@dataclass(frozen=True)
class Result:
    """A number of one run on one set: shown value, interval or nothing, and whether no other run has a better one."""

    value: str
    interval: str = ""
    best: bool = False


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
        metrics: headings of the columns, with the direction that is better.
        rows: per run its number and results, in the order of the columns.
        curves: PR, ROC, ROC with a logarithmic axis; empty if no run kept its curves.
        classes: per inlier class the bars of the runs that have it.
        more: further numbers of `results.json`, per name the value of each run.
    """

    name: str
    told: str = ""
    settings: list[str] = field(default_factory=list[str])
    metrics: list[str] = field(default_factory=list[str])
    rows: list[tuple[int, list[Result]]] = field(default_factory=list[tuple[int, list[Result]]])
    curves: list[Chart] = field(default_factory=list[Chart])
    classes: list[tuple[str, list[tuple[int, Bar]]]] = field(default_factory=list[tuple[str, list[tuple[int, Bar]]]])
    more: list[tuple[str, list[str]]] = field(default_factory=list[tuple[str, list[str]]])


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
        _fill_results(section, found)
        _fill_classes(section, found)
        _fill_more(section, found)
        drawn = [(run, each, each.curves) for run, each in found if each.curves is not None and "ap" in each.row]
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
        row, f1 = each.row, curves.f1()
        best = int(np.argmax(f1))
        dot = (float(curves.recall[best]), float(curves.precision[best]), f"best F1 {100 * float(f1[best]):.2f} %")
        # The first point's precision holds down to recall 0, as the step sum takes it.
        first = [np.zeros(1), curves.precision[:1], curves.threshold[:1]]
        x, y, threshold = (
            np.concatenate([begin, column])
            for begin, column in zip(first, (curves.recall, curves.precision, curves.threshold), strict=True)
        )
        note = f"AP {number(float(row['ap']), True)} %"
        pr.append(Line(runs[run].name, x, y, run, dots=(dot,), note=note, extra={"threshold": threshold}))
        dots = ()
        if _is_number(row.get("fpr95")):
            text = f"FPR95 {number(float(row['fpr95']), True)} %"
            dots = ((float(row["fpr95"]), 0.95, text),)
        parts = [f"{METRICS[m]} {number(float(row[m]), True)} %" for m in ("auroc", "fpr95") if _is_number(row.get(m))]
        x, y, threshold = (
            np.concatenate([begin, column])
            for begin, column in zip(
                (np.zeros(1), np.zeros(1), curves.threshold[:1]),
                (curves.fpr, curves.recall, curves.threshold),
                strict=True,
            )
        )
        roc.append(Line(runs[run].name, x, y, run, dots=dots, note=", ".join(parts), extra={"threshold": threshold}))
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


def _fill_results(section: SetSection, found: Sequence[tuple[int, EvaluatedSet]]) -> None:
    shown = [metric for metric in METRICS if any(_is_number(each.row.get(metric)) for _, each in found)]
    section.metrics = [f"{METRICS[metric]} {'↓' if metric in _LOWER_IS_BETTER else '↑'}" for metric in shown]
    best: dict[str, float] = {}
    for metric in shown:
        values = [float(each.row[metric]) for _, each in found if _is_number(each.row.get(metric))]
        if len(values) > 1:
            best[metric] = min(values) if metric in _LOWER_IS_BETTER else max(values)
    for run, each in found:
        intervals = each.row.get("intervals")
        results: list[Result] = []
        for metric in shown:
            value = each.row.get(metric)
            if not _is_number(value):
                results.append(Result("–"))
                continue
            interval = intervals.get(metric) if isinstance(intervals, dict) else None
            results.append(
                Result(number(float(each.row[metric]), True), _interval(interval), value == best.get(metric))
            )
        section.rows.append((run, results))


def _interval(interval: Any) -> str:
    if not isinstance(interval, list) or len(interval) != 2 or not all(_is_number(bound) for bound in interval):
        return ""
    return f"[{number(float(interval[0]), True)}, {number(float(interval[1]), True)}]"


def _fill_classes(section: SetSection, found: Sequence[tuple[int, EvaluatedSet]]) -> None:
    tables = [(run, each.row["iou"]) for run, each in found if isinstance(each.row.get("iou"), dict)]
    for name in dict.fromkeys(name for _, table in tables for name in table):
        bars = [
            (run, Bar(number(float(table[name]), True), min(max(float(table[name]), 0.0), 1.0)))
            for run, table in tables
            if _is_number(table.get(name))
        ]
        if bars:
            section.classes.append((str(name).replace("_", " "), bars))


def _fill_more(section: SetSection, found: Sequence[tuple[int, EvaluatedSet]]) -> None:
    """Numbers of other conventions, and whatever else an evaluation wrote."""
    flat = [(run, _flat_numbers(each.row)) for run, each in found]
    for name in dict.fromkeys(name for _, numbers in flat for name in numbers):
        section.more.append((name, [number(numbers[name]) if name in numbers else "–" for _, numbers in flat]))


def _flat_numbers(row: dict[str, Any], prefix: str = "") -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, value in row.items():
        if not prefix and (name in METRICS or name in ("iou", "intervals", "frames")):
            continue
        if isinstance(value, dict):
            flat |= _flat_numbers(value, f"{prefix}{name} ")
        elif _is_number(value):
            flat[f"{prefix}{name}".replace("_", " ")] = float(value)
    return flat


def _told(row: dict[str, Any]) -> str:
    words = [f"{row['frames']} frames"] if "frames" in row else []
    pixels = row.get("pixels")
    if isinstance(pixels, dict) and _is_number(pixels.get("anomaly")) and _is_number(pixels.get("inlier")):
        total = pixels["anomaly"] + pixels["inlier"]
        share = f"{number(100 * pixels['anomaly'] / total)} %" if pixels["anomaly"] else "none"
        words.append(f"{share} of {total:,} judged pixels are anomalies")
    data = " ".join(str(row[name]) for name in ("dataset", "split") if name in row)
    digest = str(row.get("manifest_digest", ""))[:12]
    return ", ".join([*words, *([data] if data else []), *([f"manifest {digest}"] if digest else [])])


def _settings(runs: Sequence[RunRecord], found: Sequence[tuple[int, EvaluatedSet]]) -> list[str]:
    """How the numbers were made; by run where that differs."""
    ways: dict[str, list[str]] = {}
    for run, each in found:
        options = {k: v for k, v in runs[run].results.items() if isinstance(v, str | int | float | bool | list | None)}
        options |= {k: each.row[k] for k in ("convention", "score", "blur", "height_px") if k in each.row}
        left_out = ("evaluation_id", "selection", "tool_version", "interval_level", "conventions")
        words = [
            f"{name.removesuffix('_px').replace('_', ' ')} {_plain(value)}{' px' if name.endswith('_px') else ''}"
            for name, value in options.items()
            if value not in (None, "none") and name not in left_out
        ]
        ways.setdefault(", ".join(words), []).append(runs[run].name)
    return [way if len(ways) == 1 else f"{', '.join(names)}: {way}" for way, names in ways.items()]


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "×".join(map(str, value)) if isinstance(value, list) else str(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

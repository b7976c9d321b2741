"""Descriptions of line charts (PR, ROC, histories), drawn by `charts` as SVG for a page and by `figures` as PNG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.choices import METRICS
from mgcda_dist.reports.histories import HISTORIES, HistoryPlot, Series, chance_level, matching_metrics, smoothed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mgcda_dist.evaluation.metrics import CurvePoints

__all__ = ["Axis", "Limits", "Line", "Plot", "curve_plots", "history_plots", "number", "set_axes"]

Numbers = Sequence[float] | NDArray[np.floating[Any]] | Sequence[int]

_LOWEST_FPR = 1e-4
_FEW_POINTS = 20
_SMOOTHED_SHARE = 0.06
_SIGNIFICANT = 4
_SMALLEST = 1e-300


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        label: what it shows, with its unit.
        low, high: limits; None: from the data.
        log: logarithmic, if all values allow it.
        percent: values are fractions and shown as per cent.
        from_zero: begin at zero where no value is below it.
    """

    label: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    percent: bool = False
    from_zero: bool = False


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        label: for the legend.
        x, y: equally long; points that are not finite leave a gap.
        colour: its number, the same for one thing on the whole page.
        smooth: y smoothed, shown instead of y when the page's switch is on.
        dots: points to mark: (x, y, what it is).
        note: shown beside the label.
        extra: further values per point that the pointer shows, by name.
    """

    label: str
    x: Numbers
    y: Numbers
    colour: int = 0
    smooth: Numbers | None = None
    dots: tuple[tuple[float, float, str], ...] = ()
    note: str = ""
    extra: dict[str, Numbers] = field(default_factory=dict)


@dataclass(frozen=True)
class Plot:
    """A line chart.

    Attributes:
        title: heading; the picture's name for those who cannot see it.
        lines: at least one.
        level: height of a dashed horizontal line, and what it is.
        behind: grey lines in the background: x, y, and what stands at their end.
    """

    title: str
    x_axis: Axis
    y_axis: Axis
    lines: Sequence[Line]
    level: tuple[float, str] | None = None
    behind: Sequence[tuple[Numbers, Numbers, str]] = ()


class Limits(NamedTuple):
    """Ends of an axis."""

    low: float
    high: float
    log: bool


def curve_plots(curves: Sequence[tuple[str, int, CurvePoints, Mapping[str, float]]]) -> tuple[Plot, Plot, Plot]:
    """PR, ROC, and ROC with a logarithmic axis.

    Args:
        curves: name, number of the colour, points and metrics of each line.
    """
    pr: list[Line] = []
    roc: list[Line] = []
    for name, colour, points, metrics in curves:
        recall, precision, fpr = points.recall, points.precision, points.fpr
        if not len(recall):
            continue
        f1 = points.f1()
        best = int(np.argmax(f1))
        dot = (float(recall[best]), float(precision[best]), f"best F1 {100 * float(f1[best]):.2f} %")
        extra: dict[str, Numbers] = {"threshold": np.concatenate([points.threshold[:1], points.threshold])}
        # The first point's precision holds down to recall 0, as the step sum takes it.
        x, y = np.concatenate([[0.0], recall]), np.concatenate([precision[:1], precision])
        pr.append(Line(name, x, y, colour, dots=(dot,), note=_in_words(metrics, "ap"), extra=extra))
        dots = ((metrics["fpr95"], 0.95, _in_words(metrics, "fpr95")),) if "fpr95" in metrics else ()
        note = _in_words(metrics, "auroc", "fpr95")
        roc.append(Line(name, np.concatenate([[0.0], fpr]), x, colour, dots=dots, note=note, extra=extra))
    unit = {"low": 0.0, "high": 1.0, "percent": True}
    tpr, level = Axis("true positive rate", **unit), (0.95, "95 %")
    low_fpr = Axis("false positive rate", _LOWEST_FPR, 1.0, log=True, percent=True)
    return (
        Plot("Precision and recall", Axis("recall", **unit), Axis("precision", **unit), pr, behind=_equal_f1()),
        Plot("ROC", Axis("false positive rate", **unit), tpr, roc, level),
        Plot("ROC, logarithmic axis", low_fpr, tpr, roc, level),
    )


def history_plots(runs: Sequence[tuple[str, Mapping[str, Series]]]) -> list[tuple[str, Plot]]:
    """Losses and health signals over the steps: with one run a line per metric, with several a plot per metric.

    Args:
        runs: name, and metric → (steps, values).

    Returns:
        The plots, each with the heading it belongs under.
    """
    plots: list[tuple[str, Plot]] = []
    by_run = len(runs) > 1
    for plot in HISTORIES:
        matched = [_without_twins(history, matching_metrics(history, plot.pattern)) for _, history in runs]
        labels = list(dict.fromkeys(label for each in matched for label in each))
        together = [[label] for label in labels] if by_run else _together(labels, plot.apart)
        level = _level([h for _, h in runs], matched)
        low, high = (0.0, 1.0) if plot.share else (None, None)
        y_axis = Axis(plot.unit, low, high, log=plot.log, from_zero=not plot.log)
        for shown in together:
            lines = [
                _history_line(
                    plot,
                    history[each[label]],
                    name if by_run else label.rpartition(plot.apart)[2] if plot.apart else label,
                    run if by_run else position,
                )
                for run, ((name, history), each) in enumerate(zip(runs, matched, strict=True))
                for position, label in enumerate(shown)
                if label in each
            ]
            if lines:
                which = shown[0].partition(plot.apart)[0] if plot.apart and not by_run else shown[0]
                heading = plot.title if len(together) == 1 else f"{plot.title}: {which}"
                plots.append((plot.group, Plot(heading, Axis("step"), y_axis, lines, level)))
    return plots


def _together(labels: Sequence[str], apart: str) -> list[list[str]]:
    """Labels that share a plot; `apart` parts what tells the plot from what tells the line."""
    if not apart:
        return [list(labels)]
    groups: dict[str, list[str]] = {}
    for label in labels:
        groups.setdefault(label.partition(apart)[0], []).append(label)
    return list(groups.values())


def _history_line(plot: HistoryPlot, series: Series, label: str, colour: int) -> Line:
    steps, values = series
    smooth = None if plot.exact or len(values) < _FEW_POINTS else smoothed(values, _SMOOTHED_SHARE)
    return Line(label, steps, values, colour, smooth)


def _level(histories: Sequence[Mapping[str, Series]], matched: Sequence[dict[str, str]]) -> tuple[float, str] | None:
    """The level of chance, if all runs have the same."""
    levels = {
        chance_level(history, metric)
        for history, each in zip(histories, matched, strict=True)
        for metric in each.values()
    } - {None}
    chance = levels.pop() if len(levels) == 1 else None
    return None if chance is None else (chance, f"chance {number(chance)}")


def _without_twins(history: Mapping[str, Series], names: dict[str, str]) -> dict[str, str]:
    """Without metrics that are another one again (a group's learning rate with and without weight decay)."""
    kept: dict[str, str] = {}
    for label, metric in names.items():
        if not any(history[metric] == history[other] for other in kept.values() if _is_twin(metric, other)):
            kept[label] = metric
    return kept


def _is_twin(metric: str, other: str) -> bool:
    return metric.startswith("lr/") and other.startswith("lr/") and metric.startswith(other)


def _equal_f1() -> list[tuple[list[float], list[float], str]]:
    lines: list[tuple[list[float], list[float], str]] = []
    for f1 in (0.2, 0.4, 0.6, 0.8):
        recall = np.linspace(f1 / (2 - f1), 1, 60)
        lines.append((recall.tolist(), (f1 * recall / (2 * recall - f1)).tolist(), f"F1 {100 * f1:.0f}"))
    return lines


def _in_words(metrics: Mapping[str, float], *keys: str) -> str:
    return ", ".join(f"{METRICS[key].title} {number(metrics[key], True)} %" for key in keys if key in metrics)


def number(value: float, percent: bool = False) -> str:
    """A value as a reader wants it: four significant digits, or per cent with two decimals; a dash if there is none."""
    if not math.isfinite(value):
        return "–"
    if percent:
        return f"{100 * value:.2f}"
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.{_SIGNIFICANT - 1}e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    text = f"{value:.{_SIGNIFICANT}g}" if abs(value) < 10**_SIGNIFICANT else f"{value:.0f}"
    return text.replace("-", "−")


def _limits(axis: Axis, values: Sequence[Numbers]) -> Limits:
    every = np.concatenate([np.zeros(0), *(np.asarray(part, np.float64) for part in values)])
    every = every[np.isfinite(every)]
    if axis.low is not None and axis.high is not None:
        return Limits(axis.low, axis.high, axis.log)
    if not every.size:
        return Limits(0.0, 1.0, False)
    low, high = float(every.min()), float(every.max())
    if axis.log and low > 0 and high > 10 * low:
        return Limits(max(low / 1.15, _SMALLEST), high * 1.15, True)
    if axis.from_zero and low >= 0:
        low = 0.0
    room = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    low = low if axis.from_zero and low == 0 else low - room
    return Limits(low if axis.low is None else axis.low, high + room if axis.high is None else axis.high, False)


def set_axes(axes: Axes, plot: Plot, lines: Sequence[Line]) -> tuple[Limits, Limits]:
    """Set scales, limits, ticks and names of both axes; returns the limits.

    Args:
        lines: of the plot, as drawn.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    x = _limits(plot.x_axis, [line.x for line in lines])
    y = _limits(plot.y_axis, [line.y for line in lines] + ([[plot.level[0]]] if plot.level else []))
    for name, side, axis, limits, num_ticks in (
        ("x", axes.xaxis, plot.x_axis, x, 6),
        ("y", axes.yaxis, plot.y_axis, y, 5),
    ):
        axes.set(**{f"{name}scale": "log" if limits.log else "linear", f"{name}lim": (limits.low, limits.high)})
        few = limits.log and limits.high < 1000 * limits.low
        linear = MaxNLocator(num_ticks, steps=[1, 2, 2.5, 5, 10])
        side.set_major_locator(
            LogLocator(subs=(1, 2, 5) if few else (1,), numticks=num_ticks) if limits.log else linear
        )
        side.set_minor_locator(NullLocator())
        side.set_major_formatter(FuncFormatter(lambda value, _, axis=axis: _tick_text(value, axis)))
        side.set_label_text(axis.label + (", %" if axis.percent else ""))
    return x, y


def _tick_text(value: float, axis: Axis) -> str:
    if axis.percent:
        return f"{round(100 * value, 6):g}"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.6g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"

"""Line charts drawn by matplotlib: inline SVG that reads without a script, and the values that the script needs.

Of matplotlib's SVG the page takes paths and texts, with classes (`s0`, `s1`, …) in place of its style attributes: the
page's policy forbids those, and a chart must follow the style sheet into the dark.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, SubElement, fromstring, tostring

import numpy as np

from mgcda_dist.reports.plots import Axis, Limits, Line, Numbers, Plot, set_axes

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["NUM_COLOURS", "Chart", "line_chart", "line_style"]

NUM_COLOURS = 7
_WIDTH, _HEIGHT = 360.0, 224.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 350.0, 10.0, 186.0
_MAX_POINTS = 600
_SVG = "{http://www.w3.org/2000/svg}"
_CLASSES = {"raw": "line raw", "smooth": "line smooth", "dot": "dot", "behind": "behind", "level": "level",
            "faint": "faint", "tick": "grid"}  # fmt: skip
"""First words of the names of artists, and their classes in the style sheet."""
_OFFSET: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "annotation_clip": False}
_DRAWING = Lock()
"""Held while matplotlib's settings, which are global, are those of a page."""


@dataclass(frozen=True)
class Chart:
    """A chart for the template.

    Attributes:
        id: unique on the page.
        legend: per line its label, colour class and note.
        facts: axes and values, for the script.
    """

    id: str
    title: str
    svg: Markup
    legend: list[dict[str, str]]
    facts: dict[str, Any]


def line_chart(chart_id: str, plot: Plot) -> Chart:
    """Draw a plot; `chart_id` is unique on the page."""
    from markupsafe import Markup

    lines, level = [_thinned(line) for line in plot.lines], plot.level
    figure, axes, x, y = _axes(plot, lines)
    for grey_x, grey_y, text in plot.behind:
        _plot(axes, "behind", grey_x, grey_y)
        axes.annotate(text, (float(grey_x[-1]), float(grey_y[-1])), (-3, 3), gid="faint", **_OFFSET)
    if level:
        axes.axhline(level[0], gid="level")
        below = (level[0] - y.low) / (y.high - y.low) > 0.9
        axes.annotate(level[1], (x.high, level[0]), (-2, -12 if below else 4), gid="faint", **_OFFSET)
    for index, line in enumerate(lines):
        _plot(axes, f"raw {index}", line.x, line.y)
        if line.smooth is not None:
            _plot(axes, f"smooth {index}", line.x, line.smooth)
        for dot_x, dot_y, _ in line.dots:
            # On the limits where it lies outside, as lines do: matplotlib leaves out what it cannot place.
            place = np.clip(dot_x, *axes.get_xlim()), np.clip(dot_y, *axes.get_ylim())
            axes.plot(*np.reshape(place, (2, 1)), "o", gid=f"dot {index}", clip_on=False)
    found = _elements(figure)
    root = Element("svg", viewBox=f"0 0 {_WIDTH:.0f} {_HEIGHT:.0f}", role="img")
    root.set(
        "aria-label",
        f"{plot.title}: {plot.y_axis.label} over {plot.x_axis.label}; {', '.join(line.label for line in lines)}",
    )
    root.extend(element for name, element in found if " " not in name)
    legend: list[dict[str, str]] = []
    for index, line in enumerate(lines):
        style = line_style(line.colour)
        legend.append({"label": line.label, "style": style, "note": line.note})
        kind = "series smoothable" if line.smooth is not None else "series"
        group = SubElement(root, "g", {"class": f"{kind} {style}", "data-series": str(index)})
        group.extend(element for name, element in found if name in (f"raw {index}", f"smooth {index}"))
        dots = [element for name, element in found if name == f"dot {index}"]
        for dot, (_, _, text) in zip(dots, line.dots, strict=True):
            SubElement(dot, "title").text = text
        group.extend(dots)
        SubElement(group, "circle", {"class": "cursor", "r": "5", "cx": "0", "cy": "0", "visibility": "hidden"})
    SubElement(root, "path", {"class": "crosshair", "d": f"M0 {_TOP}V{_BOTTOM}", "visibility": "hidden"})
    # ElementTree escapes all text and attributes.
    svg = Markup(tostring(root, encoding="unicode"))
    return Chart(chart_id, plot.title, svg, legend, _facts(plot.x_axis, x, plot.y_axis, y, lines))


def line_style(colour: int) -> str:
    """Classes of the style sheet for the colour of this number: its hue, and dashes once the hues are used up."""
    return f"s{colour % NUM_COLOURS}" + (" dashed" if colour >= NUM_COLOURS else "")


def _thinned(line: Line) -> Line:
    """The line with at most `_MAX_POINTS` points: of every stretch its lowest and its highest, so that spikes stay."""
    length = len(line.x)
    if length <= _MAX_POINTS:
        return line
    y = np.asarray(line.y, np.float64)
    stretches = np.array_split(np.arange(length), _MAX_POINTS // 2)
    kept = {0, length - 1}
    for stretch in stretches:
        known = stretch[np.isfinite(y[stretch])]
        if known.size:
            kept |= {int(known[np.argmin(y[known])]), int(known[np.argmax(y[known])])}
    rows = np.array(sorted(kept))
    return replace(
        line,
        x=np.asarray(line.x, np.float64)[rows],
        y=y[rows],
        smooth=None if line.smooth is None else np.asarray(line.smooth, np.float64)[rows],
        extra={name: np.asarray(values, np.float64)[rows] for name, values in line.extra.items()},
    )


def _axes(plot: Plot, lines: Sequence[Line]) -> tuple[Figure, Axes, Limits, Limits]:
    """An empty chart, one unit of the picture a point, with ticks and names; and its limits."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH / 72, _HEIGHT / 72), dpi=72)
    width, height = (_RIGHT - _LEFT) / _WIDTH, (_BOTTOM - _TOP) / _HEIGHT
    axes = figure.add_axes((_LEFT / _WIDTH, 1 - _BOTTOM / _HEIGHT, width, height))
    x, y = set_axes(axes, plot, lines)
    axes.xaxis.set_label_coords(0.5, -(_HEIGHT - 8 - _BOTTOM) / (_BOTTOM - _TOP))
    axes.yaxis.set_label_coords(-(_LEFT - 10) / (_RIGHT - _LEFT), 0.5)
    axes.xaxis.label.set_verticalalignment("baseline")
    axes.yaxis.label.set_verticalalignment("baseline")
    axes.tick_params(length=0, pad=5)
    axes.grid()
    return figure, axes, x, y


def _plot(axes: Axes, name: str, x: Numbers, y: Numbers) -> None:
    """A line with gaps where y is not finite; values outside the limits are drawn on them."""
    up = np.asarray(y, np.float64)
    up = np.where(np.isfinite(up), np.clip(up, *axes.get_ylim()), np.nan)
    axes.plot(np.clip(np.asarray(x, np.float64), *axes.get_xlim()), up, gid=name)


def _elements(figure: Figure) -> list[tuple[str, Element]]:
    """Grid, axes, texts and named artists of a figure: name and SVG element, with a class in place of its style."""
    from matplotlib import rc_context

    text = io.StringIO()
    with _DRAWING, rc_context({"svg.fonttype": "none", "text.parse_math": False}):
        figure.savefig(text, format="svg")
    found = [("axis", Element("path", {"class": "axis", "d": f"M{_LEFT} {_TOP}V{_BOTTOM}H{_RIGHT}"}))]

    def walk(group: Element, name: str) -> None:
        given = group.get("id", "")
        if re.match("[xy]tick_|matplotlib.axis_|patch_", given):
            name = {"x": "tick", "y": "tick", "m": "name", "p": ""}[given[0]]
        elif given.partition(" ")[0] in _CLASSES:
            name = given
        kind = name.partition(" ")[0]
        for child in group:
            tag = child.tag.removeprefix(_SVG)
            if tag == "g":
                walk(child, name)
            elif tag == "path" and kind:
                path = _short_path(child.get("d", ""))
                found.append((name, Element("path", {"class": _CLASSES[kind], "d": path})))
            elif tag == "use" and kind == "dot":
                at = {"cx": _short(child.get("x", "")), "cy": _short(child.get("y", ""))}
                found.append((name, Element("circle", {"class": "dot", "r": "4", **at})))
            elif tag == "text":
                found.append((name, _text(child, kind)))

    walk(fromstring(text.getvalue()), "")
    return found


def _text(drawn: Element, kind: str) -> Element:
    anchor = re.search(r"text-anchor: (\w+)", drawn.get("style", ""))
    text = Element("text", {"x": _short(drawn.get("x", "")), "y": _short(drawn.get("y", ""))})
    text.set("text-anchor", anchor[1] if anchor else "start")
    if kind in ("name", "faint"):
        text.set("class", kind)
    if "rotate(-90" in drawn.get("transform", ""):
        text.set("transform", f"rotate(-90 {text.get('x')} {text.get('y')})")
    text.text = drawn.text
    return text


def _short(number: str) -> str:
    return f"{float(number):.1f}".removesuffix(".0")


def _short_path(path: str) -> str:
    """A path to a tenth of a point; a lone point is a dot: a path of one point draws nothing."""
    text = re.sub(r"\s*([MLz])\s*", r"\1", re.sub(r"-?\d+(\.\d+)?(e[-+]?\d+)?", lambda m: _short(m[0]), path)).strip()
    return text if "L" in text or not text else f"{text}h0.01"


def _facts(x_axis: Axis, x: Limits, y_axis: Axis, y: Limits, lines: Sequence[Line]) -> dict[str, Any]:
    """Axes with their places in the picture, and the values: `ChartFacts` of page/report.js, an object of JSON."""

    def plain(axis: Axis, limits: Limits, start: float, end: float) -> dict[str, Any]:
        ends = {"low": limits.low, "high": limits.high, "start": start, "end": end}
        return {"label": axis.label, **ends, "log": limits.log, "percent": axis.percent}

    series: list[dict[str, Any]] = []
    for line in lines:
        entry: dict[str, Any] = {"label": line.label, "colour": line.colour}
        entry |= {"x": _rounded(line.x), "y": _rounded(line.y)}
        if line.smooth is not None:
            entry["smooth"] = _rounded(line.smooth)
        if line.extra:
            entry["extra"] = {name: _rounded(values) for name, values in line.extra.items()}
        series.append(entry)
    axes = {"x": plain(x_axis, x, _LEFT, _RIGHT), "y": plain(y_axis, y, _BOTTOM, _TOP)}
    return {**axes, "top": _TOP, "bottom": _BOTTOM, "series": series}


def _rounded(values: Numbers) -> list[float | int | None]:
    """Numbers for JSON, five significant digits; None where there is none."""
    listed = (float(value) for value in np.asarray(values, np.float64).tolist())
    rounded = (float(f"{value:.5g}") if math.isfinite(value) else None for value in listed)
    return [int(v) if v is not None and v == int(v) and abs(v) < 1e15 else v for v in rounded]

"""Line charts as inline SVG that reads without a script, and the numbers that a script needs to answer the pointer.

Colours are classes (`s0`, `s1`, …) that the page's style sheet defines, so that a chart follows the page into the dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["NUM_COLOURS", "Axis", "Chart", "Line", "line_chart", "number"]

Numbers = Sequence[float] | NDArray[np.floating[Any]] | Sequence[int]

NUM_COLOURS = 7
_WIDTH, _HEIGHT = 360.0, 224.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 350.0, 10.0, 186.0
_MAX_POINTS = 600
_SIGNIFICANT = 4


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
class Chart:
    """A chart for the template.

    Attributes:
        id: unique on the page.
        title: heading.
        svg: the picture.
        legend: per line its label, colour class and note.
        facts: axes and values, for the script.
    """

    id: str
    title: str
    svg: Markup
    legend: list[dict[str, str]]
    facts: dict[str, Any]


@dataclass(frozen=True)
class _Scale:
    """From values to positions in the picture."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def __call__(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        low, high = self.low, self.high
        if self.log:
            with np.errstate(divide="ignore", invalid="ignore"):
                values = np.log10(values)
            low, high = math.log10(low), math.log10(high)
        return self.start + (values - low) / (high - low) * (self.end - self.start)

    def at(self, value: float) -> float:
        return float(self(np.array([value], np.float64))[0])


def line_chart(
    chart_id: str,
    title: str,
    x_axis: Axis,
    y_axis: Axis,
    lines: Sequence[Line],
    *,
    level: tuple[float, str] | None = None,
    behind: Sequence[tuple[Numbers, Numbers, str]] = (),
) -> Chart:
    """Draw lines.

    Args:
        chart_id: unique on the page.
        title: heading; the picture's name for those who cannot see it.
        x_axis: below.
        y_axis: on the left.
        lines: at least one.
        level: height of a dashed horizontal line, and what it is.
        behind: grey lines in the background: x, y, and what stands at their end.
    """
    from markupsafe import Markup, escape

    lines = [_thinned(line) for line in lines]
    x = _scale(x_axis, [line.x for line in lines], _LEFT, _RIGHT)
    levels = [[level[0]]] if level else []
    y = _scale(y_axis, [line.y for line in lines] + levels, _BOTTOM, _TOP)
    parts: list[str] = [_grid(x, x_axis, y, y_axis)]
    for grey_x, grey_y, text in behind:
        parts.append(f'<path class="behind" d="{_path(x, y, grey_x, grey_y)}"/>')
        at_x, at_y = x.at(float(grey_x[-1])), y.at(float(grey_y[-1]))
        parts.append(_faint(at_x - 3, at_y - 3, text))
    if level:
        height = y.at(level[0])
        parts.append(f'<path class="level" d="M{_LEFT} {height:.1f}H{_RIGHT}"/>')
        above = height - 4 if height > _TOP + 14 else height + 12
        parts.append(_faint(_RIGHT - 2, above, level[1]))
    legend: list[dict[str, str]] = []
    for index, line in enumerate(lines):
        style = f"s{line.colour % NUM_COLOURS}" + (" dashed" if line.colour >= NUM_COLOURS else "")
        legend.append({"label": line.label, "style": style, "note": line.note})
        drawn = [f'<path class="line raw" d="{_path(x, y, line.x, line.y)}"/>']
        if line.smooth is not None:
            drawn.append(f'<path class="line smooth" d="{_path(x, y, line.x, line.smooth)}"/>')
        for dot_x, dot_y, text in line.dots:
            where = f'cx="{x.at(dot_x):.1f}" cy="{y.at(dot_y):.1f}"'
            drawn.append(f'<circle class="dot" r="4" {where}><title>{escape(text)}</title></circle>')
        drawn.append('<circle class="cursor" r="5" cx="0" cy="0" visibility="hidden"/>')
        kind = "series smoothable" if line.smooth is not None else "series"
        parts.append(f'<g class="{kind} {style}" data-series="{index}">{"".join(drawn)}</g>')
    parts.append(f'<path class="crosshair" d="M0 {_TOP}V{_BOTTOM}" visibility="hidden"/>')
    # Nothing of what the arguments say enters unescaped.
    name = f"{title}: {y_axis.label} over {x_axis.label}; {', '.join(line.label for line in lines)}"
    frame = f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-label="{escape(name)}">'
    svg = Markup(frame + "".join(parts) + "</svg>")
    return Chart(chart_id, title, svg, legend, _facts(x, x_axis, y, y_axis, lines))


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


def _faint(x: float, y: float, text: str) -> str:
    from markupsafe import escape

    return f'<text class="faint" x="{x:.1f}" y="{y:.1f}" text-anchor="end">{escape(text)}</text>'


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
    return Line(
        line.label,
        np.asarray(line.x, np.float64)[rows],
        y[rows],
        line.colour,
        None if line.smooth is None else np.asarray(line.smooth, np.float64)[rows],
        line.dots,
        line.note,
        {name: np.asarray(values, np.float64)[rows] for name, values in line.extra.items()},
    )


def _scale(axis: Axis, values: Sequence[Numbers], start: float, end: float) -> _Scale:
    every = np.concatenate([np.zeros(0), *(np.asarray(part, np.float64) for part in values)])
    every = every[np.isfinite(every)]
    if axis.low is not None and axis.high is not None:
        return _Scale(axis.low, axis.high, start, end, axis.log)
    if not every.size:
        return _Scale(0.0, 1.0, start, end, False)
    low, high = float(every.min()), float(every.max())
    if axis.log and low > 0 and high > 10 * low:
        return _Scale(low / 1.15, high * 1.15, start, end, True)
    if axis.from_zero and low >= 0:
        low = 0.0
    room = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    low = low if axis.from_zero and low == 0 else low - room
    return _Scale(
        low if axis.low is None else axis.low, high + room if axis.high is None else axis.high, start, end, False
    )


def _ticks(scale: _Scale, wanted: int) -> list[float]:
    if scale.log:
        decades = range(math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high)) + 1)
        steps: tuple[int, ...] = (1,) if len(decades) > 3 else (1, 2, 5)
        step = -(-len(decades) // 6)
        marks = [m * 10.0**decade for decade in decades if decade % step == 0 for m in steps]
    else:
        raw = (scale.high - scale.low) / wanted
        magnitude = 10.0 ** math.floor(math.log10(raw))
        step_size = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw * 0.999)
        first = math.ceil(scale.low / step_size - 1e-9)
        count = math.floor(scale.high / step_size + 1e-9) - first + 1
        marks = [(first + i) * step_size for i in range(count)]
    slack = 1e-9 * (abs(scale.low) + abs(scale.high))
    return [mark for mark in marks if scale.low - slack <= mark <= scale.high + slack]


def _tick_text(value: float, axis: Axis) -> str:
    if axis.percent:
        return f"{round(100 * value, 6):g}"
    return (
        f"{value:.6g}"
        if value == 0 or 1e-3 <= abs(value) < 1e5
        else f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")
    )


def _grid(x: _Scale, x_axis: Axis, y: _Scale, y_axis: Axis) -> str:
    from markupsafe import escape

    parts: list[str] = []
    anchor: Literal["middle", "end"]
    for mark in _ticks(y, 4):
        at = y.at(mark)
        parts.append(f'<path class="grid" d="M{_LEFT} {at:.1f}H{_RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{at + 3.5:.1f}" text-anchor="end">{_tick_text(mark, y_axis)}</text>')
    for mark in _ticks(x, 5):
        at, text = x.at(mark), _tick_text(mark, x_axis)
        anchor = "end" if at > _RIGHT - 4 and len(text) > 3 else "middle"
        parts.append(f'<path class="grid" d="M{at:.1f} {_TOP}V{_BOTTOM}"/>')
        parts.append(f'<text x="{at:.1f}" y="{_BOTTOM + 13}" text-anchor="{anchor}">{text}</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{_BOTTOM}H{_RIGHT}"/>')
    middle_x, middle_y = (_LEFT + _RIGHT) / 2, (_TOP + _BOTTOM) / 2
    suffix_x, suffix_y = (", %" if axis.percent else "" for axis in (x_axis, y_axis))
    x_name, y_name = escape(x_axis.label) + suffix_x, escape(y_axis.label) + suffix_y
    parts.append(f'<text class="name" x="{middle_x}" y="{_HEIGHT - 8}" text-anchor="middle">{x_name}</text>')
    turn = f'transform="rotate(-90 10 {middle_y})"'
    parts.append(f'<text class="name" x="10" y="{middle_y}" text-anchor="middle" {turn}>{y_name}</text>')
    return "".join(parts)


def _path(x: _Scale, y: _Scale, xs: Numbers, ys: Numbers) -> str:
    """An SVG path through the points, with gaps where one is not finite; what lies outside the limits is held there."""
    across = x(np.asarray(xs, np.float64))
    up = y(np.asarray(ys, np.float64))
    across = np.where(np.isneginf(across), x.start, across)
    across, up = np.clip(across, _LEFT, _RIGHT), np.clip(up, _TOP, _BOTTOM)
    parts: list[str] = []
    pen_down = False
    last = ""
    for px, py in zip(across.tolist(), up.tolist(), strict=True):
        if not (math.isfinite(px) and math.isfinite(py)):
            pen_down = False
            continue
        point = f"{px:.1f} {py:.1f}"
        if pen_down and point == last:
            continue
        parts.append(("L" if pen_down else "M") + point)
        pen_down, last = True, point
    # A lone point is a dot: a path of one point draws nothing.
    return "".join(parts) + ("h0.01" if len(parts) == 1 else "")


def _facts(x: _Scale, x_axis: Axis, y: _Scale, y_axis: Axis, lines: Sequence[Line]) -> dict[str, Any]:
    def plain(scale: _Scale, axis: Axis) -> dict[str, Any]:
        return {
            "label": axis.label, "low": scale.low, "high": scale.high, "start": scale.start, "end": scale.end,
            "log": scale.log, "percent": axis.percent,
        }  # fmt: skip

    series: list[dict[str, Any]] = []
    for line in lines:
        entry: dict[str, Any] = {
            "label": line.label,
            "colour": line.colour,
            "x": _rounded(line.x),
            "y": _rounded(line.y),
        }
        if line.smooth is not None:
            entry["smooth"] = _rounded(line.smooth)
        if line.extra:
            entry["extra"] = {name: _rounded(values) for name, values in line.extra.items()}
        series.append(entry)
    return {"x": plain(x, x_axis), "y": plain(y, y_axis), "top": _TOP, "bottom": _BOTTOM, "series": series}


def _rounded(values: Numbers) -> list[float | int | None]:
    """Numbers for JSON, five significant digits; None where there is none."""
    listed = (float(value) for value in np.asarray(values, np.float64).tolist())
    rounded = (float(f"{value:.5g}") if math.isfinite(value) else None for value in listed)
    return [int(v) if v is not None and v == int(v) and abs(v) < 1e15 else v for v in rounded]

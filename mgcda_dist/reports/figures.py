"""Figures of a run as PNG: line charts, and the panel of pictures.

Matplotlib's objects are used without pyplot, so that nothing global is touched and threads may draw. Every function
writes one PNG and returns its path.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.choices import ANOMALY, VOID
from mgcda_dist.files import PendingFile
from mgcda_dist.reports.lettering import drawable, families
from mgcda_dist.reports.palette import ANOMALY_COLOUR, LINE_COLOURS, VOID_COLOUR, class_colours
from mgcda_dist.reports.plots import Plot, set_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mgcda_dist.evaluation.set_result import PanelRow

__all__ = ["blend", "hex_of", "new_figure", "panel_figure", "plots_figure", "save_figure", "score_range"]

_DPI = 110
_MAX_CELL_PX = 900


def plots_figure(plots: Sequence[Plot], path: Path, title: str, *, cell: tuple[float, float] = (4.6, 3.1)) -> Path:
    """Plots beside and below each other.

    Args:
        plots: from `mgcda_dist.reports.plots`; none: the figure says so.
        path: PNG to write.
        cell: width and height of one, inches.
    """
    num_columns = min(3, max(len(plots), 1))
    num_rows = -(-max(len(plots), 1) // num_columns)
    figure = new_figure(cell[0] * num_columns, cell[1] * num_rows + 0.4)
    grid = figure.subplots(num_rows, num_columns, squeeze=False).flat
    for axes in grid[len(plots) :]:
        axes.set_axis_off()
    for axes, plot in zip(grid, plots, strict=False):
        _draw(axes, plot)
    if not plots:
        grid[0].text(0.5, 0.5, "nothing was logged", ha="center", va="center")
    figure.suptitle(title, fontsize=12, parse_math=False)
    return save_figure(figure, path)


def panel_figure(
    rows: Sequence[PanelRow],
    class_names: Sequence[str],
    path: Path,
    *,
    score_name: str = "anomaly score",
    title: str = "",
) -> Path:
    """A table of pictures, one frame per row: image, prediction, anomaly map, ground truth.

    All anomaly maps share one colour scale, from the 1st to the 99.5th percentile of the scores shown.

    Args:
        rows: at least one.
        class_names: C names, for the legend.
        path: PNG to write.
        score_name: label of the colour bar.
    """
    from matplotlib.patches import Patch

    colours = class_colours(class_names)
    heights = [row.image.shape[0] / row.image.shape[1] for row in rows]
    cell_width = 3.4
    figure = new_figure(4 * cell_width, cell_width * sum(heights) + 0.2 * len(rows) + 1.5)
    # The colour bar has a row of its own: stealing room from the maps would shift them against their neighbours.
    cells = figure.add_gridspec(len(rows) + 1, 4, height_ratios=[*heights, 0.035])
    grid = np.array([[figure.add_subplot(cells[row, column]) for column in range(4)] for row in range(len(rows))])
    low, high = score_range([row.score for row in rows])
    shown: Any = None
    present: set[int] = set()
    for axes, row in zip(grid, rows, strict=True):
        step = max(1, -(-max(row.image.shape[:2]) // _MAX_CELL_PX))
        image, predicted, label = (part[::step, ::step] for part in (row.image, row.predicted, row.label))
        present |= set(np.unique(predicted).tolist())
        axes[0].imshow(image)
        axes[1].imshow(blend(image, colours[np.minimum(predicted, len(colours) - 1)], 0.65))
        shown = axes[2].imshow(row.score[::step, ::step], cmap="inferno", vmin=low, vmax=high)
        axes[3].imshow(_ground_truth(image, label))
        key = _ellipsis(row.key, 58)
        axes[0].set_title(drawable(key), fontsize=8, color="#555555", loc="left", pad=3, family=families([key]))
    for axes, heading in zip(grid[0], ("image", "prediction", "anomaly map", "ground truth"), strict=True):
        axes.annotate(
            heading, (0.5, 1), (0, 18), xycoords="axes fraction", textcoords="offset points", ha="center", fontsize=12
        )
    for axes in grid.flat:
        axes.set_axis_off()
    bar = figure.colorbar(shown, cax=figure.add_subplot(cells[len(rows), 2]), orientation="horizontal")
    bar.set_label(f"{score_name}  (higher = more anomalous)", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    patches = [
        Patch(facecolor=hex_of(colours[index]), label=drawable(name.replace("_", " ")))
        for index, name in enumerate(class_names)
        if index in present
    ]
    for colour, name in ((ANOMALY_COLOUR, "anomaly (ground truth)"), (VOID_COLOUR, "void, not judged")):
        patches.append(Patch(facecolor=hex_of(colour), label=name))
    num_columns = -(-len(patches) // -(-len(patches) // 7))
    letters = {"family": families(class_names), "size": 9}
    figure.legend(handles=patches, loc="outside lower center", ncols=num_columns, frameon=False, prop=letters)
    if title:
        figure.suptitle(drawable(title), fontsize=12, family=families([title]))
    return save_figure(figure, path)


def _draw(axes: Axes, plot: Plot) -> None:
    set_axes(axes, plot, plot.lines)
    for x, y, text in plot.behind:
        axes.plot(x, y, color="#cccccc", linewidth=0.8, zorder=0)
        axes.annotate(text, (x[-1], y[-1]), (-2, 2), textcoords="offset points", color="#999999", fontsize=8,
                      ha="right")  # fmt: skip
    if plot.level:
        axes.axhline(plot.level[0], color="#777777", linewidth=1, linestyle="--", label=plot.level[1])
    for line in plot.lines:
        colour, label = LINE_COLOURS[line.colour % len(LINE_COLOURS)], f"{line.label}   {line.note}".rstrip()
        if line.smooth is not None:
            axes.plot(line.x, line.y, color=colour, linewidth=0.6, alpha=0.35)
        axes.plot(line.x, line.y if line.smooth is None else line.smooth, color=colour, linewidth=1.8, label=label)
        for x, y, _ in line.dots:
            axes.plot([x], [y], "o", color=colour, markersize=6, markeredgecolor="white", clip_on=False)
    axes.set_title(plot.title, fontsize=10)
    _tidy(axes)
    if axes.get_legend_handles_labels()[0]:
        outside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "frameon": False}
        inside: dict[str, Any] = {"loc": "best", "framealpha": 0.9, "edgecolor": "#dddddd"}
        legend = axes.legend(fontsize=8, **(inside if len(plot.lines) <= 3 else outside))
        for text in legend.get_texts():
            text.set_parse_math(False)


def _tidy(axes: Axes) -> None:
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", labelsize=8)


def score_range(maps: Sequence[NDArray[np.floating[Any]]]) -> tuple[float, float]:
    """From the 1st to the 99.5th percentile of the finite scores, never empty."""
    values = np.concatenate([np.asarray(each, np.float64)[::4, ::4].ravel() for each in maps])
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values, [1.0, 99.5])
    return float(low), float(max(high, low + 1e-12 + 1e-6 * abs(low)))


def _ground_truth(image: NDArray[np.uint8], label: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image in grey, anomalies red, void flat grey."""
    grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    picture = np.repeat(np.round(60 + 0.65 * grey)[..., None], 3, axis=2).astype(np.uint8)
    picture = np.where((label == ANOMALY)[..., None], blend(picture, np.array(ANOMALY_COLOUR, np.uint8), 0.8), picture)
    return np.where((label == VOID)[..., None], np.array(VOID_COLOUR, np.uint8), picture)


def blend(below: NDArray[np.uint8], above: NDArray[np.uint8], opacity: float) -> NDArray[np.uint8]:
    """A picture H×W×3 under a colour or another picture."""
    return np.round((1 - opacity) * below.astype(np.float32) + opacity * above).astype(np.uint8)


def hex_of(colour: Sequence[int] | NDArray[np.uint8]) -> str:
    """`#rrggbb`."""
    red, green, blue = (int(part) for part in colour)
    return f"#{red:02x}{green:02x}{blue:02x}"


def _ellipsis(text: str, length: int) -> str:
    return text if len(text) <= length else "…" + text[1 - length :]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, inches."""
    # Its log is not for users: "building the font cache" on a new machine, folders it cannot write to.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained", facecolor="white")


def save_figure(figure: Figure, path: Path) -> Path:
    """Write it as PNG; returns the path."""
    with PendingFile(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return path

"""Figures of a run: PR and ROC curves, the panel of pictures, the history of losses and health signals.

Matplotlib's objects are used without pyplot, so that nothing global is touched and threads may draw. Every function
writes one PNG and returns its path.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.files import PendingFile
from mgcda_dist.reports.histories import HISTORIES, HistoryPlot, Series, chance_level, matching_metrics, smoothed
from mgcda_dist.reports.palette import ANOMALY_COLOUR, LINE_COLOURS, VOID_COLOUR, class_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Numbers = Sequence[float] | NDArray[np.floating[Any]]

__all__ = ["PanelRow", "curves_figure", "panel_figure", "pr_curve_figure", "roc_figure"]

ANOMALY, VOID = 254, 255
"""The labels of `mgcda_dist.method.batch`, which cannot be read from there without torch."""

_DPI = 110
_GRID = {"color": "#dddddd", "linewidth": 0.7}
_MAX_CELL_PX = 900


class PanelRow(Protocol):
    """One frame of the panel; all maps have the image's height and width."""

    @property
    def key(self) -> str:
        """Name of the frame."""
        ...

    @property
    def image(self) -> NDArray[np.uint8]:
        """H×W×3, RGB."""
        ...

    @property
    def predicted(self) -> NDArray[np.uint8]:
        """H×W, predicted class."""
        ...

    @property
    def score(self) -> NDArray[np.floating[Any]]:
        """H×W, anomaly score."""
        ...

    @property
    def label(self) -> NDArray[np.uint8]:
        """H×W: 254 anomaly, 255 void, the rest normal."""
        ...


def pr_curve_figure(
    curves: Mapping[str, tuple[Numbers, Numbers, float]],
    path: Path,
    title: str = "Precision and recall",
) -> Path:
    """Precision over recall, one line per name, with lines of equal F1 behind.

    Args:
        curves: name → (recall, precision, AP), fractions.
        path: PNG to write.
        title: heading.
    """
    figure = _figure(6.4, 5.6)
    axes = figure.subplots()
    _equal_f1(axes)
    for index, (name, (recall, precision, ap)) in enumerate(curves.items()):
        if not len(recall):
            continue
        # The first point's precision holds down to recall 0, as the step sum takes it.
        x, y = [0.0, *recall], [precision[0], *precision]
        axes.plot(x, y, color=_line_colour(index), linewidth=1.8, label=f"{name}   AP {100 * ap:.2f} %")
    _unit_square(axes, "recall", "precision", title)
    _legend(axes, loc="best")
    return _save(figure, path)


def roc_figure(curves: Mapping[str, tuple[Numbers, Numbers, float, float]], path: Path, title: str = "ROC") -> Path:
    """True over false positive rate, on a linear and on a logarithmic axis, with the FPR95 points.

    Args:
        curves: name → (FPR, TPR, AUROC, FPR95), fractions.
        path: PNG to write.
        title: heading.
    """
    figure = _figure(10.4, 5.4)
    linear, log = figure.subplots(1, 2)
    for index, (name, (fpr, tpr, auroc, fpr95)) in enumerate(curves.items()):
        colour = _line_colour(index)
        label = f"{name}   AUROC {100 * auroc:.2f} %,  FPR95 {100 * fpr95:.2f} %"
        for axes in (linear, log):
            axes.plot([0.0, *fpr], [0.0, *tpr], color=colour, linewidth=1.8, label=label)
            axes.plot([fpr95], [0.95], "o", color=colour, markersize=6, markeredgecolor="white", clip_on=False)
    linear.plot([0, 1], [0, 1], "--", color="#aaaaaa", linewidth=1, label="chance")
    for axes in (linear, log):
        axes.axhline(0.95, color="#aaaaaa", linewidth=1, linestyle=":", label="TPR 95 % (dots: FPR95)")
        _unit_square(axes, "false positive rate", "true positive rate", "")
    log.set_xscale("log")
    log.set_xlim(1e-4, 1)
    log.set_xlabel("false positive rate (logarithmic)")
    figure.suptitle(title, fontsize=12)
    _legend(linear, loc="lower right")
    return _save(figure, path)


def panel_figure(
    rows: Sequence[PanelRow],
    class_names: Sequence[str],
    path: Path,
    *,
    colours: NDArray[np.uint8] | None = None,
    score_name: str = "anomaly score",
    title: str = "",
) -> Path:
    """A table of pictures, one frame per row: image, prediction, anomaly map, ground truth.

    All anomaly maps share one colour scale, from the 1st to the 99.5th percentile of the scores shown.

    Args:
        rows: at least one.
        class_names: C names, for the legend.
        path: PNG to write.
        colours: C×3, uint8; default: by class name.
        score_name: label of the colour bar.
        title: heading.
    """
    from matplotlib.patches import Patch

    colours = class_colours(class_names) if colours is None else colours
    heights = [row.image.shape[0] / row.image.shape[1] for row in rows]
    cell_width = 3.4
    figure = _figure(4 * cell_width, cell_width * sum(heights) + 0.2 * len(rows) + 1.5)
    # The colour bar has a row of its own: stealing room from the maps would shift them against their neighbours.
    cells = figure.add_gridspec(len(rows) + 1, 4, height_ratios=[*heights, 0.035])
    grid = np.array([[figure.add_subplot(cells[row, column]) for column in range(4)] for row in range(len(rows))])
    low, high = _score_range(rows)
    shown: Any = None
    present: set[int] = set()
    for axes, row in zip(grid, rows, strict=True):
        step = max(1, -(-max(row.image.shape[:2]) // _MAX_CELL_PX))
        image, predicted, label = (part[::step, ::step] for part in (row.image, row.predicted, row.label))
        present |= set(np.unique(predicted).tolist())
        axes[0].imshow(image)
        axes[1].imshow(_blend(image, colours[np.minimum(predicted, len(colours) - 1)], 0.65))
        shown = axes[2].imshow(row.score[::step, ::step], cmap="inferno", vmin=low, vmax=high)
        axes[3].imshow(_ground_truth(image, label))
        axes[0].set_title(_ellipsis(row.key, 58), fontsize=8, color="#555555", loc="left", pad=3)
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
        Patch(facecolor=_hex(colours[index]), label=name.replace("_", " "))
        for index, name in enumerate(class_names)
        if index in present
    ]
    for colour, name in ((ANOMALY_COLOUR, "anomaly (ground truth)"), (VOID_COLOUR, "void, not judged")):
        patches.append(Patch(facecolor=_hex(colour), label=name))
    num_columns = -(-len(patches) // -(-len(patches) // 7))
    figure.legend(handles=patches, loc="outside lower center", ncols=num_columns, frameon=False, fontsize=9)
    if title:
        figure.suptitle(title, fontsize=12)
    return _save(figure, path)


def curves_figure(history: Mapping[str, Series], path: Path, title: str = "History") -> Path:
    """Losses, health signals, rates and throughput over the steps; only what the history has.

    Args:
        history: metric → (steps, values), from `mgcda_dist.tracking.jsonl.read_history`.
        path: PNG to write.
        title: heading.
    """
    found = [(plot, names) for plot in HISTORIES if (names := matching_metrics(history, plot.pattern))]
    num_columns = min(3, max(len(found), 1))
    num_rows = -(-max(len(found), 1) // num_columns)
    figure = _figure(4.6 * num_columns, 3.1 * num_rows + 0.4)
    grid = figure.subplots(num_rows, num_columns, squeeze=False)
    for axes in grid.flat[len(found) :]:
        axes.set_axis_off()
    for axes, (plot, names) in zip(grid.flat, found, strict=False):
        _draw_history(axes, history, plot, names)
    if not found:
        grid[0, 0].text(0.5, 0.5, "nothing was logged", ha="center", va="center")
    figure.suptitle(title, fontsize=12)
    return _save(figure, path)


def _draw_history(axes: Axes, history: Mapping[str, Series], plot: HistoryPlot, names: dict[str, str]) -> None:
    for index, (label, metric) in enumerate(names.items()):
        steps, values = history[metric]
        colour = _line_colour(index)
        many = len(steps) > 200
        axes.plot(steps, values, color=colour, linewidth=0.6 if many else 1.6, alpha=0.35 if many else 1.0,
                  label=None if many else label)  # fmt: skip
        if many:
            axes.plot(steps, smoothed(values), color=colour, linewidth=1.8, label=label)
        chance = chance_level(history, metric)
        if chance is not None and index == 0:
            axes.axhline(chance, color="#777777", linewidth=1, linestyle="--")
    values = np.concatenate([np.asarray(history[metric][1], float) for metric in names.values()])
    values = values[np.isfinite(values)]
    if plot.log and values.size and values.min() > 0 and values.max() > 10 * values.min():
        axes.set_yscale("log")
    elif plot.share:
        axes.set_ylim(-0.02, 1.02)
    elif values.size and values.min() >= 0:
        axes.set_ylim(bottom=0)
    axes.set_title(plot.title, fontsize=10)
    axes.set_xlabel("step", fontsize=9)
    axes.set_ylabel(plot.unit, fontsize=9)
    _tidy(axes)
    if len(names) > 1 or "(.+)" in plot.pattern:  # a single fixed name stands in the heading already
        _legend(axes, loc="best" if len(names) <= 3 else "outside")


def _score_range(rows: Sequence[PanelRow]) -> tuple[float, float]:
    values = np.concatenate([np.asarray(row.score, np.float64)[::4, ::4].ravel() for row in rows])
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values, [1.0, 99.5])
    return float(low), float(max(high, low + 1e-12 + 1e-6 * abs(low)))


def _ground_truth(image: NDArray[np.uint8], label: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image in grey, anomalies red, void flat grey."""
    grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    picture = np.repeat(np.round(60 + 0.65 * grey)[..., None], 3, axis=2).astype(np.uint8)
    picture = np.where((label == ANOMALY)[..., None], _blend(picture, np.array(ANOMALY_COLOUR, np.uint8), 0.8), picture)
    return np.where((label == VOID)[..., None], np.array(VOID_COLOUR, np.uint8), picture)


def _blend(below: NDArray[np.uint8], above: NDArray[np.uint8], opacity: float) -> NDArray[np.uint8]:
    return np.round((1 - opacity) * below.astype(np.float32) + opacity * above).astype(np.uint8)


def _equal_f1(axes: Axes) -> None:
    for f1 in (0.2, 0.4, 0.6, 0.8):
        recall = np.linspace(f1 / (2 - f1), 1, 200)
        axes.plot(recall, f1 * recall / (2 * recall - f1), color="#cccccc", linewidth=0.8, zorder=0)
        axes.annotate(f"F1 {f1:.1f}", (1.0, f1 / (2 - f1)), (-2, 2), textcoords="offset points", color="#999999",
                      fontsize=8, ha="right")  # fmt: skip


def _unit_square(axes: Axes, x: str, y: str, title: str) -> None:
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.01)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, fontsize=12)
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    axes.grid(**_GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", labelsize=8)


def _legend(axes: Axes, loc: Literal["best", "lower right", "outside"]) -> None:
    if not axes.get_legend_handles_labels()[0]:
        return
    if loc == "outside":
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)
    else:
        axes.legend(loc=loc, fontsize=8, framealpha=0.9, edgecolor="#dddddd")


def _line_colour(index: int) -> str:
    return LINE_COLOURS[index % len(LINE_COLOURS)]


def _hex(colour: Sequence[int] | NDArray[np.uint8]) -> str:
    red, green, blue = (int(part) for part in colour)
    return f"#{red:02x}{green:02x}{blue:02x}"


def _ellipsis(text: str, length: int) -> str:
    return text if len(text) <= length else "…" + text[1 - length :]


def _figure(width: float, height: float) -> Figure:
    # Its log is not for users: "building the font cache" on a new machine, folders it cannot write to.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained", facecolor="white")


def _save(figure: Figure, path: Path) -> Path:
    with PendingFile(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return path

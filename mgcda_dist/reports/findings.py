"""The sheet of findings: frames, their anomaly maps, and what is found, missed and falsely reported at a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.choices import ANOMALY, VOID
from mgcda_dist.reports.figures import blend, hex_of, new_figure, save_figure, score_range
from mgcda_dist.reports.lettering import drawable, families
from mgcda_dist.reports.pictures import FALSE_ALARM_COLOUR, HIT_COLOUR, MISSED_COLOUR

__all__ = ["Findings", "Shown", "findings_figure", "findings_of"]

_CELL_INCHES, _MAX_CELL_PX = 4.2, 900
_MIN_SIDE_PX, _MIN_AREA_PX = 6, 50
"""Of an anomaly that counts, and of a marked region that is reported: what `mgcda predict` leaves out by default."""
_SHARE_FOUND, _SHARE_THAT_EXCUSES = 0.5, 0.1
_EIGHT = np.ones((3, 3), bool)


@dataclass(frozen=True)
class Shown:
    """A frame of the sheet: image H×W×3 and label H×W, uint8; score H×W; `note` is why it is shown."""

    key: str
    image: NDArray[np.uint8]
    score: NDArray[np.floating[Any]]
    label: NDArray[np.uint8]
    note: str = ""


@dataclass(frozen=True)
class Findings:
    """Outcome of a threshold on a frame; masks are H×W, bool.

    Attributes:
        found: pixels of the reported regions that show an anomaly, with their halo.
        missed: pixels of the anomalies that are missed.
        false_alarms: pixels of the false alarms.
        num_anomalies, num_found, num_false_alarms: regions; anomalies of at least 6 pixels in one direction.
    """

    found: NDArray[np.bool_]
    missed: NDArray[np.bool_]
    false_alarms: NDArray[np.bool_]
    num_anomalies: int
    num_found: int
    num_false_alarms: int

    def in_words(self) -> str:
        """`2 of 3 found, 1 false alarm`."""
        alarms = f"{self.num_false_alarms} false alarm{'' if self.num_false_alarms == 1 else 's'}"
        return f"{self.num_found} of {self.num_anomalies} found, {alarms}"


def findings_of(score: NDArray[np.floating[Any]], label: NDArray[np.uint8], threshold: float) -> Findings:
    """Compare the regions of score >= threshold with the labelled anomalies.

    An anomaly is found if half of it is marked. A marked region of 50 pixels and more is reported, and a false alarm if
    less than a tenth of it is anomaly or void: the halo of a found object is none.
    """
    marked = np.asarray(score >= threshold)
    anomaly, missed = label == ANOMALY, np.zeros(marked.shape, bool)
    found, false_alarms = missed.copy(), missed.copy()
    anomalies = _regions(anomaly, side_px=_MIN_SIDE_PX)
    for region in anomalies:
        if marked[region].mean() < _SHARE_FOUND:
            missed[region] = True
    alarms = 0
    for region in _regions(marked, area_px=_MIN_AREA_PX):
        if anomaly[region].mean() >= _SHARE_THAT_EXCUSES:
            found[region] = True
        elif (label[region] == VOID).mean() + anomaly[region].mean() < _SHARE_THAT_EXCUSES:
            false_alarms[region] = True
            alarms += 1
    num_missed = sum(bool(missed[region].all()) for region in anomalies)
    return Findings(found, missed, false_alarms, len(anomalies), len(anomalies) - num_missed, alarms)


def findings_figure(
    frames: Sequence[Shown],
    path: Path,
    *,
    threshold: float,
    source: str,
    score_name: str = "anomaly score",
    title: str = "",
) -> Path:
    """A frame per row: image, anomaly map with the outline of the threshold, and what is reported; writes a PNG.

    Args:
        frames: at least one.
        source: origin of the threshold in a few words.
        score_name: of the colour bar.
    """
    from matplotlib.patches import Patch

    results = [findings_of(each.score, each.label, threshold) for each in frames]
    shrunk = [_shrunk(each) for each in frames]
    heights = [each.image.shape[0] / each.image.shape[1] for each in shrunk]
    figure = new_figure(3 * _CELL_INCHES, _CELL_INCHES * sum(heights) + 0.35 * len(frames) + 1.5)
    cells = figure.add_gridspec(len(frames) + 1, 3, height_ratios=[*heights, 0.03])
    low, high = score_range([each.score for each in shrunk])
    high = max(high, threshold)
    shown: Any = None
    for row, (each, result) in enumerate(zip(shrunk, results, strict=True)):
        axes = [figure.add_subplot(cells[row, column]) for column in range(3)]
        axes[0].imshow(each.image)
        shown = axes[1].imshow(each.score, cmap="inferno", vmin=low, vmax=high)
        if each.score.min() < threshold <= each.score.max():
            axes[1].contour(each.score, [threshold], colors="white", linewidths=0.8)
        axes[2].imshow(_verdict(each.image, result))
        texts = [f"{each.key}   {each.note}".rstrip(), "", result.in_words()]
        for part, text in zip(axes, texts, strict=True):
            part.set_title(drawable(text), fontsize=9, color="#444444", loc="left", pad=3, family=families([text]))
            part.set_axis_off()
        if row == 0:
            for part, heading in zip(axes, ("image", "anomaly map", "what is reported"), strict=True):
                part.annotate(heading, (0.5, 1), (0, 20), xycoords="axes fraction", textcoords="offset points",
                              ha="center", fontsize=12)  # fmt: skip
    bar = figure.colorbar(shown, cax=figure.add_subplot(cells[len(frames), 1]), orientation="horizontal")
    bar.set_label(f"{score_name}; white: threshold {threshold:.3g} ({source})", fontsize=9)
    bar.ax.axvline(threshold, color="white", linewidth=2)
    bar.ax.tick_params(labelsize=8)
    names = {"found": HIT_COLOUR, "missed": MISSED_COLOUR, "false alarm": FALSE_ALARM_COLOUR}
    patches = [Patch(facecolor=hex_of(colour), label=name) for name, colour in names.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=3, frameon=False, fontsize=10)
    if title:
        figure.suptitle(drawable(title), fontsize=12, family=families([title]))
    return save_figure(figure, path)


def _verdict(image: NDArray[np.uint8], result: Findings) -> NDArray[np.uint8]:
    """The frame in grey; found, missed and false alarms in their colours, with edges that small regions keep."""
    from scipy import ndimage

    step = _step(result.found.shape)
    grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    picture = np.repeat(np.round(50 + 0.7 * grey)[..., None], 3, axis=2).astype(np.uint8)
    for mask, colour in (
        (result.found, HIT_COLOUR), (result.missed, MISSED_COLOUR), (result.false_alarms, FALSE_ALARM_COLOUR),
    ):  # fmt: skip
        above, mask = np.array(colour, np.uint8), mask[::step, ::step]
        picture = np.where(mask[..., None], blend(picture, above, 0.55), picture)
        inside = np.asarray(ndimage.binary_erosion(mask, _EIGHT, iterations=max(1, image.shape[1] // 400)), bool)
        edge = mask & ~inside
        picture = np.where(edge[..., None], above, picture)
    return picture


def _regions(mask: NDArray[np.bool_], *, side_px: int = 1, area_px: int = 1) -> list[tuple[NDArray[np.intp], ...]]:
    """The indices of each 8-connected region of at least that longer side, and that area."""
    from scipy import ndimage

    numbered = np.empty(mask.shape, np.int32)
    count = int(ndimage.label(mask, structure=_EIGHT, output=numbered))  # pyright: ignore[reportArgumentType]
    found: list[tuple[NDArray[np.intp], ...]] = []
    for index, box in enumerate(ndimage.find_objects(numbered, count), 1):
        if box is None or max(side.stop - side.start for side in box) < side_px:
            continue
        rows, columns = np.nonzero(numbered[box] == index)
        if len(rows) < area_px:
            continue
        found.append((rows + box[0].start, columns + box[1].start))
    return found


def _shrunk(frame: Shown) -> Shown:
    step = _step(frame.label.shape)
    every = np.s_[::step, ::step]
    return Shown(frame.key, frame.image[every], frame.score[every], frame.label[every], frame.note)


def _step(shape: tuple[int, ...]) -> int:
    return max(1, -(-max(shape) // _MAX_CELL_PX))

"""Plots of the history of a run, and the data of their lines: matching metrics, the level of chance, a mean."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["HISTORIES", "HistoryPlot", "Series", "chance_level", "matching_metrics", "smoothed"]

Series = tuple[Sequence[int], Sequence[float]]
"""Steps and values of one metric, from `mgcda_dist.tracking.jsonl.read_history`."""


@dataclass(frozen=True)
class HistoryPlot:
    """One plot of the history: which metrics it shows, and how.

    Attributes:
        unit: of the vertical axis.
        pattern: what a metric's whole name must match; its first group is the line's label.
        log: logarithmic where the values span more than a factor of ten.
        share: values are shares, from 0 to 1.
        group: heading under which a page puts it.
        exact: values follow a rule, so that there is no noise to smooth away.
        apart: labels begin with different things before this word: with one run, each has a plot of its own.
    """

    title: str
    unit: str
    pattern: str
    log: bool = False
    share: bool = False
    group: str = ""
    exact: bool = False
    apart: str = ""


HISTORIES = (
    HistoryPlot("Loss terms", "loss", r"loss/(.+)", log=True, group="Losses"),
    HistoryPlot("Discriminator accuracy", "accuracy", r"mdat/(.+)/accuracy", share=True,
                group="Alignment of domains (MDAT)"),
    HistoryPlot("Discriminator accuracy in each domain", "accuracy", r"mdat/(.+/domain/.+)", share=True,
                group="Alignment of domains (MDAT)", apart=" domain "),
    HistoryPlot("Accuracy near to objects and far away", "accuracy",
                r"mdat/(.+/(?:near_objects|far_from_objects))", share=True, group="Alignment of domains (MDAT)"),
    HistoryPlot("Cells that are aligned", "share of cells", r"mdat/(.+)/aligned_share", share=True,
                group="Alignment of domains (MDAT)"),
    HistoryPlot("Reversal strength λ and label smoothing ε", "λ, ε", r"mdat/(lambda|.+/epsilon)",
                group="Alignment of domains (MDAT)"),
    HistoryPlot("Contrastive memory", "filled share", r"cacl/(?:queue_)?(fill.*|distributions_known)", share=True,
                group="Contrastive learning (CACL)", exact=True),
    HistoryPlot("Age of the memory", "steps", r"cacl/queue_(age.*)", group="Contrastive learning (CACL)"),
    HistoryPlot("Positives of another domain", "share of positives", r"cacl/crossing_(.+)", share=True,
                group="Contrastive learning (CACL)"),
    HistoryPlot("Anchors of the contrastive loss", "anchors per step", r"cacl/(anchors)",
                group="Contrastive learning (CACL)"),
    HistoryPlot("Learning rates", "rate", r"lr/(.+)", log=True, group="Optimisation", exact=True),
    HistoryPlot("Gradient norm, before clipping", "norm", r"train/(gradient_norm)", log=True, group="Optimisation"),
    HistoryPlot("Throughput", "images per second", r"time/(images_per_s)", group="Speed"),
    HistoryPlot("Waiting for data", "share of the time", r"time/(data_wait_share)", share=True, group="Speed"),
    HistoryPlot("Use of a GPU", "share", r"time/(mfu|busy_share)", share=True, group="Speed"),
    HistoryPlot("Kernels and copies of a GPU in a step, where it was profiled", "launches", r"time/(launches)",
                group="Speed", exact=True),
    HistoryPlot("Operations of a GPU", "TFLOP/s", r"time/(tflop)_per_s", group="Speed"),
    HistoryPlot("Peak memory of a GPU", "GiB", r"gpu/(peak_memory)_gib", group="Speed"),
)  # fmt: skip


def matching_metrics(history: Mapping[str, Series], pattern: str) -> dict[str, str]:
    """Label → metric of the metrics that a plot shows and that have a finite value."""
    names: dict[str, str] = {}
    for metric, (_, values) in history.items():
        match = re.fullmatch(pattern, metric)
        if match and np.isfinite(np.asarray(values, float)).any():
            label = match.group(1).replace("_", " ").replace("/", " ")
            names[label.replace("lambda", "λ").replace("epsilon", "ε")] = metric
    return names


def chance_level(history: Mapping[str, Series], metric: str) -> float | None:
    """1/M, from the accuracy and its ratio to chance."""
    ratio = history.get(metric + "_over_chance")
    if ratio is None:
        return None
    pairs = zip(history[metric][1], ratio[1], strict=False)
    return next((accuracy / over for accuracy, over in pairs if over > 0), None)


def smoothed(values: Sequence[float] | NDArray[Any], share: float) -> NDArray[np.float64]:
    """Running mean over a share of the points, shorter at the ends; values that are not finite are left out."""
    series = np.asarray(values, float)
    width = max(3, int(len(series) * share)) | 1
    kernel, known = np.ones(width), np.isfinite(series)
    total = np.convolve(np.where(known, series, 0.0), kernel, mode="same")
    return total / np.maximum(np.convolve(known.astype(float), kernel, mode="same"), 1.0)

"""Pixel metrics of large sets: time and memory against scikit-learn on pooled scores, in one run, and agreement.

    python benchmarks/metrics.py > benchmarks/results/metrics.md

Frames are generated: 2048×1024 float32 scores with the shape of an energy (smooth texture, a few anomalies of 100 to
40,000 px that overlap it, void at the bottom). Measured is the processor time of the metrics alone. scikit-learn gets
the same first frames, pooled, as many as `--pooled-frames` says; what it would need for all frames is extrapolated with
n log n for time and n for memory. Each side runs in a process of its own, whose peak memory the kernel reports.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import re
import time
from collections.abc import Callable
from datetime import date
from functools import cache
from importlib.metadata import version
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import scipy
from numpy.typing import NDArray

from mgcda_dist.choices import CONVENTIONS
from mgcda_dist.evaluation.components import TRACKS, ComponentEvaluation
from mgcda_dist.evaluation.conventions import PixelEvaluation
from mgcda_dist.evaluation.pixel import PixelHistogram
from mgcda_dist.tables import Cell, Column, Number, Table, markdown

HEIGHT_PX, WIDTH_PX = 1024, 2048
Times = dict[str, float]


def frame(number: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Score and label of a frame: a function of its number."""
    rng = np.random.default_rng(number)
    coarse = rng.standard_normal((HEIGHT_PX // 32, WIDTH_PX // 32), dtype=np.float32)
    score = cv2.resize(coarse, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_CUBIC)
    score += np.float32(0.3 + 0.05 * rng.random()) * np.roll(_noise(number % 4), int(rng.integers(WIDTH_PX))) - 6
    label = np.zeros((HEIGHT_PX, WIDTH_PX), np.uint8)
    for _ in range(int(rng.integers(0, 4))):
        centre = int(rng.integers(0, WIDTH_PX)), int(rng.integers(HEIGHT_PX // 3, HEIGHT_PX))
        axes = (int(rng.integers(6, 113)), int(rng.integers(6, 113)))
        cv2.ellipse(label, centre, axes, 0, 0, 360, 254, -1)
    score[label == 254] += 2.0 + 0.5 * float(rng.standard_normal())
    label[-HEIGHT_PX // 16 :] = 255
    return score, label


@cache
def _noise(number: int) -> NDArray[np.float32]:
    return np.random.default_rng(~number % 2**32).standard_normal((HEIGHT_PX, WIDTH_PX), dtype=np.float32)


def streamed(num_frames: int) -> tuple[Times, dict[str, float]]:
    """The streaming histogram on its own."""
    histogram, seconds = PixelHistogram(), 0.0
    for number in range(num_frames):
        score, label = frame(number)
        begin = time.process_time()
        histogram.update(score, label, str(number))
        seconds += time.process_time() - begin
    begin = time.process_time()
    result = histogram.result()
    return {"metrics": seconds + time.process_time() - begin}, {
        "ap": result.ap, "auroc": result.auroc, "fpr95": result.fpr95,
    }  # fmt: skip


def everything(num_frames: int) -> tuple[Times, dict[str, float]]:
    """All conventions, tables for intervals, and components at a given threshold: what an evaluation does at most."""
    pixels, components = PixelEvaluation(CONVENTIONS), ComponentEvaluation(-3.0, TRACKS["anomaly"])
    times = {"metrics": 0.0, "components": 0.0}
    for number in range(num_frames):
        score, label = frame(number)
        begin = time.process_time()
        pixels.update(str(number), score, label)
        middle = time.process_time()
        components.update(str(number), score, label)
        times["metrics"] += middle - begin
        times["components"] += time.process_time() - middle
    begin = time.process_time()
    result = pixels.results()["pooled"]
    times["metrics"] += time.process_time() - begin
    components.result()
    return times, {"ap": result.ap, "auroc": result.auroc, "fpr95": result.fpr95}


def pooled(num_frames: int) -> tuple[Times, dict[str, float]]:
    """scikit-learn on all scores at once, collected as evaluation scripts do it."""
    from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve  # not in the memory of the others

    scores, labels, seconds = list[NDArray[np.float32]](), list[NDArray[np.bool_]](), 0.0
    for number in range(num_frames):
        score, label = frame(number)
        begin = time.process_time()
        valid = label != 255
        scores.append(score[valid])
        labels.append(label[valid] == 254)
        seconds += time.process_time() - begin
    begin = time.process_time()
    score, anomaly = np.concatenate(scores), np.concatenate(labels)
    del scores, labels
    ap = float(average_precision_score(anomaly, score))
    auroc = float(roc_auc_score(anomaly, score))
    fpr, tpr, _ = roc_curve(anomaly, score, drop_intermediate=False)
    fpr95 = float(fpr[np.argmax(tpr >= 0.95)])
    return {"metrics": seconds + time.process_time() - begin}, {"ap": ap, "auroc": auroc, "fpr95": fpr95}


def _peak_mib() -> float:
    # Not getrusage: its peak starts with that of the parent.
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def _run(work: Callable[[int], Any], num_frames: int, queue: SimpleQueue[Any]) -> None:
    cv2.setNumThreads(1)
    for number in range(4):
        frame(number)
    before = _peak_mib()
    queue.put((*work(num_frames), before, _peak_mib()))


def alone(work: Callable[[int], Any], num_frames: int) -> tuple[Times, dict[str, float], float, float]:
    """Times, metrics, and peak memory before and after (MiB), in a process of its own."""
    context = get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=_run, args=(work, num_frames, queue))
    process.start()
    result = queue.get()
    process.join()
    return result


def main() -> None:
    """Measure and print a markdown page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--pooled-frames", type=int, default=40)
    options = parser.parse_args()
    few, many = options.pooled_frames, options.frames
    print(f"# Pixel metrics of large sets, measured on {date.today():%d %B %Y}\n")
    print("    python benchmarks/metrics.py\n")
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start; Python "
        f"{platform.python_version()}, NumPy {np.__version__}, scikit-learn {version('scikit-learn')}, SciPy "
        f"{scipy.__version__}.\nFrames are {WIDTH_PX}×{HEIGHT_PX}, float32, generated; times are processor time of "
        "the metrics alone, one thread.\nMemory is the peak of the process, its imports (PyTorch alone: 470 MiB) and "
        "the making of frames included.\n"
    )
    rows: list[list[Cell]] = []

    def row(name: str, frames: int, seconds: float, peak: float, metrics: dict[str, float]) -> None:
        times = (f"{seconds:.1f}", f"{1000 * seconds / frames:.1f}", f"{peak:,.0f}")
        rows.append([name, frames, *times, *(Number(metrics[key]) for key in ("ap", "auroc", "fpr95"))])

    ours, our_metrics, _, peak = alone(streamed, few)
    row("streaming", few, ours["metrics"], peak, our_metrics)
    theirs, their_metrics, their_base, their_peak = alone(pooled, few)
    row("scikit-learn, pooled", few, theirs["metrics"], their_peak, their_metrics)
    long, long_metrics, base, long_peak = alone(streamed, many)
    row("streaming", many, long["metrics"], long_peak, long_metrics)
    full, full_metrics, _, full_peak = alone(everything, many)
    row("all conventions, tables for intervals", many, full["metrics"], full_peak, full_metrics)
    columns = [Column("", align="left"), *map(Column, ("frames", "s", "ms per frame", "peak MiB"))]
    print(markdown(Table([*columns, *(Column(title, digits=4) for title in ("AP", "AUROC", "FPR95"))], rows)))

    pixels = few * HEIGHT_PX * WIDTH_PX
    growth = many / few
    later = theirs["metrics"] * growth * math.log(pixels * growth) / math.log(pixels)
    memory = their_base + (their_peak - their_base) * growth
    worst = max(abs(our_metrics[key] - their_metrics[key]) for key in our_metrics)
    print(
        f"\n- The same {few} frames: {theirs['metrics'] / ours['metrics']:.0f} times as fast as scikit-learn, largest "
        f"difference of a metric {worst:.1e}.\n"
        f"- {many} frames: scikit-learn *extrapolated* to {later:,.0f} s (n log n) and {memory / 1024:,.0f} GiB (n), "
        f"so {later / long['metrics']:.0f} times as long.\n"
        f"- The process takes {base:,.0f} MiB before the first frame is counted; {many} frames add "
        f"{long_peak - base:,.0f} MiB, with all conventions and tables {full_peak - base:,.0f} MiB.\n"
        f"- Component metrics at a given threshold: {1000 * full['components'] / many:.0f} ms per frame."
    )


if __name__ == "__main__":
    main()

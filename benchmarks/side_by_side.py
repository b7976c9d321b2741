"""A picture of the same frames under several models: photograph, each model's anomaly map, ground truth.

    python benchmarks/side_by_side.py runs/A runs/B --shards shards/road_anomaly/test --out picture.jpg

Frames are taken evenly from the whole set. A map is bright where its score passes the threshold that finds 95 % of the
anomalous pixels of the frames shown, and darker below it in proportion to the score's rank: what is bright beside the
anomaly is what that recall costs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.choices import ANOMALY, VOID
from mgcda_dist.data.folders import label_table, open_shards
from mgcda_dist.data.frames import EvaluationFrames, Frame
from mgcda_dist.inference.model import load_exported
from mgcda_dist.reports.palette import ANOMALY_COLOUR

RECALL = 0.95


def main() -> None:
    """Predict, and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="runs or exported models, with `NAME=` before them if you like")
    parser.add_argument("--shards", required=True, help="folder of frames with anomalies")
    parser.add_argument("--frames", type=int, default=5, help="how many")
    parser.add_argument("--out", type=Path, required=True, help="picture to write")
    arguments = parser.parse_args()

    manifest = open_shards(arguments.shards, "frames")
    frames = EvaluationFrames(manifest, label_table(manifest, "cityscapes19"))
    chosen = [frames[int(i)] for i in np.linspace(0, len(frames) - 1, arguments.frames).round()]
    columns: list[tuple[str, list[NDArray[np.uint8]]]] = [("image", [frame.image for frame in chosen])]
    for given in arguments.models:
        name, _, folder = given.rpartition("=")
        model = load_exported(folder)
        scores = [model.predict(frame.image)[0] for frame in chosen]
        columns.append((name or model.name, brightened(scores, chosen)))
    columns.append(("anomaly", [marked(frame) for frame in chosen]))
    draw(columns, arguments.out)
    print(arguments.out)


def brightened(scores: list[NDArray[np.floating]], frames: list[Frame]) -> list[NDArray[np.uint8]]:
    """Score maps as H×W×3 pictures, bright above the threshold."""
    of_anomalies = np.concatenate([score[frame.label == ANOMALY] for score, frame in zip(scores, frames, strict=True)])
    judged = np.sort(np.concatenate([s[f.label != VOID][::50] for s, f in zip(scores, frames, strict=True)]))
    if not of_anomalies.size:
        raise SystemExit(
            "no frame shown has an anomaly: take other frames, or shards whose labels say where anomalies are"
        )
    threshold = np.quantile(of_anomalies, 1 - RECALL)
    pictures: list[NDArray[np.uint8]] = []
    for score in scores:
        rank = np.searchsorted(judged, score) / len(judged)
        value = np.where(score >= threshold, 255, 110 * rank).astype(np.uint8)
        pictures.append(np.stack([value, np.where(score >= threshold, 190, value), np.minimum(value, 110)], axis=2))
    return pictures


def marked(frame: Frame) -> NDArray[np.uint8]:
    """The photograph in grey with its anomalies coloured."""
    grey = frame.image.mean(axis=2, keepdims=True).repeat(3, axis=2)
    return np.where((frame.label == ANOMALY)[..., None], np.array(ANOMALY_COLOUR), grey).astype(np.uint8)


def draw(columns: list[tuple[str, list[NDArray[np.uint8]]]], path: Path) -> None:
    """One frame per row, one column per heading."""
    from matplotlib.figure import Figure

    rows = len(columns[0][1])
    aspect = columns[0][1][0].shape[0] / columns[0][1][0].shape[1]
    figure = Figure(figsize=(3.4 * len(columns), 3.4 * aspect * rows + 0.4), dpi=110, layout="constrained")
    grid = figure.subplots(rows, len(columns), squeeze=False)
    for column, (heading, pictures) in enumerate(columns):
        grid[0, column].set_title(heading, fontsize=11)
        for row, picture in enumerate(pictures):
            grid[row, column].imshow(picture)
            grid[row, column].set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, pil_kwargs={"quality": 85} if path.suffix in (".jpg", ".jpeg") else None)


if __name__ == "__main__":
    main()

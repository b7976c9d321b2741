"""Score maps in the layouts that benchmarks take; docs/use.md has the sources.

`fishyscapes`: what a submitted container must leave in /output: `DDDD_anomaly.npy` and, from a network that knows the
classes of Cityscapes, `DDDD_segmentation.npy`, at the image's size; DDDD is the number the image's name begins with.

`smiyc`: what the benchmark's own code reads from its folder of outputs: `anomaly_p/METHOD/DATASET/FRAME.hdf5`, each
with an array `value` in float16, compressed. METHOD is the subject's name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.choices import SubmissionLayout
from mgcda_dist.data.frames import Frame
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.errors import MgcdaError
from mgcda_dist.evaluation.evaluate import Score, Sink
from mgcda_dist.evaluation.score_maps import h5py_module

__all__ = ["submission"]

# Data set → the name under which the benchmark's code keeps outputs (`name_for_persistence` in its `tracks.py`); its
# Fishyscapes frames are read from Lost and Found's.
_SMIYC_DATASETS: dict[str, Callable[[str], str]] = {
    "road_anomaly21": lambda split: "AnomalyTrack-all",
    "road_obstacle21": lambda split: "ObstacleTrack-all",
    "lost_and_found": lambda split: f"LostAndFound-{split}",
}


def submission(
    layout: SubmissionLayout,
    folder: Path,
    *,
    method: str,
    manifest: Manifest,
    class_space: str,
    keys: Sequence[str] = (),
) -> Sink:
    """Writes the frames of one set.

    Args:
        class_space: of the predicted classes; empty: none.
        keys: of all frames.

    Raises:
        MgcdaError: two frames would be written to one file.
    """
    owners: dict[str, str] = {}
    for key in keys:
        last = key.rpartition("/")[2]
        name = last if layout == "smiyc" else last.partition("_")[0]
        if name in owners:
            problem = f"it and {owners[name]} would both be called {name} in a submission to {layout}"
            raise MgcdaError(key, problem, "write shards of the benchmark's own frames only")
        owners[name] = key
    if layout == "smiyc":
        name = _SMIYC_DATASETS.get(manifest.dataset, lambda split: f"{manifest.dataset}-{split}")(manifest.split)
        return _smiyc(folder / "anomaly_p" / method / name)
    return _fishyscapes(folder, with_classes=class_space == "cityscapes19")


def _fishyscapes(folder: Path, *, with_classes: bool) -> Sink:
    folder.mkdir(parents=True, exist_ok=True)

    def write(frame: Frame, score: Score, predicted: NDArray[np.uint8] | None) -> None:
        number = re.match(r"\d+(?=_|$)", frame.key.rpartition("/")[2])
        if number is None:
            problem = "the frame's name does not begin with a number, by which Fishyscapes calls the output"
            raise MgcdaError(frame.key, problem, "images are called DDDD_NAME.png in /input and in its validation set")
        np.save(folder / f"{number[0]}_anomaly.npy", score.astype(np.float32))
        if with_classes and predicted is not None:
            np.save(folder / f"{number[0]}_segmentation.npy", predicted)

    return write


def _smiyc(folder: Path) -> Sink:
    h5py: Any = h5py_module()
    folder.mkdir(parents=True, exist_ok=True)

    def write(frame: Frame, score: Score, predicted: NDArray[np.uint8] | None) -> None:
        if np.abs(score).max() > np.finfo(np.float16).max:
            problem = "a score is beyond ±65504, the range of float16, in which SegmentMeIfYouCan stores scores"
            raise MgcdaError(frame.key, problem, "choose another score")
        with h5py.File(folder / f"{frame.key.rpartition('/')[2]}.hdf5", "w") as file:
            file.create_dataset("value", data=score.astype(np.float16), compression=9)

    return write

"""The folder of an evaluation: results as JSON and tables, per set the curves, every frame's numbers, some pictures.

    results.json                  numbers, with everything they depend on
    results.md, results.tex       the same as tables
    sets/SET/frames.npz           `bootstrap.ImageTables`, for the paired bootstrap between evaluations
    sets/SET/curves.json          threshold, recall, precision, fpr: PR and ROC curve, at most 500 points each
    sets/SET/frames.json          score_levels; frames: key, AP, FPR95, pixels, mIoU, and paths of their pictures
    sets/SET/frames/KEY.jpg, KEY.score.png, KEY.label.png     the worst and best frames, at most 640 pixels wide

A picture of scores holds levels, 0 … 255: level k means `score_levels[k] <= score < score_levels[k + 1]`. All frames of
a set share the levels, which are close where recall and false positive rate change, not where scores are many.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mgcda_dist.errors import MgcdaError
from mgcda_dist.evaluation.metrics import CurvePoints
from mgcda_dist.evaluation.results import RESULTS, EvaluationResults
from mgcda_dist.evaluation.set_result import FrameResult, PicturedFrame, SetResult
from mgcda_dist.evaluation.tables import latex_table, markdown_table
from mgcda_dist.files import write_atomically, write_json_atomically
from mgcda_dist.trust import enclosed, read_json

__all__ = ["free_folder", "holds_another", "read_curves", "write_evaluation", "write_tables"]

_JPEG_QUALITY = 88
_CURVES = ("threshold", "recall", "precision", "fpr")


def write_evaluation(results: EvaluationResults, sets: Sequence[SetResult], folder: Path) -> None:
    """Write everything; `results.json` last, so that it stands for a whole folder.

    Args:
        folder: receives the files; those of an earlier evaluation are removed.

    Raises:
        MgcdaError: it holds a link that leads out of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    enclosed(folder, folder)
    (folder / RESULTS).unlink(missing_ok=True)
    shutil.rmtree(folder / "sets", ignore_errors=True)
    for result in sets:
        _write_set(result, folder / "sets" / result.name)
    write_tables([results], folder)
    results.save(folder)


def write_tables(every: Sequence[EvaluationResults], folder: Path) -> None:
    """Write `results.md` and `results.tex` of one or more evaluations."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "results.md", markdown_table(every))
    write_atomically(folder / "results.tex", latex_table(every))


def read_curves(path: Path) -> CurvePoints:
    """PR and ROC curve of a set, from its `curves.json`.

    Raises:
        MgcdaError: the file is missing or damaged.
    """
    try:
        content = read_json(path)
        columns = [np.asarray(content[name], np.float64) for name in _CURVES]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise MgcdaError(str(path), f"cannot be read ({type(error).__name__})", "evaluate again") from None
    if len({column.shape for column in columns}) != 1 or columns[0].ndim != 1:
        raise MgcdaError(str(path), "has columns of different lengths", "evaluate again")
    return CurvePoints(*columns)


def free_folder(wanted: Path, identity: str) -> Path:
    """`wanted`, else `wanted-2`, `wanted-3` …: the first that holds no other evaluation than this one.

    Args:
        identity: of the evaluation, from `evaluation_id`.
    """
    number, folder = 1, wanted
    while holds_another(folder, identity):
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder


def holds_another(folder: Path, identity: str) -> bool:
    """True where another evaluation, or a damaged record, lies in the folder."""
    if not (folder / RESULTS).exists():
        return False
    try:
        return EvaluationResults.load(folder).evaluation_id != identity
    except MgcdaError:
        return True  # a damaged file, or another tool's


def _write_set(result: SetResult, folder: Path) -> None:
    (folder / "frames").mkdir(parents=True, exist_ok=True)
    result.tables.save(folder / "frames.npz")
    curves = result.curves
    write_json_atomically(folder / "curves.json", {name: getattr(curves, name).tolist() for name in _CURVES})
    levels = _levels(curves, [pictured.score for pictured in result.pictured])
    pictures: dict[int, dict[str, str]] = {}
    for pictured in result.pictured:
        pictures[pictured.frame.index] = _write_pictures(pictured, levels, folder, taken=len(pictures))
    write_json_atomically(
        folder / "frames.json",
        {
            "score_levels": levels.tolist(),
            "frames": [_frame_json(frame) | pictures.get(frame.index, {}) for frame in result.frames],
            "kept": [pictured.frame.key for pictured in result.pictured],
        },
    )


def _frame_json(frame: FrameResult) -> dict[str, Any]:
    numbers = {"ap": frame.ap, "fpr95": frame.fpr95, "miou": frame.miou}
    return {
        "key": frame.key,
        **{name: value for name, value in numbers.items() if math.isfinite(value)},
        "num_anomaly": frame.num_anomaly,
        "num_inlier": frame.num_inlier,
    }


def _levels(curves: CurvePoints, scores: list[NDArray[np.float32]]) -> NDArray[np.float64]:
    """256 ascending scores: the lowest one shown, then thresholds spread over the curves."""
    lowest = min((float(score.min()) for score in scores), default=0.0)
    thresholds = np.unique(curves.threshold[np.isfinite(curves.threshold)])
    thresholds = thresholds[thresholds > lowest]
    if thresholds.size > 255:
        thresholds = thresholds[np.linspace(0, thresholds.size - 1, 255).round().astype(np.int64)]
    return np.concatenate([[lowest], thresholds])


def _write_pictures(pictured: PicturedFrame, levels: NDArray[np.float64], folder: Path, taken: int) -> dict[str, str]:
    """The three pictures of a frame; returns their paths relative to the set's folder."""
    # Keys may hold slashes and be long; the number keeps two of them apart.
    stem = f"{taken:02d}_" + re.sub(r"[^A-Za-z0-9_.-]+", "_", pictured.frame.key)[-80:]
    level = np.searchsorted(levels, pictured.score.astype(np.float64), side="right") - 1
    pictures = {
        "image": (f"frames/{stem}.jpg", cv2.cvtColor(pictured.image, cv2.COLOR_RGB2BGR)),
        "score": (f"frames/{stem}.score.png", np.clip(level, 0, 255).astype(np.uint8)),
        "label": (f"frames/{stem}.label.png", pictured.label),
    }
    for path, pixels in pictures.values():
        options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if path.endswith(".jpg") else []
        # `imwrite` would say nothing of the reason of a failure.
        _, encoded = cv2.imencode(Path(path).suffix, pixels, options)
        (folder / path).write_bytes(encoded.tobytes())
    return {name: path for name, (path, _) in pictures.items()}

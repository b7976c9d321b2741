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
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mgcda_dist.choices import RunFile
from mgcda_dist.errors import MgcdaError
from mgcda_dist.evaluation.metrics import CurvePoints
from mgcda_dist.evaluation.results import RESULTS, EvaluationResults
from mgcda_dist.evaluation.set_result import FrameResult, PicturedFrame, SetResult
from mgcda_dist.evaluation.tables import latex_table, markdown_table
from mgcda_dist.files import write_atomically, write_json_atomically
from mgcda_dist.trust import enclosed, read_json

__all__ = ["free_folder", "other_content", "read_curves", "write_evaluation", "write_tables"]

_JPEG_QUALITY = 88
_CURVES = ("threshold", "recall", "precision", "fpr")
_PICTURES = [f"frames/[0-9][0-9]*_*.{suffix}" for suffix in ("jpg", "score.png", "label.png")]
_OF_A_SET = ("frames.npz", "curves.json", "frames.json", *_PICTURES)
"""Files that `_write_set` makes, as globs."""
_BEGUN = ("logs/worker-*.log", "sets/*/frames")
"""Globs of what an evaluation makes first, on workers and by itself; no other tool makes them beside `_NAMES` alone."""
_NAMES = frozenset((
    RESULTS, "results.md", "results.tex", "sets", "logs", "pictures", "submission", "ray",
    RunFile.EVENTS, RunFile.METRICS, RunFile.CALLS, RunFile.RUN_ID, RunFile.LEDGER,
))  # fmt: skip
"""Names in the folder of an evaluation and of its record; others are not ours."""


def write_evaluation(results: EvaluationResults, sets: Sequence[SetResult], folder: Path) -> None:
    """Write everything; `results.json` last, so that it stands for a whole folder.

    Args:
        folder: receives the files; those of an earlier evaluation are removed, and no others.

    Raises:
        MgcdaError: it holds a link that leads out of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    enclosed(folder, folder)
    (folder / RESULTS).unlink(missing_ok=True)
    _remove_sets(folder / "sets")
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
    """`wanted`, else `wanted-2`, `wanted-3` …: the first that holds nothing else than this evaluation.

    Args:
        identity: of the evaluation, from `evaluation_id`.
    """
    number, folder = 1, wanted
    while other_content(folder, identity):
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder


def other_content(folder: Path, identity: str) -> str:
    """Content of a folder that is not of this evaluation, in words; empty: it may be written there.

    An evaluation that was killed, which has no `results.json` yet, is written anew.
    """
    if not folder.is_dir():
        return "is a file" if folder.exists() else ""
    if (folder / RESULTS).exists():
        try:
            same = EvaluationResults.load(folder).evaluation_id == identity
        except MgcdaError:
            same = False  # a damaged file, or another tool's
        return "" if same else "holds the results of another evaluation"
    names = {path.name for path in folder.iterdir() if not (path.name.startswith(".") and path.suffix == ".part")}
    begun = any(next(folder.glob(pattern), None) for pattern in _BEGUN)
    return "holds other files" if names and not (begun and names <= _NAMES) else ""


def _remove_sets(folder: Path) -> None:
    """Remove the files of earlier sets, and the folders that are empty then: others may have put files there."""
    for each in [path for path in folder.glob("*") if path.is_dir()]:
        for path in [path for pattern in _OF_A_SET for path in each.glob(pattern)]:
            path.unlink()
        for path in [path for name in ("frames", "") for path in (each / name).glob(".*.part")]:
            path.unlink()  # of an evaluation that was killed
        for path in (each / "frames", each):
            with suppress(OSError):
                path.rmdir()


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

"""Content of an evaluation folder per set, for a report: numbers, curves, score levels, frames and their pictures.

The layout is that of `mgcda_dist.evaluation.folder`. What is missing or damaged is left out, and said in a sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mgcda_dist.choices import ANOMALY, VOID
from mgcda_dist.data.pixels import MAX_PIXELS
from mgcda_dist.errors import MgcdaError
from mgcda_dist.evaluation.folder import read_curves
from mgcda_dist.evaluation.metrics import CurvePoints
from mgcda_dist.evaluation.results import SetNumbers
from mgcda_dist.reports.runs import RunRecord
from mgcda_dist.trust import below, read_json, regular

__all__ = ["EvaluatedSet", "Frame", "FramePictures", "read_sets"]

Floats = NDArray[np.float64]

INLIER_CODE, ANOMALY_CODE, VOID_CODE = 0, 1, 2


@dataclass(frozen=True)
class FramePictures:
    """The pictures of a kept frame, of one size.

    Attributes:
        image: h×w×3, RGB, uint8.
        level: h×w, uint8; see `EvaluatedSet.levels`.
        truth: h×w, uint8: 0 inlier, 1 anomaly, 2 void.
    """

    image: NDArray[np.uint8]
    level: NDArray[np.uint8]
    truth: NDArray[np.uint8]


@dataclass(frozen=True)
class Frame:
    """One frame of a set: its own numbers, and where its pictures are if they were kept."""

    key: str
    ap: float | None
    fpr95: float | None
    miou: float | None
    paths: tuple[Path, Path, Path] | None = None

    def pictures(self) -> FramePictures:
        """Read the pictures.

        Raises:
            MgcdaError: a file that is missing, not a picture, or of another size than the others.
        """
        assert self.paths is not None
        image, level, label = (_pixels(path, mode) for path, mode in zip(self.paths, ("RGB", "L", "L"), strict=True))
        if not image.shape[:2] == level.shape == label.shape:
            raise MgcdaError(str(self.paths[0]), "has another size than its score map or label", "evaluate again")
        truth = np.where(label == ANOMALY, ANOMALY_CODE, np.where(label == VOID, VOID_CODE, INLIER_CODE))
        return FramePictures(image, level, truth.astype(np.uint8))


@dataclass
class EvaluatedSet:
    """One run on one set.

    Attributes:
        curves: None if they were not kept.
        levels: ascending scores; level k of a picture means levels[k] <= score < levels[k + 1].
        frames: all frames, as far as their numbers were kept.
        kept: those with pictures, worst first.
        tables: file of ranked tables for the bootstrap, if it is there.
        missing: sentences about what could not be read.
    """

    name: str
    row: SetNumbers
    curves: CurvePoints | None = None
    levels: Floats | None = None
    frames: list[Frame] = field(default_factory=list[Frame])
    kept: list[Frame] = field(default_factory=list[Frame])
    tables: Path | None = None
    missing: list[str] = field(default_factory=list[str])

    @property
    def best_level(self) -> int:
        """The level whose threshold gives the best F1 on the set; without anomalies, 5 % FPR; without curves, any."""
        if self.levels is None or not len(self.levels):
            return 0
        if self.curves is None or not len(self.curves.threshold):
            return len(self.levels) // 2
        at = self.curves.at(self.levels)
        if not np.any(at.recall > 0):
            return int(np.argmax(at.fpr <= 0.05))
        return int(np.argmax(at.f1()))


def read_sets(run: RunRecord) -> tuple[list[EvaluatedSet], list[str]]:
    """All sets of a run's newest evaluation, and sentences about what is missing."""
    try:
        results = run.results
    except MgcdaError as error:
        return [], [f"{run.name}: {error.problem}"]
    if results is None or not results.sets:
        return [], [f"{run.name} has no evaluation yet: its rows are empty, and it has no pictures"]
    sets = [_read_set(run, name, row) for name, row in results.sets.items()]
    return sets, [f"{run.name} on {each.name}: {sentence}" for each in sets for sentence in each.missing]


def _read_set(run: RunRecord, name: str, row: SetNumbers) -> EvaluatedSet:
    found = EvaluatedSet(name, row)
    try:
        folder = below(run.evaluation or Path(), f"sets/{name}")
    except MgcdaError as error:
        found.missing.append(str(error).splitlines()[0])
        return found
    if run.evaluation is None or not folder.is_dir():
        found.missing.append("no curves and no frames were kept; `mgcda evaluate` keeps them")
        return found
    if (folder / "frames.npz").is_file():
        found.tables = folder / "frames.npz"
    for file, read in (("curves.json", _read_curves), ("frames.json", _read_frames)):
        _try(found, folder / file, read)
    return found


def _try(found: EvaluatedSet, path: Path, read: Callable[[EvaluatedSet, Path], None]) -> None:
    """A file that another version wrote, or that a full disk cut off, costs its section and nothing else."""
    if not path.is_file():
        found.missing.append(f"{path.name} is not there; evaluate again to have it")
        return
    try:
        read(found, path)
    except MgcdaError as error:
        found.missing.append(f"{path.name} {error.problem}; {error.remedy}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        found.missing.append(f"{path.name} cannot be read ({type(error).__name__}); evaluate again")


def _read_curves(found: EvaluatedSet, path: Path) -> None:
    curves = read_curves(path)
    found.curves = curves if curves.threshold.size else None


def _read_frames(found: EvaluatedSet, path: Path) -> None:
    content = read_json(path)
    levels = np.asarray(content["score_levels"], np.float64)
    frames: dict[str, Frame] = {}
    for entry in content["frames"]:
        names = ("image", "score", "label")
        has_pictures = all(name in entry for name in names)
        paths = tuple(below(path.parent, str(entry[name])) for name in names) if has_pictures else None
        key = str(entry["key"])
        frames[key] = Frame(key, entry.get("ap"), entry.get("fpr95"), entry.get("miou"), paths)  # pyright: ignore[reportArgumentType]
    found.levels, found.frames = levels, list(frames.values())
    kept = [frames[str(key)] for key in content.get("kept", []) if str(key) in frames]
    found.kept = [frame for frame in kept if frame.paths is not None] or [f for f in found.frames if f.paths]


def _pixels(path: Path, mode: str) -> NDArray[np.uint8]:
    try:
        with Image.open(regular(path)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ValueError(f"{picture.width}×{picture.height} pixels are over the bound of {MAX_PIXELS}")
            return np.asarray(picture.convert(mode))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise MgcdaError(str(path), f"cannot be read as a picture: {error}", "evaluate again") from None

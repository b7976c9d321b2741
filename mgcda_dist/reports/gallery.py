"""The frames a report shows, per evaluation set and for all runs together, in no more bytes than it may take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mgcda_dist.errors import MgcdaError
from mgcda_dist.reports.evaluated import EvaluatedSet, FramePictures
from mgcda_dist.reports.pictures import Mistake, crop_uri, image_uri, map_uri, mistakes

__all__ = ["Failure", "Gallery", "GalleryFrame", "build_galleries"]

_WIDTHS_PX = (640, 480, 360, 240)
_MISTAKES_PER_KIND, _MISTAKES_PER_FRAME = 6, 2


@dataclass
class GalleryFrame:
    """One frame.

    Attributes:
        image: data URI of the photograph.
        maps: per run (its number) the data URI of levels and truth.
        caption: AP or mIoU of the first run that has the frame.
    """

    key: str
    image: str
    maps: dict[int, str] = field(default_factory=dict[int, str])
    caption: str = ""


@dataclass(frozen=True)
class Failure:
    """A crop around one of a run's worst mistakes on a set."""

    run: int
    kind: str
    key: str
    picture: str
    share: float
    score: float
    threshold: float


@dataclass
class Gallery:
    """One evaluation set.

    Attributes:
        frames: worst of the first run first.
        scales: per run (its number) the thresholds of the slider and what they give on the whole set.
        failures: worst first, by run and kind.
    """

    name: str
    frames: list[GalleryFrame] = field(default_factory=list[GalleryFrame])
    scales: dict[int, dict[str, Any]] = field(default_factory=dict[int, dict[str, Any]])
    failures: list[Failure] = field(default_factory=list[Failure])

    @property
    def num_bytes(self) -> int:
        """Characters of all pictures."""
        of_frames = sum(len(frame.image) + sum(map(len, frame.maps.values())) for frame in self.frames)
        return of_frames + sum(len(failure.picture) for failure in self.failures)


@dataclass(frozen=True)
class _Source:
    """Pictures of one frame as one run has them."""

    run: int
    key: str
    caption: str
    pictures: FramePictures


def build_galleries(runs: Sequence[Sequence[EvaluatedSet]], max_bytes: int) -> tuple[list[Gallery], list[str]]:
    """The galleries of all sets that have pictures, and sentences about what is missing or was made smaller.

    Args:
        max_bytes: of all pictures together; frames become narrower, then fewer, until they fit.
    """
    said: list[str] = []
    names = list(dict.fromkeys(each.name for sets in runs for each in sets))
    found: dict[str, list[tuple[int, EvaluatedSet]]] = {
        name: [(run, each) for run, sets in enumerate(runs) for each in sets if each.name == name] for name in names
    }
    sources = {name: _sources(each, said) for name, each in found.items()}
    sources = {name: each for name, each in sources.items() if each}
    failures = {name: _failures(sources[name], found[name]) for name in sources}
    room = max_bytes - sum(len(failure.picture) for each in failures.values() for failure in each)
    keep = max((len({source.key for source in each}) for each in sources.values()), default=0)
    width, galleries = 0, list[Gallery]()
    while keep:
        for width in _WIDTHS_PX:
            galleries = [Gallery(name, _frames(each, width, keep)) for name, each in sources.items()]
            if sum(gallery.num_bytes for gallery in galleries) <= room:
                break
        else:
            keep //= 2
            continue
        break
    if sources and not keep:
        galleries = []
        said.append("the frames do not fit into the size that was asked for")
    elif sources and (width < _WIDTHS_PX[0] or any(len(g.frames) < len(_keys(sources[g.name])) for g in galleries)):
        said.append(f"to keep the page small, frames are {width} pixels wide and at most {keep} per set are shown")
    for gallery in galleries:
        gallery.scales = {run: _scale(each) for run, each in found[gallery.name] if each.levels is not None}
        gallery.failures = failures[gallery.name]
    return galleries, said


def _sources(sets: Sequence[tuple[int, EvaluatedSet]], said: list[str]) -> list[_Source]:
    sources: list[_Source] = []
    for run, each in sets:
        for frame in each.kept if each.levels is not None else []:
            try:
                pictures = frame.pictures()
            except MgcdaError as error:
                said.append(str(error).splitlines()[0])
                continue
            numbers = {"AP": frame.ap, "mIoU": frame.miou}
            shown = [f"{name} {100 * value:.1f} %" for name, value in numbers.items() if value is not None]
            sources.append(_Source(run, frame.key, shown[0] if shown else "", pictures))
    return sources


def _keys(sources: Sequence[_Source]) -> list[str]:
    return list(dict.fromkeys(source.key for source in sources))


def _frames(sources: Sequence[_Source], width_px: int, keep: int) -> list[GalleryFrame]:
    """The frames at a width; if there are more than `keep`, the outer ones: the worst and the best."""
    keys = _keys(sources)
    if len(keys) > keep:
        keys = keys[: keep - keep // 2] + keys[len(keys) - keep // 2 :]
    frames: dict[str, GalleryFrame] = {}
    for source in sources:
        if source.key not in keys:
            continue
        if source.key not in frames:
            image = image_uri(source.pictures.image, width_px)
            frames[source.key] = GalleryFrame(source.key, image, caption=source.caption)
        frames[source.key].maps[source.run] = map_uri(source.pictures, width_px)
    return [frames[key] for key in keys]


def _scale(each: EvaluatedSet) -> dict[str, Any]:
    """Data of the slider: the threshold of every level, and its result on the whole set."""
    assert each.levels is not None
    scale: dict[str, Any] = {"levels": [_short(v) for v in each.levels], "best": each.best_level}
    if each.curves is not None:
        at = each.curves.at(each.levels)
        scale["fpr"] = [_short(v) for v in at.fpr]
        if np.any(each.curves.recall > 0):
            scale |= {"recall": [_short(v) for v in at.recall], "precision": [_short(v) for v in at.precision]}
    return scale


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def _failures(sources: Sequence[_Source], sets: Sequence[tuple[int, EvaluatedSet]]) -> list[Failure]:
    """The worst mistakes of every run at its threshold of the best F1."""
    failures: list[Failure] = []
    for run, each in sets:
        if each.levels is None or "ap" not in each.row.metrics:
            continue
        ranked: list[tuple[_Source, Mistake]] = []
        for source in sources:
            if source.run == run:
                found = mistakes(source.pictures, each.best_level)
                for kind in ("false alarm", "missed"):
                    ranked += [(source, m) for m in found if m.kind == kind][:_MISTAKES_PER_FRAME]
        for kind in ("false alarm", "missed"):
            worst = sorted((pair for pair in ranked if pair[1].kind == kind), key=lambda pair: -pair[1].weight)
            failures += [_failure(run, each, source, mistake) for source, mistake in worst[:_MISTAKES_PER_KIND]]
    return failures


def _failure(run: int, each: EvaluatedSet, source: _Source, mistake: Mistake) -> Failure:
    assert each.levels is not None
    score, threshold = (float(each.levels[level]) for level in (mistake.level, each.best_level))
    picture = crop_uri(source.pictures.image, mistake)
    return Failure(run, mistake.kind, source.key, picture, mistake.share, score, threshold)

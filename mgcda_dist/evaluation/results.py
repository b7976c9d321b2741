"""The record of an evaluation: `results.json` as dataclasses, from the evaluation that writes it to the report.

    results = EvaluationResults.load(folder)        # errors name the file
    results.sets["road_anomaly"].metrics["ap"]      # a fraction; metrics that do not exist have no key
    results.save(folder)

The keys in the file are those of the first version that wrote one. A missing key means its default, so files of every
version load.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from mgcda_dist.choices import CONVENTIONS, INTERVAL_LEVEL, ComponentTrack, RunFile
from mgcda_dist.data.pixels import InputSize
from mgcda_dist.errors import MgcdaError
from mgcda_dist.evaluation.components import ComponentMetrics
from mgcda_dist.evaluation.instances import InstanceMetrics
from mgcda_dist.evaluation.test_time import TestTimeAugmentation
from mgcda_dist.files import write_json_atomically
from mgcda_dist.trust import Name, below, read_json, validated

__all__ = [
    "AS_GIVEN",
    "RESULTS",
    "EvaluationResults",
    "EvaluationSettings",
    "NetworkSettings",
    "PartNumbers",
    "PixelCounts",
    "Selection",
    "SetData",
    "SetNumbers",
    "Subject",
]

RESULTS = RunFile.RESULTS
AS_GIVEN: Final = "as given"
"""The score of maps that another method wrote, and of functions and graphs that give scores."""

_AGAIN = "evaluate the run again"

Json = dict[str, Any]
"""An object of a JSON file, before its values have types."""


@dataclass(frozen=True)
class Subject:
    """The subject of an evaluation.

    Attributes:
        name: shown in tables: a run's name, a checkpoint's, a folder's.
        kind: `model`, `onnx` (a file), `python` (a user's function or module), or `maps` for score maps of another
            method.
        digest: SHA-256 (hex) of the weights or maps, of an ONNX file, of the file of a function's source.
        class_space: of the model; empty for maps.
        source: name of the ONNX file, or `python:MODULE:NAME`; empty for others.
    """

    name: str = ""
    kind: str = "model"
    digest: str = ""
    class_space: str = ""
    source: str = ""

    def as_json(self) -> Json:
        """Its keys in `results.json`."""
        return {key: value for key, value in asdict(self).items() if value or key != "source"}


@dataclass(frozen=True)
class NetworkSettings:
    """Settings of the network in an evaluation.

    Attributes:
        height_px: height of its input; None: the frame's own.
        augmentation: scales, flip and sliding window.
        blur: 7×7, σ = 1 blur of the score map.
        class_statistics: mean and variance per class that `standardized_max_logit` standardizes with; None: another
            score.
        longest_side_px: longer side of its input; None: as `height_px` says.
        input_range: of a foreign network's input in floating point, see `evaluation.input_range`; None: 0…255.
    """

    height_px: int | None = None
    augmentation: TestTimeAugmentation = field(default_factory=TestTimeAugmentation)
    blur: bool = False
    class_statistics: dict[str, list[float]] | None = None
    longest_side_px: int | None = None
    input_range: str | None = None

    @property
    def size(self) -> InputSize:
        """Size that frames are brought to."""
        return InputSize(self.height_px, self.longest_side_px)

    def as_json(self) -> Json:
        """Keys of `results.json`."""
        shown, window = self.augmentation, self.augmentation.window_px
        rare = {"class_statistics": self.class_statistics, "input_range": self.input_range}
        rare |= {"longest_side_px": self.longest_side_px}
        return {key: value for key, value in rare.items() if value} | {
            "blur": self.blur,
            "height_px": self.height_px,
            "scales": list(shown.scales),
            "flip": shown.flip,
            "window_px": list(window) if window else None,
            "window_overlap": shown.window_overlap if window else None,
        }

    @classmethod
    def of_json(cls, content: Json) -> NetworkSettings:
        """Read what `as_json` gives."""
        return cls(
            height_px=content.get("height_px"),
            augmentation=TestTimeAugmentation.of_json(content),
            blur=bool(content.get("blur", False)),
            class_statistics=content.get("class_statistics"),
            longest_side_px=content.get("longest_side_px"),
            input_range=content.get("input_range"),
        )


@dataclass(frozen=True)
class EvaluationSettings:
    """Everything that the numbers depend on beside the subject and the data.

    Attributes:
        conventions: how frames were pooled; tables show the first.
        score: the anomaly score, by its name or reference; `AS_GIVEN` for maps, and what else gives scores itself.
        components: track whose sizes component metrics have, or `none`.
        threshold: of components and instances; None: that of the best F1 on the same set.
        network: None for maps.
        resize_maps: maps of another size were brought to that of their label.
    """

    conventions: tuple[str, ...] = ("pooled",)
    score: str = AS_GIVEN
    components: ComponentTrack = "none"
    instances: bool = False
    threshold: float | None = None
    network: NetworkSettings | None = None
    resize_maps: bool = False

    @property
    def convention(self) -> str:
        """The one that tables show."""
        return self.conventions[0]

    def options(self) -> Json:
        """All but the conventions, by their keys in `results.json`: what two evaluations may differ in."""
        common: Json = {
            "score": self.score,
            "components": self.components,
            "instances": self.instances,
            "threshold": self.threshold,
        }
        return common | ({"resize_maps": self.resize_maps} if self.network is None else self.network.as_json())

    def as_json(self) -> Json:
        """Keys of `results.json`."""
        return {"convention": self.convention, "conventions": list(self.conventions), **self.options()}

    @classmethod
    def of_json(cls, content: Json, kind: str) -> EvaluationSettings:
        """Read what `as_json` gives for a subject of this kind."""
        return cls(
            conventions=_known(content.get("conventions", [content.get("convention", "pooled")])),
            score=content.get("score", AS_GIVEN),
            components=content.get("components", "none"),
            instances=bool(content.get("instances", False)),
            threshold=content.get("threshold"),
            network=None if kind == "maps" else NetworkSettings.of_json(content),
            resize_maps=bool(content.get("resize_maps", False)),
        )


def _known(conventions: list[str]) -> tuple[str, ...]:
    unknown = [name for name in conventions if name not in CONVENTIONS]
    if unknown or not conventions:
        raise ValueError(f"no conventions of this version: {conventions}")
    return tuple(conventions)


@dataclass(frozen=True)
class SetData:
    """The data of a set.

    Attributes:
        dataset, split, manifest_digest: of its shards.
        max_frames: only that many first frames; None: all.
        paste: how objects were pasted, with their `objects_digest`; None: not. Shown and compared, never computed with.
    """

    dataset: str = ""
    split: str = ""
    manifest_digest: str = ""
    max_frames: int | None = None
    paste: Json | None = None

    def as_json(self) -> Json:
        """Keys of a set in `results.json`."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class PixelCounts:
    """Judged pixels of a set."""

    anomaly: int
    inlier: int


@dataclass(frozen=True)
class PartNumbers:
    """Pooled metrics of a category of anomalies, or of a group of frames."""

    metrics: dict[str, float]
    frames: int
    anomaly_pixels: int
    inlier_pixels: int

    def as_json(self) -> Json:
        """Keys of a part in `results.json`."""
        counts = {"frames": self.frames, "anomaly_pixels": self.anomaly_pixels, "inlier_pixels": self.inlier_pixels}
        return self.metrics | counts

    @classmethod
    def of_json(cls, content: Json) -> PartNumbers:
        """Read what `as_json` gives."""
        counts = (int(content.get(key, 0)) for key in ("frames", "anomaly_pixels", "inlier_pixels"))
        return cls(_numbers(content), *counts)


@dataclass(frozen=True)
class SetNumbers:
    """The numbers of one set; metrics by the keys of `choices.METRICS`, as fractions; what does not exist has no key.

    Attributes:
        metrics: under the first convention.
        intervals: low and high end over images, per metric that has one.
        conventions: the metrics under each convention.
        pixels: None: not known.
        iou: per class.
        components, instances: None: not measured, or without a threshold.
        categories: per category of anomaly, against all inliers.
        groups: per folder of frames.
        best_f1_threshold: score from which on a pixel is an anomaly at the best F1.
    """

    metrics: dict[str, float] = field(default_factory=dict[str, float])
    frames: int = 0
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    conventions: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    pixels: PixelCounts | None = None
    iou: dict[str, float] = field(default_factory=dict[str, float])
    data: SetData = field(default_factory=SetData)
    components: ComponentMetrics | None = None
    instances: InstanceMetrics | None = None
    categories: dict[str, PartNumbers] = field(default_factory=dict[str, PartNumbers])
    groups: dict[str, PartNumbers] = field(default_factory=dict[str, PartNumbers])
    best_f1_threshold: float | None = None

    def as_json(self) -> Json:
        """Keys of a set in `results.json`."""
        row: Json = {
            **self.metrics,
            "frames": self.frames,
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "conventions": self.conventions,
            "pixels": None if self.pixels is None else asdict(self.pixels),
            "iou": self.iou,
            **self.data.as_json(),
            "components": None if self.components is None else self.components.as_json(),
            "instances": None if self.instances is None else self.instances.as_json(),
            "categories": {name: each.as_json() for name, each in self.categories.items()} or None,
            "groups": {name: each.as_json() for name, each in self.groups.items()} or None,
            "thresholds": None if self.best_f1_threshold is None else {"best_f1": self.best_f1_threshold},
        }
        return {key: value for key, value in row.items() if value is not None}

    @classmethod
    def of_json(cls, row: Json) -> SetNumbers:
        """Read what `as_json` gives."""
        pixels: Json | None = row.get("pixels")
        return cls(
            metrics=_numbers(row),
            frames=int(row.get("frames", 0)),
            intervals={name: (float(low), float(high)) for name, (low, high) in row.get("intervals", {}).items()},
            conventions={name: _numbers(each) for name, each in row.get("conventions", {}).items()},
            pixels=None if pixels is None else PixelCounts(int(pixels["anomaly"]), int(pixels["inlier"])),
            iou=_numbers(row.get("iou", {})),
            data=SetData(**{each.name: row[each.name] for each in fields(SetData) if each.name in row}),
            components=ComponentMetrics.of_json(row["components"]) if "components" in row else None,
            instances=InstanceMetrics.of_json(row["instances"]) if "instances" in row else None,
            categories={name: PartNumbers.of_json(each) for name, each in row.get("categories", {}).items()},
            groups={name: PartNumbers.of_json(each) for name, each in row.get("groups", {}).items()},
            best_f1_threshold=row.get("thresholds", {}).get("best_f1"),
        )


@dataclass(frozen=True)
class Selection:
    """The validation that chose the network: `metric` had `value` on `set` after `step` steps."""

    step: int
    set: str
    metric: str
    value: float
    better: str = "higher"


@dataclass(frozen=True)
class EvaluationResults:
    """The content of `results.json`.

    Attributes:
        sets: by name.
        evaluation_id: equal for evaluations that must give equal numbers; empty in files that lack it.
        selection: which validation chose the network; None: it is the last one.
        tool_version: of mgcda_dist.
        interval_level: coverage of the intervals.
    """

    subject: Subject
    settings: EvaluationSettings
    sets: dict[Name, SetNumbers]
    evaluation_id: str = ""
    selection: Selection | None = None
    tool_version: str = ""
    interval_level: float = INTERVAL_LEVEL

    def logged_metrics(self) -> dict[str, float]:
        """The metrics by the names that trackers know them by: `eval/SET/ap`."""
        return {f"eval/{name}/{key}": value for name, each in self.sets.items() for key, value in each.metrics.items()}

    def save(self, folder: Path) -> None:
        """Write `results.json` into a folder, at once or not at all."""
        write_json_atomically(folder / RESULTS, self.as_json())

    @classmethod
    def load(cls, folder: Path) -> EvaluationResults:
        """Read the `results.json` of a folder.

        Raises:
            MgcdaError: it is not there, is not whole, or is no record of results.
        """
        path = folder / RESULTS
        try:
            content = read_json(below(folder, RESULTS))
        except OSError as error:
            raise MgcdaError(str(path), f"cannot be read: {error.strerror}", _AGAIN) from None
        except MgcdaError as error:
            raise MgcdaError(error.where, f"is not whole: {error.problem}", error.remedy or _AGAIN) from None
        try:
            results = cls.of_json(content)
        except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
            raise MgcdaError(str(path), f"is not a record of results: {error!r}", _AGAIN) from None
        # Rebuilt from plain values, so that the types of all parts are checked.
        return validated(cls, asdict(results), f"{path}: is not a record of results", _AGAIN)

    def as_json(self) -> Json:
        """The content of the file."""
        selection = {} if self.selection is None else {"selection": asdict(self.selection)}
        return {
            **self.settings.as_json(),
            "subject": self.subject.as_json(),
            "tool_version": self.tool_version,
            "interval_level": self.interval_level,
            "sets": {name: each.as_json() for name, each in self.sets.items()},
            "evaluation_id": self.evaluation_id,
            **selection,
        }

    @classmethod
    def of_json(cls, content: Json) -> EvaluationResults:
        """Read what `as_json` gives.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: it is something else.
        """
        subject: Json = content.get("subject", {})
        named = Subject(**{each.name: str(subject[each.name]) for each in fields(Subject) if each.name in subject})
        chosen: Json | None = content.get("selection")
        return cls(
            subject=named,
            settings=EvaluationSettings.of_json(content, named.kind),
            sets={name: SetNumbers.of_json(row) for name, row in content.get("sets", {}).items()},
            evaluation_id=str(content.get("evaluation_id", "")),
            selection=None if chosen is None else Selection(**chosen),
            tool_version=str(content.get("tool_version", "")),
            interval_level=float(content.get("interval_level", INTERVAL_LEVEL)),
        )


def _numbers(content: Mapping[str, object]) -> dict[str, float]:
    """The metrics among the entries of an object: all finite numbers that are no counts."""
    return {
        key: value
        for key, value in content.items()
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and key not in ("frames", "max_frames", "anomaly_pixels", "inlier_pixels")
    }

"""Sections of the data: classes, streams and their domains, pasted objects, augmentation."""

from __future__ import annotations

import math
from typing import Annotated, Any, cast

from pydantic import Discriminator, Field, Tag, model_validator

from mgcda_dist.choices import (
    CLASS_SPACES,
    ROAD_NAMES,
    AugmentDefaults,
    Border,
    KnownClassSpace,
    LoaderDefaults,
    OnBadSample,
    PasteDefaults,
    Placement,
)
from mgcda_dist.config.fields import FIXED, FREE, OVERRIDE, Count, Name, NonNegative, Positive, Probability, Section
from mgcda_dist.references import PATTERN

__all__ = [
    "AugmentConfig",
    "ClassSpaceConfig",
    "DataConfig",
    "OwnAugmentConfig",
    "PasteConfig",
    "StreamConfig",
    "check_source",
]


class PasteConfig(Section):
    """AnomalyMix: objects pasted while streaming, labelled as anomaly (PEBAL, arXiv 2111.12264, section 3)."""

    objects: Annotated[str, FREE] = Field(description="folder of object shards (kind `objects`)")
    probability: Probability = Field(
        default=PasteDefaults.probability, description="share of images that get objects; ours"
    )
    include: list[str] = Field(default=[], description="categories of objects to paste; empty: all")
    exclude: list[str] = Field(default=[], description="categories of objects never to paste")
    min_objects: Count = Field(
        default=PasteDefaults.min_objects, description="fewest objects in an image that gets any; ours"
    )
    max_objects: Count = Field(
        default=PasteDefaults.max_objects, description="objects per image, drawn from min_objects … max_objects; ours"
    )
    scale: tuple[Positive, Positive] = Field(
        default=PasteDefaults.scale, description="longer side of an object as a share of the crop's shorter side; ours"
    )
    flip: Probability = Field(default=PasteDefaults.flip, description="chance of a horizontal flip")
    colour_match: Probability = Field(
        default=PasteDefaults.colour_match, description="chance that an object takes the scene's brightness; ours"
    )
    border: Border = Field(
        default=PasteDefaults.border,
        description="hard: as cut; feather: fades over feather_px; poisson: and has the scene's colours at its outline",
    )
    feather_px: NonNegative = Field(
        default=PasteDefaults.feather_px, description="width of the faded border, pixels; ours"
    )
    placement: Placement = Field(default=PasteDefaults.placement, description="where the object's foot may stand")


def check_source(shards: str | None, dataset: str | None, arguments: dict[str, Any], label_format: str | None) -> None:
    """Raise ValueError unless frames come from shards, or from a Dataset, whose arguments and labels are its own."""
    if (shards is None) == (dataset is None):
        raise ValueError(
            "shards: give either a folder of shards, or a Dataset of your own as `dataset: python:MODULE:NAME`"
            + (": both are there" if shards else "")
        )
    for name, value in {"dataset_arguments": arguments, "label_format": label_format}.items():
        if dataset is None and value:
            raise ValueError(f"{name}: is for `dataset`; shards say it in their manifest")


class StreamConfig(Section):
    """One stream: shards, or a Dataset, that contribute a fixed number of images to every global batch."""

    name: Annotated[Name, FIXED] = Field(description="in messages, metrics and `domain`; no two streams share one")
    domain: Annotated[Name | None, FIXED] = Field(
        default=None,
        description="look of the world (city, camera, renderer) that MDAT and CACL align with the others; streams may "
        "share one; null: the stream's name",
    )
    shards: Annotated[str | None, FREE] = Field(
        default=None, description="folder of frame shards, with its manifest; null: see `dataset`"
    )
    dataset: Annotated[str | None, Field(pattern=f"^{PATTERN}$"), FREE] = Field(
        default=None,
        description="python:MODULE:NAME, a map-style Dataset of one's own, or the class or function that makes it; "
        "its items are (image, label)",
    )
    dataset_arguments: Annotated[dict[str, Any], FREE] = Field(
        default={},
        description="of the class or function that `dataset` names; text that begins with ./, ../ or ~/ is a path, "
        "relative to the current directory as those of shards",
    )
    label_format: Annotated[str | None, OVERRIDE] = Field(
        default=None, description="raw ids of the labels of `dataset`; null: train ids of `class_space`"
    )
    per_step: Annotated[Count, OVERRIDE] = Field(description="images of this stream in every global batch")
    labelled: Annotated[bool, OVERRIDE] = Field(
        default=True,
        description="false: all labels read as void: MDAT learns, and CACL or a teacher if asked to",
    )
    paste: Annotated[PasteConfig | None, OVERRIDE] = Field(
        default=None, description="objects to paste, also where nothing else has a label; null: none"
    )

    @property
    def domain_name(self) -> str:
        """The domain that the stream shows."""
        return self.domain or self.name

    @model_validator(mode="after")
    def _one_source(self) -> StreamConfig:
        check_source(self.shards, self.dataset, self.dataset_arguments, self.label_format)
        return self


class OwnAugmentConfig(Section):
    """A change of crops of one's own."""

    use: Annotated[str, Field(pattern=rf"^{PATTERN}$")] = Field(
        description="python:MODULE:NAME of a function of image (uint8 height×width×3), label (uint8 height×width) and "
        "a numpy Generator, which returns image and label; or of a class of such objects. plugin:NAME: a registered one"
    )
    arguments: dict[str, Any] = Field(default={}, description="by name: of the function, or of the class")

    @model_validator(mode="before")
    @classmethod
    def _alone(cls, value: Any) -> Any:
        return {"use": value} if isinstance(value, str) else value


class AugmentConfig(Section):
    """Random geometry and colour, keyed by (seed, step, slot)."""

    scale: tuple[Positive, Positive] = Field(
        default=AugmentDefaults.scale, description="resize factor before cropping; DeepLab practice"
    )
    reference_height_px: Count | None = Field(
        default=AugmentDefaults.reference_height_px,
        description="every frame is first brought to this height; null: as is",
    )
    flip: Probability = Field(default=AugmentDefaults.flip, description="chance of a horizontal flip")
    brightness: NonNegative = Field(
        default=AugmentDefaults.brightness, description="± share, as torchvision ColorJitter"
    )
    contrast: NonNegative = Field(default=AugmentDefaults.contrast, description="± share, as torchvision ColorJitter")
    saturation: NonNegative = Field(
        default=AugmentDefaults.saturation, description="± share, as torchvision ColorJitter"
    )
    hue: Annotated[float, Field(ge=0, le=0.5)] = Field(
        default=AugmentDefaults.hue, description="± share of the colour circle, as torchvision ColorJitter"
    )
    blur: Probability = Field(
        default=AugmentDefaults.blur, description="chance of a Gaussian blur, σ 0.3 … 1.5 px; ours"
    )
    class_mix: Probability = Field(
        default=AugmentDefaults.class_mix,
        description="chance that a crop without labels takes half of the classes of a labelled crop, with their "
        "labels; DACS (arXiv 2007.08702)",
    )
    style: Probability = Field(
        default=AugmentDefaults.style,
        description="chance that a crop takes the low frequencies of a picture of another domain (FDA)",
    )
    style_band: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        default=AugmentDefaults.style_band, description="β of FDA (arXiv 2004.05498): 0.01, 0.05 and 0.09 there"
    )
    own: list[OwnAugmentConfig] = Field(
        default=[],
        description="changes of your own to the finished crop, in order; a teacher's view is taken before, so they "
        "must not move pixels where `teacher` is on",
    )


class ClassSpaceConfig(Section):
    """Classes of one's own: their names, and where each comes from.

    Wherever a class is named, `normal`, `anomaly` and `void` may stand, too.
    """

    names: Annotated[list[str], Field(min_length=1, max_length=253)] = Field(
        description="the classes; the position is the train id"
    )
    based_on: KnownClassSpace | None = Field(
        default=None, description="a known class space, whose label formats can then all be read"
    )
    map: dict[str, str] = Field(
        default={}, description="class of `based_on` → class here; one that has its name here needs no entry"
    )
    ids: dict[str, dict[Annotated[int, Field(ge=0, le=255)], str]] = Field(
        default={},
        description="label format → raw id → class here; before `based_on`. An id that is not listed is unknown",
    )
    road: list[str] = Field(
        default=[], description="classes that objects stand on; empty: those called road or drivable"
    )


def _kind_of_class_space(value: Any) -> str:
    return "own" if isinstance(value, (dict, ClassSpaceConfig)) else "known"


class DataConfig(Section):
    """Data of the training, and the way they are streamed."""

    class_space: Annotated[
        Annotated[KnownClassSpace, Tag("known")] | Annotated[ClassSpaceConfig, Tag("own")],
        Discriminator(_kind_of_class_space),
        FIXED,
    ] = Field(description="a known class space, or classes of one's own")
    crop_px: Annotated[tuple[Count, Count], OVERRIDE] = Field(description="height, width of the training crop, pixels")
    streams: Annotated[list[StreamConfig], Field(min_length=1)] = Field(
        description="what is read; each stream shows a domain"
    )
    augment: Annotated[AugmentConfig, OVERRIDE] = AugmentConfig()
    window_shards: Annotated[Count, FIXED] = Field(
        default=8, description="shards that are shuffled together, sample by sample"
    )
    shard_groups: Annotated[Count, FIXED] = Field(
        default=1,
        description="groups of shards; every image of a batch has its place in one, so that a node reads its share of "
        "the shards in an epoch, and not all: a multiple of nodes × engine.accumulation; divides every per_step",
    )
    loader_workers: Annotated[int, Field(ge=0), FREE] = Field(
        default=1, description="loader processes per rank; 0: in the trainer"
    )
    prefetch_steps: Annotated[Count, FREE] = Field(
        default=LoaderDefaults.prefetch_steps, description="batches a loader process prepares ahead"
    )
    loader_timeout_s: Annotated[Positive, FREE] = Field(
        default=LoaderDefaults.timeout_s,
        description="longest wait for a batch before the loader process is reported as stuck, seconds",
    )
    on_bad_sample: Annotated[OnBadSample, FREE] = Field(
        default="error",
        description="a damaged image or label ends the run, or another sample of its domain stands in for it: counted, "
        "logged, and the same one at every number of workers",
    )
    max_bad_samples: Annotated[Count, FREE] = Field(
        default=100, description="`skip` ends the run when more were met, over all epochs"
    )
    pin_memory: Annotated[bool | None, FREE] = Field(
        default=None, description="batches in page-locked host memory; null: where a GPU trains"
    )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Inlier class names in train-id order."""
        return CLASS_SPACES[self.class_space] if isinstance(self.class_space, str) else tuple(self.class_space.names)

    @property
    def road_classes(self) -> tuple[str, ...]:
        """The classes that objects stand on."""
        given = [] if isinstance(self.class_space, str) else self.class_space.road
        return tuple(given) or tuple(name for name in self.class_names if name in ROAD_NAMES)

    @property
    def global_batch(self) -> int:
        """Images per step over all ranks and streams."""
        return sum(stream.per_step for stream in self.streams)

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains, in the order in which streams name them first: the position is the domain index."""
        return tuple(dict.fromkeys(stream.domain_name for stream in self.streams))

    @model_validator(mode="after")
    def _groups_divide_streams(self) -> DataConfig:
        for stream in self.streams:
            if stream.per_step % self.shard_groups:
                raise ValueError(
                    f"shard_groups: {self.shard_groups} does not divide the per_step {stream.per_step} of stream "
                    f"{stream.name}; {math.gcd(self.shard_groups, stream.per_step)} does"
                )
        return self

    @model_validator(mode="before")
    @classmethod
    def _streams_were_domains(cls, data: Any) -> Any:
        """Read configurations in which a stream was a domain and the list was called so."""
        if not isinstance(data, dict) or "domains" not in data:
            return data  # pyright: ignore[reportUnknownVariableType]
        section = cast(dict[str, Any], data)
        if "streams" in section:
            raise ValueError(
                "domains: is the old name of `streams`, which is there, too; write data.streams in its place"
            )
        return {"streams" if key == "domains" else key: value for key, value in section.items()}

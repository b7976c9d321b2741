"""A reader of the user's own program, by reference: made a `Source`, and checked where its samples meet the writer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, get_args

from mgcda_dist.choices import ShardKind
from mgcda_dist.data.labels import known_ids
from mgcda_dist.data.ledger import Ledger
from mgcda_dist.data.shards.record import LazySamples, SourceSample
from mgcda_dist.data.shards.sources import SOURCES
from mgcda_dist.data.shards.sources.source import Source, SourceSet
from mgcda_dist.errors import ConfigError, MgcdaError, ShardError
from mgcda_dist.references import resolve, told

__all__ = ["own_source"]

_OPEN = "`open(folder, split, **options)` returns a SourceSet, see docs/add-a-dataset.md"


def own_source(where: str, reference: str) -> Source:
    """The reader that a reference names: a `Source`, or a class or object with a name and `open`.

    What it opens is checked, and so is every sample that it loads: all errors name the reference.

    Args:
        where: for messages.
        reference: `python:MODULE:NAME`.

    Raises:
        ConfigError: no such reader, or one that lacks a part.
    """
    found: Any = resolve(where, reference)
    if isinstance(found, Source):
        return _checked(found, reference)
    made = _instance(found, reference)
    lacking = [] if hasattr(made, "name") else ["name"]
    lacking += [] if callable(getattr(made, "open", None)) else ["open"]
    if lacking:
        problem = f"{type(made).__name__} has no {' and no '.join(lacking)}"
        raise ConfigError(reference, problem, f"a reader has a `name`, and {_OPEN}")
    options = getattr(made, "options", None)
    source = Source(
        made.name,
        made.open,
        url=getattr(made, "url", ""),
        licence=getattr(made, "licence", ""),
        kind=getattr(made, "kind", "frames"),
        options=_keywords(made.open) if options is None else tuple(options),
        counts=getattr(made, "counts", {}),
    )
    return _checked(source, reference)


def _instance(found: Any, reference: str) -> Any:
    if not isinstance(found, type):
        return found
    try:
        return found()
    except Exception as error:
        raise ConfigError(reference, f"cannot be made without arguments: {told(error)}", _OPEN) from error


def _keywords(function: Callable[..., Any]) -> tuple[str, ...]:
    """Names of the options that `open` takes behind folder and split."""
    given = list(signature(function).parameters.values())[2:]
    return tuple(p.name for p in given if p.kind in (Parameter.KEYWORD_ONLY, Parameter.POSITIONAL_OR_KEYWORD))


def _checked(source: Source, reference: str) -> Source:
    if not isinstance(source.name, str) or not source.name.replace("_", "").replace("-", "").isalnum():
        raise ConfigError(reference, f"its name is {source.name!r}", "a word of letters, digits and _")
    if source.name in SOURCES:
        raise ConfigError(reference, f"{source.name!r} is the name of a reader of this package", "choose another name")
    if source.kind not in get_args(ShardKind):
        raise ConfigError(reference, f"its kind is {source.kind!r}", f"one of {', '.join(get_args(ShardKind))}")
    return replace(source, open=_Open(reference, source.open))


@dataclass(frozen=True)
class _Open:
    """The reader's `open`, with a look at what it returns."""

    reference: str
    function: Callable[..., Any]

    def __call__(self, folder: Path, split: str, **options: Any) -> SourceSet:
        try:
            opened = self.function(folder, split, **options)
        except MgcdaError:
            raise
        except Exception as error:
            raise ShardError(self.reference, f"open: {told(error)}", _OPEN) from error
        if not isinstance(opened, SourceSet):
            raise ShardError(self.reference, f"open returned a {type(opened).__name__}, not a SourceSet", _OPEN)
        kinds = {"samples": LazySamples, "label_format": str, "metadata": Mapping, "passed_over": Ledger}
        for name, kind in kinds.items():
            value = getattr(opened, name)
            if not isinstance(value, kind):
                problem = f"the {name} of its SourceSet are a {type(value).__name__}, not a {kind.__name__}"
                raise ShardError(self.reference, problem, _OPEN)
        known_ids(opened.label_format)
        samples = opened.samples
        for number, item in enumerate(samples.items):
            if not isinstance(getattr(item, "key", None), str):
                problem = f"item {number} of its samples, a {type(item).__name__}, has no key"
                raise ShardError(self.reference, problem, "items of LazySamples have a `key`, as FramePair has")
        load = _Load(self.reference, samples.load)
        return replace(opened, samples=LazySamples(samples.items, load, samples.check))


@dataclass(frozen=True)
class _Load:
    """The function that loads an item, with a look at the sample; it travels to other nodes."""

    reference: str
    function: Callable[[Any], Any]

    def __call__(self, item: Any) -> SourceSample:
        where = f"{self.reference}: {item.key}"
        try:
            sample = self.function(item)
        except (MgcdaError, MemoryError):
            raise
        except Exception as error:
            raise ShardError(where, told(error), "mend it, or leave the sample out by its key (`skip`)") from error
        if not isinstance(sample, SourceSample):
            problem = f"its load returned a {type(sample).__name__}, not a SourceSample"
            raise ShardError(where, problem, "SourceSample(key, image, image_ext, label)")
        if sample.key != item.key:
            raise ShardError(where, f"the sample has another key than its item: {sample.key!r}", "give both one key")
        for name, kinds in (("image", bytes), ("label", bytes | None), ("meta", dict)):
            if not isinstance(value := getattr(sample, name), kinds):
                problem = f"the sample's {name} is a {type(value).__name__}"
                raise ShardError(where, problem, "image and label are encoded bytes, as in a file; None: no label")
        return sample

"""A program's own network, loss, data and callbacks: references in the configuration, objects that travel."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from mgcda_dist import references
from mgcda_dist.api.configuration import load_config
from mgcda_dist.config.schema import Config
from mgcda_dist.errors import ConfigError, near_or_all
from mgcda_dist.references import PATTERN, PREFIX

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mgcda_dist.method.batch import Prediction
    from mgcda_dist.models.external import ExternalNetwork
    from mgcda_dist.models.scores import Score
    from mgcda_dist.models.segmentation_loss import OutlierLoss
    from mgcda_dist.models.taps import Taps

__all__ = ["AnyScore", "Augment", "Callbacks", "Sources", "given_again", "objects_of", "references_of", "with_own"]

Sources = Mapping[str, Any]
"""Map-style Datasets, or references to them, by the name of their stream."""
Augment: TypeAlias = "str | Callable[..., Any] | Sequence[str | Callable[..., Any]]"
"""A change of finished crops, or several in order: a function, a class of such objects, an object, or a reference."""
Callbacks = Sequence[Any]
AnyScore: TypeAlias = "str | Score | type[Score] | Callable[[Prediction], Tensor]"
"""The name of an anomaly score, a reference to one, or a score: an object, a class, or a function."""


def with_own(
    config: Config,
    *,
    network: str | Callable[..., nn.Module | ExternalNetwork] | None = None,
    arguments: Mapping[str, Any] | None = None,
    taps: Taps | Mapping[str, Any] | None = None,
    loss: str | OutlierLoss | type[OutlierLoss] | None = None,
    score: AnyScore | None = None,
    sources: Sources | None = None,
    augment: Augment | None = None,
    callbacks: Callbacks = (),
    sections: Mapping[str, Any] | None = None,
) -> Config:
    """The configuration with references to what a program gives, so that it stays the record of the run.

    Args:
        network, arguments, taps, loss, score, sources, augment, callbacks: as of `train`.
        sections: further changes, that may fit only what is given.

    Raises:
        ConfigError: something that cannot be what it is given for, or options that do not go together.
    """
    content: Config | dict[str, Any] = config
    changes: dict[str, Any] = {}
    if network is not None or arguments is not None or taps is not None:
        content = config.model_dump() | {"model": _model(config, network, arguments, taps)}
    if loss is not None:
        changes["loss.outlier"] = references.reference(loss, "loss")
    if score is not None:
        changes["model.score"] = references.reference(score, "score")
    names = [stream.name for stream in config.data.streams]
    for name, dataset in (sources or {}).items():
        if name not in names:
            raise ConfigError("sources", f"there is no stream {name!r}", near_or_all(name, names))
        key = f"data.streams.{names.index(name)}"
        changes[f"{key}.dataset"] = references.reference(dataset, f"sources_{re.sub(r'[^A-Za-z0-9_]', '_', name)}")
        changes[f"{key}.shards"] = None
    if augment is not None:
        changes["data.augment.own"] = _changes(augment)
    if callbacks:
        named = [references.reference(each, f"callbacks_{i}") for i, each in enumerate(callbacks)]
        changes["callbacks"] = [{"use": each} for each in named]
    return load_config(content, changes, **(sections or {})) if content is not config or changes or sections else config


def references_of(config: Config) -> list[str]:
    """Every reference to a user's code in a configuration."""
    return list(dict.fromkeys(_references(config.model_dump(mode="json"))))


def objects_of(config: Config) -> dict[str, Any]:
    """Objects by reference that the workers of a run have to be sent, checked to travel.

    Raises:
        ConfigError: one that cannot be sent to another process.
    """
    objects = references.registered(references_of(config))
    if objects:
        from mgcda_dist.cluster.travel import check_travels

        check_travels(objects)
    return objects


def given_again(
    config: Config,
    *,
    network: str | Callable[..., nn.Module | ExternalNetwork] | None = None,
    loss: str | OutlierLoss | type[OutlierLoss] | None = None,
    score: AnyScore | None = None,
    sources: Sources | None = None,
    callbacks: Callbacks = (),
) -> dict[str, Any]:
    """Objects of an earlier program, under the references that a run's configuration has for them.

    Raises:
        ConfigError: the run has none of its own there.
    """
    streams = config.model_dump(mode="json")["data"]["streams"]
    places: list[tuple[str, Any, Any]] = [
        ("network", config.model.network, network),
        ("loss", config.loss.outlier, loss),
        ("score", config.model.score, score),
    ]
    for name, dataset in (sources or {}).items():
        found = [stream.get("dataset") for stream in streams if stream["name"] == name]
        places.append((f"sources[{name!r}]", *(found or [None]), dataset))
    named = [each["use"] for each in config.model_dump(mode="json").get("callbacks", [])]
    if callbacks and len(callbacks) != len(named):
        problem = f"{len(callbacks)} are given, and the run has {len(named)}"
        raise ConfigError("callbacks", problem, "give the ones that it was started with, in their order")
    places += [(f"callbacks[{i}]", use, each) for i, (use, each) in enumerate(zip(named, callbacks, strict=False))]
    objects: dict[str, Any] = {}
    for argument, text, given in places:
        if given is None or isinstance(given, str):
            continue
        if text is None or not str(text).startswith(PREFIX):
            problem = f"the run was started without one of its own ({text})"
            raise ConfigError(argument, problem, "leave it out, or start another run")
        objects[text] = given
    return objects


def _model(
    config: Config,
    network: str | Callable[..., nn.Module | ExternalNetwork] | None,
    arguments: Mapping[str, Any] | None,
    taps: Taps | Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The section `model` with a network of the user's own."""
    model = config.model.model_dump(mode="json")
    if network is not None:
        text = network if isinstance(network, str) else references.reference(_makes(network), "network")
        if model["network"] != text:
            # What belonged to another network.
            model |= {"backbone": None, "network": text, "arguments": {}, "taps": None, "compile": False}
            model["weights"] = model["weights"] if model["weights"].startswith("file:") else "none"
    if model["network"] is None:
        argument = "arguments" if taps is None else "taps"
        raise ConfigError(argument, "is of a network, and none is given", "give `network`")
    if arguments is not None:
        model["arguments"] = dict(arguments)
    if taps is not None:
        model["taps"] = _taps(taps)
    return model


def _changes(augment: Augment) -> list[dict[str, Any]]:
    """The entries of `data.augment.own`."""
    several = [augment] if isinstance(augment, str) or callable(augment) else augment
    for given in several if isinstance(several, Sequence) else [several]:
        if not isinstance(given, str) and not callable(given):
            problem = f"is a {type(given).__name__}, which cannot be called"
            raise ConfigError("augment", problem, "give a function of image, label and generator, or several, in order")
    return [{"use": references.reference(each, f"augment_{i}")} for i, each in enumerate(several)]


def _makes(network: Any) -> Any:
    from torch import nn

    from mgcda_dist.models.external import ExternalNetwork

    if isinstance(network, nn.Module | ExternalNetwork):
        name = type(network).__name__
        problem = f"is a {name}, made already; every worker makes its own, and so does whoever loads the model"
        raise ConfigError("network", problem, "give the class, or a function that returns it: lambda num_classes: …")
    if not callable(network):
        problem = f"is a {type(network).__name__}"
        raise ConfigError("network", problem, "give a class, or a function, that takes num_classes")
    return network


def _taps(taps: Taps | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(taps, Mapping):
        given = dict(taps)
    else:
        given = {each.name: getattr(taps, each.name) for each in dataclasses.fields(taps)}
    if callable(given.get("logits")):
        problem = "logits is a function, which a configuration cannot hold"
        raise ConfigError("taps", problem, "make `taps` an attribute of the network, or return an ExternalNetwork")
    optional = ("extra", "backbone_parts")
    kept = {name: value for name, value in given.items() if value != "" and not (name in optional and not value)}
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in kept.items()}


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for below in value.values():
            yield from _references(below)
    elif isinstance(value, list):
        for below in value:
            yield from _references(below)
    elif isinstance(value, str) and re.fullmatch(PATTERN, value):
        yield value

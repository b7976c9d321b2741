"""A user's network: a function or class that the configuration refers to is called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from inspect import signature
from typing import Any

from torch import nn

from mgcda_dist.errors import ConfigError
from mgcda_dist.models.external import ExternalNetwork
from mgcda_dist.models.taps import Taps
from mgcda_dist.references import PREFIX, resolve

__all__ = ["make", "own_taps"]


def make(name: str, arguments: dict[str, Any], num_logits: int, hub: bool) -> ExternalNetwork:
    """The network that `MODULE:NAME` returns for `(num_classes=num_logits, **arguments)`."""
    if hub:
        raise ConfigError("model.weights", "'hub' is not for python:", "load them in your function, or file:PATH")
    function = resolve("model.network", PREFIX + name)
    if not callable(function):
        problem = f"{name} is a {type(function).__name__}, not a function"
        raise ConfigError("model.network", problem, "python:MODULE:FUNCTION")
    try:
        signature(function).bind(num_classes=num_logits, **arguments)
    except TypeError as error:
        remedy = "the function is called with num_classes and model.arguments"
        raise ConfigError("model.arguments", f"{name}: {error}", remedy) from None
    made = function(num_classes=num_logits, **arguments)
    if isinstance(made, ExternalNetwork):
        return made
    if isinstance(made, nn.Module):
        return own_taps(made, getattr(made, "taps", getattr(function, "taps", None)))
    raise ConfigError("model.network", f"{name} returned a {type(made).__name__}", "return a torch.nn.Module")


def own_taps(network: nn.Module, taps: object) -> ExternalNetwork:
    """The network with what its attribute `taps` says of its layers, as `Taps` or with the keys of `model.taps`.

    Raises:
        ConfigError: it says something else.
    """
    if taps is None or isinstance(taps, Taps):
        return ExternalNetwork(network, taps)
    own, others = ({each.name for each in fields(kind)} for kind in (Taps, ExternalNetwork))
    others -= {"network", "taps", "load"}
    if not isinstance(taps, Mapping) or not own | others >= taps.keys() >= {"logits"}:
        problem = f"the attribute `taps` of {type(network).__name__} is {taps!r}"
        remedy = f"a mapping with logits, and any of {', '.join(sorted(own | others))}"
        raise ConfigError("model.taps", problem, remedy)
    known: dict[str, Any] = {"stages": {}} | {name: taps[name] for name in own & taps.keys()}
    return ExternalNetwork(network, Taps(**known), **{name: taps[name] for name in others & taps.keys()})

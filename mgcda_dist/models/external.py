"""What a library's file says about a network that it made."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import nn

from mgcda_dist.choices import LogitKind
from mgcda_dist.errors import ConfigError
from mgcda_dist.models.adapters import IMAGENET_MEAN, IMAGENET_STD
from mgcda_dist.models.taps import Taps

__all__ = ["ExternalNetwork", "choose", "needs", "only_known", "refuse_arguments"]


@dataclass(frozen=True)
class ExternalNetwork:
    """A network as its library makes it, and where its parts are.

    Attributes:
        network: of the library's own class.
        taps: its layers; None: the configuration has to say.
        mean, std: RGB statistics of its weights, in units of 0…1.
        multiple_px: images are padded to multiples of it.
        logit_kind: what the logits are.
        load: loads weights in a way of the library's own and says whether it did; None: there is no such way.
    """

    network: nn.Module
    taps: Taps | None
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    multiple_px: int = 32
    logit_kind: LogitKind = "pixel"
    load: Callable[[str], bool] | None = None


def needs(module: str, package: str) -> ModuleType:
    """The module, imported; `ConfigError` that says what to install where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            "model.network", f"{package} is not installed ({error})", "pip install 'mgcda-dist[networks]'"
        ) from None


def choose(name: str, known: Collection[str], library: str) -> str:
    """`name` if it is known; else `ConfigError` with the nearest."""
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    raise ConfigError(
        "model.network",
        f"{library} has no network {name!r} that is known here",
        (f"nearest: {', '.join(near)}" if near else f"one of {', '.join(sorted(known))}")
        + "; any other by a function of yours, python:MODULE:FUNCTION, and model.taps",
    )


def only_known(arguments: Mapping[str, Any], known: Collection[str]) -> None:
    """`ConfigError` for an argument that the library would swallow without a word."""
    for name in arguments:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"some of {', '.join(sorted(known))}"
            raise ConfigError(f"model.arguments.{name}", "the network has no such argument", remedy)


def refuse_arguments(arguments: Mapping[str, Any], settled: Mapping[str, str]) -> None:
    """`ConfigError` for arguments that other fields decide: argument → which."""
    for name in arguments:
        if name in settled:
            raise ConfigError(f"model.arguments.{name}", "is decided elsewhere", f"use {settled[name]}")

"""Description of a network of another library, and checks of its name and arguments.

Arguments are those of the library's own constructors, as YAML has them: `dict[str, Any]`.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import nn

from mgcda_dist.choices import LogitKind
from mgcda_dist.errors import ConfigError, install_extra, near_or_all
from mgcda_dist.models.adapters import IMAGENET_MEAN, IMAGENET_STD
from mgcda_dist.models.taps import Taps

__all__ = ["ExternalNetwork", "check_name", "import_optional", "names_elsewhere", "refuse_reserved", "refuse_unknown"]


_SOURCES = ("config", "backbone", "use_pretrained_backbone", "pretrained", "checkpoint_path", "weights_backbone")
"""Arguments that name weights, or a network that a library looks for in files and on a hub, if only by its name."""
_NOTES = ("_name_or_path", "architectures", "transformers_version")
"""Fields of a library's configuration that say where it came from, and do nothing."""


@dataclass(frozen=True)
class ExternalNetwork:
    """A network as its library makes it, with the paths of its parts.

    Attributes:
        network: of the library's own class.
        taps: paths of its layers; None: given by the configuration.
        mean, std: RGB statistics of its weights, in units of 0…1.
        multiple_px: images are padded to multiples of it.
        logit_kind: kind of the logits.
        load: loads weights in a format of the library, and returns False for all other formats; None: no such format.
    """

    network: nn.Module
    taps: Taps | None
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    multiple_px: int = 32
    logit_kind: LogitKind = "pixel"
    load: Callable[[str], bool] | None = None


def import_optional(module: str, package: str) -> ModuleType:
    """The imported module; `ConfigError` with the package to install if it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError("model.network", f"{package} is not installed ({error})", install_extra("networks")) from None


def check_name(name: str, known: Collection[str], library: str) -> None:
    """Raise `ConfigError` with the nearest names for a name that is not in `known`."""
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    raise ConfigError(
        "model.network",
        f"{library} has no supported network {name!r}",
        (f"nearest: {', '.join(near)}" if near else f"one of {', '.join(sorted(known))}")
        + "; any other with python:MODULE:FUNCTION and model.taps",
    )


def refuse_unknown(arguments: Mapping[str, Any], known: Collection[str]) -> None:
    """Raise `ConfigError` for an argument that the library would silently ignore."""
    for name in arguments:
        if name not in known:
            remedy = near_or_all(name, sorted(known))
            raise ConfigError(f"model.arguments.{name}", "the network has no such argument", remedy)


def names_elsewhere(value: object, key: str = "") -> str | None:
    """`KEY = VALUE` of the first argument that makes a library read a file or ask a hub; None: there is none.

    Args:
        value: the arguments of a network, or a part of them.
        key: of the part.
    """
    if isinstance(value, Mapping):
        parts = ((str(name), below) for name, below in value.items() if name not in _NOTES)
    elif isinstance(value, list | tuple):
        parts = ((key, below) for below in value)
    else:
        asks = key in _SOURCES and value not in (None, False)
        elsewhere = isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.+-]*", value) is None
        return f"{key} = {value!r}" if asks or elsewhere else None
    return next((found for name, below in parts if (found := names_elsewhere(below, name)) is not None), None)


def refuse_reserved(arguments: Mapping[str, Any], reserved: Mapping[str, str]) -> None:
    """Raise `ConfigError` for arguments that other fields set. `reserved`: argument → field."""
    for name in arguments:
        if name in reserved:
            raise ConfigError(f"model.arguments.{name}", "is set by another field", f"use {reserved[name]}")

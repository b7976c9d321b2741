"""References to a user's Python code: `python:MODULE:NAME` in a configuration, or an object given in a program.

An installed package may give such a reference a short name, as an entry point of the group `mgcda_dist`; a
configuration then says `plugin:NAME`, which is replaced when it is read, so that the record of a run names the code.

An object that a program gives (a class of a notebook, a dataset in memory) gets a reference, too, so that the
configuration stays the whole record of a run. Objects whose reference no other process can import are registered here;
`registered` is what has to travel to workers, and `register` is what a worker does with it.

Importing executes code. A configuration is trusted; a reference that a file of others holds is resolved only if this
process has used it, or if the environment variable `MGCDA_TRUST_CODE` lists the module.
"""

from __future__ import annotations

import importlib
import os
import traceback
from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from typing import Any

from mgcda_dist.errors import ConfigError, near_or_all

__all__ = [
    "GIVEN",
    "PATTERN",
    "PLUGIN",
    "PREFIX",
    "TRUST",
    "check_trusted",
    "expanded",
    "reference",
    "register",
    "registered",
    "resolve",
    "told",
]

PREFIX = "python:"
PATTERN = r"python:[A-Za-z_][\w.]*:[A-Za-z_][\w.]*"
"""Regular expression of a reference."""
PLUGIN = "plugin:"
"""Prefix of a short name that an installed package has registered."""
GROUP = "mgcda_dist"
"""Group of entry points of such names."""
GIVEN = "given"
"""Module, in references, of objects that no module holds."""
TRUST = "MGCDA_TRUST_CODE"
_objects: dict[str, Any] = {}
_used: set[str] = set()
_OWN = "mgcda_dist.plugins."


def reference(given: object, name: str) -> str:
    """The reference of an object, which `resolve` finds in this process.

    Args:
        given: a reference, which is returned as it is; a function or class; or any other object.
        name: of the argument it was given for, for an object that no module holds.
    """
    if isinstance(given, str):
        return given
    module, qualified = getattr(given, "__module__", None), getattr(given, "__qualname__", "")
    found = f"{PREFIX}{module}:{qualified}"
    if module in (None, "__main__") or _imported(module, qualified) is not given:
        # A class of a notebook keeps its name, an instance has none.
        found = f"{PREFIX}{module}:{qualified}" if qualified.isidentifier() else f"{PREFIX}{GIVEN}:{name}"
        _objects[found] = given
    return found


def registered(references: Iterable[str]) -> dict[str, Any]:
    """Objects, by reference, that other processes cannot import: they have to be sent."""
    return {each: _objects[each] for each in references if each in _objects}


def register(objects: Mapping[str, Any]) -> None:
    """Take objects that another process has sent."""
    _objects.update(objects)


def resolve(where: str, text: str) -> Any:
    """The object of a reference.

    Args:
        where: config path that holds the reference, for errors.
        text: `python:MODULE:NAME`.

    Raises:
        ConfigError: no such module or name, or an object that a program gave and this process does not have.
    """
    if text in _objects:
        _used.add(text)
        return _objects[text]
    module_name, _, qualified = text.removeprefix(PREFIX).partition(":")
    if module_name in (GIVEN, "__main__"):
        raise ConfigError(
            where,
            f"{text} is an object of the program that started the run, and not known here",
            f"give it again in Python, as `{_argument(where, text)}`, or move it to a module that all processes import",
        )
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            where,
            f"cannot import {module_name!r}: {error}",
            "install the package on every worker, or set PYTHONPATH to an absolute path",
        ) from None
    for part in qualified.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise ConfigError(where, f"{module_name} has nothing called {qualified!r}", f"{PREFIX}MODULE:NAME")
    _used.add(text)
    return found


def expanded(value: Any, where: str = "") -> Any:
    """A value of a configuration, and what is in it, with `plugin:NAME` replaced by the reference that it stands for.

    Raises:
        ConfigError: no installed package registers that name, or several do.
    """
    if isinstance(value, Mapping):
        return {key: expanded(below, f"{where}.{key}" if where else str(key)) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [expanded(below, f"{where}.{i}") for i, below in enumerate(value)]
    if not isinstance(value, str) or not value.startswith(PLUGIN):
        return value
    name, known = value.removeprefix(PLUGIN), entry_points(group=GROUP)
    found = {PREFIX + each.value for each in known if each.name == name}
    if not found:
        remedy = near_or_all(name, sorted(known.names)) if known else "install the package that has it"
        raise ConfigError(where, f"no installed package registers a plugin {name!r}", remedy)
    if len(found) > 1:
        raise ConfigError(where, f"several packages register a plugin {name!r}", f"one of {', '.join(sorted(found))}")
    return found.pop()


def told(error: Exception) -> str:
    """An error of a user's code in words, with the line of that code where it came to light."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is the caller's
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    place = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {error}{place}"


def check_trusted(where: str, text: str) -> None:
    """Raise `ConfigError` if a reference, found in a file that others may have made, may not be imported."""
    module = text.removeprefix(PREFIX).partition(":")[0]
    listed = [each.strip() for each in os.environ.get(TRUST, "").split(",") if each.strip()]
    own = module.startswith(_OWN)  # the package's own methods come in by this door, too
    if not own and text not in _used and text not in _objects and module not in listed:
        raise ConfigError(
            where,
            f"the model needs {text.removeprefix(PREFIX)}, which is code, and model files may come from anybody",
            f"if you trust {module}, set {TRUST}={module} in the environment",
        )


def _argument(where: str, text: str) -> str:
    """The argument of `mgcda_dist.Run` and `train` that an object was given for."""
    if text.startswith(f"{PREFIX}{GIVEN}:"):
        return text.rpartition(":")[2].partition("_")[0]
    known = {"model.network": "network", "model.score": "score", "loss.outlier": "loss", "callbacks": "callbacks"}
    known["data.augment.own"] = "augment"
    return next((name for key, name in known.items() if where.startswith(key)), "sources")


def _imported(module: str, qualified: str) -> Any:
    """The object that other processes find under these names; None: nothing."""
    try:
        found: Any = importlib.import_module(module)
    except ImportError:
        return None
    for part in qualified.split("."):
        found = getattr(found, part, None)
    return found

"""A user's network: a function that the configuration names is imported and called.

This executes code. A configuration is trusted; a model file may come from others, so the function that it names is
imported only if this process has trained it, or if the environment variable `MGCDA_TRUST_CODE` lists the module.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from inspect import signature
from typing import Any

from torch import nn

from mgcda_dist.errors import ConfigError
from mgcda_dist.models.external import ExternalNetwork

__all__ = ["TRUST", "check_trusted", "make"]

TRUST = "MGCDA_TRUST_CODE"
_trained: set[str] = set()


def make(name: str, arguments: dict[str, Any], num_logits: int, hub: bool) -> ExternalNetwork:
    """The network that `MODULE:FUNCTION` returns for `(num_classes=num_logits, **arguments)`."""
    if hub:
        raise ConfigError("model.weights", "'hub' is not for python:", "load them in your function, or file:PATH")
    function = _function(name)
    try:
        signature(function).bind(num_classes=num_logits, **arguments)
    except TypeError as error:
        remedy = "the function is called with num_classes and model.arguments"
        raise ConfigError("model.arguments", f"{name}: {error}", remedy) from None
    made = function(num_classes=num_logits, **arguments)
    _trained.add(name)
    if isinstance(made, ExternalNetwork):
        return made
    if isinstance(made, nn.Module):
        return ExternalNetwork(made, None)
    raise ConfigError("model.network", f"{name} returned a {type(made).__name__}", "return a torch.nn.Module")


def check_trusted(name: str) -> None:
    """Raise `ConfigError` if `python:MODULE:FUNCTION`, found in a model file, may not be imported."""
    function = name.removeprefix("python:")
    module = function.partition(":")[0]
    listed = [each.strip() for each in os.environ.get(TRUST, "").split(",") if each.strip()]
    if function not in _trained and module not in listed:
        raise ConfigError(
            "model.network",
            f"the model is made by the function {name}, and model files may come from anybody",
            f"if you trust {module}, set {TRUST}={module} in the environment",
        )


def _function(name: str) -> Callable[..., Any]:
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            "model.network",
            f"cannot import {module_name!r}: {error}",
            "install the package on every worker, or set PYTHONPATH to an absolute path",
        ) from None
    function = getattr(module, function_name, None)
    if not callable(function):
        problem = f"{module_name} has no function {function_name!r}"
        if function is not None:
            problem = f"{function_name!r} of {module_name} is a {type(function).__name__}, not a function"
        raise ConfigError("model.network", problem, "python:MODULE:FUNCTION")
    return function

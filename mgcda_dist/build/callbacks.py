"""Callbacks that a configuration names, as objects; what could never be called is refused before the run."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from inspect import isclass, signature
from typing import Any

from mgcda_dist.callbacks import HOOKS, Callback
from mgcda_dist.config.run import CallbackConfig
from mgcda_dist.config.schema import Config
from mgcda_dist.errors import ConfigError
from mgcda_dist.references import resolve

__all__ = ["callbacks", "check_callbacks", "methods_of"]

_VALUES = {"ranks": ("first", "all"), "on_error": ("raise", "warn")}


def callbacks(config: Config) -> list[Any]:
    """The callbacks in the order of the configuration: objects with some of the methods of `callbacks.Callback`.

    Raises:
        ConfigError: a reference, its arguments, or what it leads to is no callback; or its constructor failed.
    """
    made: list[Any] = []
    for index, entry in enumerate(config.callbacks):
        where = f"callbacks.{index}"
        found = _resolve(where, entry)
        if _needs_call(found):
            try:
                found = found(**entry.arguments)
            except Exception as error:  # user code raises every kind
                problem = f"{entry.use} could not be made: {type(error).__name__}: {error}"
                raise ConfigError(where, problem, "see its arguments, and its code") from error
        _check(where, entry.use, found)
        made.append(found)
    return made


def check_callbacks(config: Config) -> None:
    """Raise `ConfigError` for callbacks that cannot be made or called; none is made."""
    for index, entry in enumerate(config.callbacks):
        where = f"callbacks.{index}"
        found = _resolve(where, entry)
        if isclass(found):
            try:
                # Its methods bound to something, without its constructor.
                found = object.__new__(found)
            except TypeError:
                continue
            _check(where, entry.use, found)
        elif not _needs_call(found):
            _check(where, entry.use, found)


def methods_of(callback: Any) -> dict[str, Callable[..., object]]:
    """The methods that a callback has of its own, by name."""
    found: dict[str, Callable[..., object]] = {}
    for name in HOOKS:
        method = getattr(callback, name, None)
        if callable(method) and getattr(method, "__func__", None) is not getattr(Callback, name):
            found[name] = method
    return found


def _resolve(where: str, entry: CallbackConfig) -> Any:
    """The class, function or object of an entry, which takes its arguments."""
    found = resolve(where, entry.use)
    if not _needs_call(found):
        if entry.arguments:
            problem = f"{entry.use} is an object that is there already, and takes no arguments"
            raise ConfigError(f"{where}.arguments", problem, "name its class, or leave the arguments out")
        return found
    try:
        signature(found).bind(**entry.arguments)
    except TypeError as error:
        raise ConfigError(f"{where}.arguments", f"{entry.use}: {error}", f"it is {_call(found)}") from None
    except ValueError:  # built in C, without a signature
        pass
    return found


def _needs_call(found: Any) -> bool:
    """True for a class, or a function that makes a callback."""
    return isclass(found) or (callable(found) and not methods_of(found))


def _call(found: Any) -> str:
    return f"{getattr(found, '__qualname__', 'called with')}{signature(found)}"


def _check(where: str, name: str, callback: Any) -> None:
    methods = methods_of(callback)
    unknown = [n for n in dir(callback) if n.startswith("on_") and n not in HOOKS and n not in _VALUES]
    near = {n: get_close_matches(n, HOOKS, 1) for n in unknown if callable(getattr(callback, n))}
    for wrong, names in near.items():
        if names:
            raise ConfigError(where, f"{name} has a method {wrong}, which nothing calls", f"did you mean {names[0]}?")
    if not methods:
        kind = f"{name} is a {type(callback).__name__}"
        raise ConfigError(where, f"{kind} without any of {', '.join(HOOKS)}", "see mgcda_dist.callbacks.Callback")
    for hook, method in methods.items():
        try:
            signature(method).bind(*[None] * HOOKS[hook])
        except TypeError as error:
            wanted = f"{hook}{signature(getattr(Callback, hook))}"
            raise ConfigError(where, f"{name}.{hook} cannot be called: {error}", f"def {wanted}") from None
    for attribute, values in _VALUES.items():
        if (value := getattr(callback, attribute, values[0])) not in values:
            raise ConfigError(where, f"{name}.{attribute} is {value!r}", f"one of {', '.join(values)}")

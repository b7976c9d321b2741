"""Overrides of a configuration: `key.sub=value`, as on a command line, or values by such keys from a program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mgcda_dist.addresses import without_secrets
from mgcda_dist.config.keys import KeyPath
from mgcda_dist.config.parse import parse_yaml
from mgcda_dist.errors import ConfigError

__all__ = ["with_overrides", "without_each"]


def with_overrides(
    data: dict[str, Any], overrides: Sequence[str] | Mapping[str, Any], lines: dict[KeyPath, str]
) -> dict[str, Any]:
    """The content of a configuration after all overrides; the given one stays as it is.

    Args:
        lines: of each value, its place; those of the overrides are added.

    Raises:
        ConfigError: an override of another form, or of an item that its list does not have.
    """
    changed: dict[str, Any] = _copied(data)
    if isinstance(overrides, Mapping):
        for key, value in overrides.items():
            _put(changed, key, value, _place(key, value), lines)
    else:
        for override in overrides:
            _apply(changed, override, lines)
    return changed


def without_each(
    data: dict[str, Any], overrides: Sequence[str] | Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """For each override its place, and the content after all others; not for one that another one needs."""
    others: list[tuple[str, Sequence[str] | Mapping[str, Any]]]
    if isinstance(overrides, Mapping):
        items = list(overrides.items())
        others = [(_place(*item), dict(items[:i] + items[i + 1 :])) for i, item in enumerate(items)]
    else:
        given = list(overrides)
        others = [(_shown(override), given[:i] + given[i + 1 :]) for i, override in enumerate(given)]
    for place, rest in others:
        try:
            yield place, with_overrides(data, rest, {})
        except ConfigError:
            continue


def _copied(value: Any) -> Any:
    """Sections and lists anew; values are what they are, also where a program gives objects that nothing copies."""
    if isinstance(value, dict):
        return {key: _copied(below) for key, below in value.items()}  # pyright: ignore[reportUnknownVariableType]
    return [_copied(item) for item in value] if isinstance(value, list) else value  # pyright: ignore[reportUnknownVariableType]


def _shown(override: str) -> str:
    """The place of an override of a command line."""
    return f"command line, {without_secrets(override)!r}"


def _place(key: str, value: Any) -> str:
    """The place of a value of a program."""
    return f"{key}={without_secrets(str(value))}"


def _apply(data: dict[str, Any], override: str, lines: dict[KeyPath, str]) -> None:
    where = _shown(override)
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(where, "not of the form key=value", "write for example optim.steps=100")
    try:
        value = parse_yaml(text, where)
    except ConfigError:
        raise ConfigError(where, f"the value {text!r} is not valid YAML", "quote it") from None
    _put(data, key, value, where, lines)


def _put(data: dict[str, Any], key: str, value: Any, where: str, lines: dict[KeyPath, str]) -> None:
    """Set the value of a dotted key."""
    parts: KeyPath = tuple(int(part) if part.isdigit() else part for part in key.split("."))
    target: dict[Any, Any] | list[Any] = data
    for part in parts[:-1]:
        if isinstance(target, list):
            if not isinstance(part, int) or part >= len(target):
                raise ConfigError(
                    where, f"{part!r} is no item of a list with {len(target)} items", "items count from 0"
                )
            target = target[part]
        else:
            if not isinstance(target.get(part), (dict, list)):
                target[part] = {}
            target = target[part]
    last = parts[-1]
    if isinstance(target, list) and (not isinstance(last, int) or last >= len(target)):
        raise ConfigError(where, f"{last!r} is no item of a list with {len(target)} items", "items count from 0")
    target[last] = value  # pyright: ignore[reportArgumentType, reportCallIssue]
    lines[parts] = where

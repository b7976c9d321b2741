"""Overrides of a configuration: `key.sub=value`, as on a command line, or values by such keys from a program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgcda_dist.addresses import without_secrets
from mgcda_dist.config.fields import merged
from mgcda_dist.config.keys import KeyPath
from mgcda_dist.config.parse import parse_yaml
from mgcda_dist.errors import ConfigError

__all__ = ["Override", "overrides_of", "plain", "with_overrides", "without_each"]


@dataclass(frozen=True)
class Override:
    """One override: the place that messages name, the dotted key, the value."""

    where: str
    key: str
    value: Any


def overrides_of(given: Sequence[str | Override] | Mapping[str, Any]) -> list[Override]:
    """Overrides of any form in one.

    Args:
        given: `key=value` of a command line, or values by dotted key.

    Raises:
        ConfigError: not `key=value`, or a value that is no YAML.
    """
    if isinstance(given, Mapping):
        values = {key: plain(value) for key, value in given.items()}
        return [Override(f"{key}={without_secrets(str(value))}", key, value) for key, value in values.items()]
    return [_parsed(each) if isinstance(each, str) else each for each in given]


def with_overrides(data: dict[str, Any], overrides: Sequence[Override], lines: dict[KeyPath, str]) -> dict[str, Any]:
    """The content of a configuration after all overrides; the given one stays as it is.

    Args:
        lines: of each value, its place; those of the overrides are added.

    Raises:
        ConfigError: an override of an item that its list does not have.
    """
    changed: dict[str, Any] = plain(data)
    for override in overrides:
        _put(changed, override, lines)
    return changed


def without_each(data: dict[str, Any], overrides: Sequence[Override]) -> Iterator[tuple[str, dict[str, Any]]]:
    """For each override its place, and the content after all others; not for one that another one needs."""
    for i, override in enumerate(overrides):
        try:
            yield override.where, with_overrides(data, [*overrides[:i], *overrides[i + 1 :]], {})
        except ConfigError:
            continue


def plain(value: Any) -> Any:
    """A value of a program as YAML would give it: paths as text, sections as dicts, and not the caller's own."""
    if isinstance(value, Mapping):
        return {str(key): plain(below) for key, below in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return str(value) if isinstance(value, Path) else value


def _parsed(override: str) -> Override:
    where = f"command line, {without_secrets(override)!r}"
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(where, "not of the form key=value", "write for example optim.steps=100")
    try:
        return Override(where, key, parse_yaml(text, where))
    except ConfigError:
        raise ConfigError(where, f"the value {text!r} is not valid YAML", "quote it") from None


def _put(data: dict[str, Any], override: Override, lines: dict[KeyPath, str]) -> None:
    """Set the value of a dotted key; a section changes what it names, and an empty one empties."""
    *above, last = override.key.split(".")
    holder: Any = data
    path: KeyPath = ()
    for part in above:
        at = _place(holder, part, override.where)
        if not isinstance(holder[at], (dict, list)):
            holder[at] = {}
        holder, path = holder[at], (*path, at)
    at = _place(holder, last, override.where)
    value = plain(override.value)
    holder[at] = merged(holder[at], value) if value else value
    lines[(*path, at)] = override.where


def _place(holder: dict[str, Any] | list[Any], part: str, where: str) -> str | int:
    """Key or position of a part of a dotted key; a key that is not there is made."""
    if isinstance(holder, dict):
        holder.setdefault(part, None)
        return part
    positions = {str(i): i for i in range(len(holder))}
    if part not in positions:
        named = [f"{i} {item['name']}" for i, item in enumerate(holder) if isinstance(item, dict) and "name" in item]
        listing = f": {', '.join(named[:8])}{', …' if len(named) > 8 else ''}" if named else ""
        remedy = f"items count from 0{listing}"
        raise ConfigError(where, f"{part!r} is no item of a list with {len(holder)} items", remedy)
    return positions[part]

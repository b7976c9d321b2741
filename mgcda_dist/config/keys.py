"""Lookup of dotted keys in the schema: meaning, nearest valid name, decision on resume."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mgcda_dist.config.fields import NAME, OnResume
from mgcda_dist.config.run import EvaluationConfig
from mgcda_dist.config.schema import Config
from mgcda_dist.errors import ConfigError

__all__ = [
    "KEY",
    "KeyPath",
    "description",
    "dotted_name",
    "evaluation_with",
    "near_key",
    "on_resume",
    "refusal",
    "refused_option",
    "section_of",
]

_LIST, _SECTION = ("not a list", "write a list, [VALUE, …]"), ("not a section", "write a mapping, {KEY: VALUE, …}")
_FORMS = {
    "tuple_type": _LIST,
    "list_type": _LIST,
    "dict_type": _SECTION,
    "model_type": _SECTION,
    "string_type": ("not text", "write text"),
}
"""Type of an error of pydantic's → problem and remedy in the words of a file, and not of Python."""

KEY = "[key]"
"""Behind the path of a key of a mapping that is refused itself, and not its value."""

KeyPath = tuple[str | int, ...]
"""Place of a value: keys, and positions in lists."""


def dotted_name(path: KeyPath) -> str:
    """The path as it is written on a command line."""
    return ".".join(str(part) for part in path)


def description(path: KeyPath) -> str | None:
    """Meaning of a field, as the schema has it; of an item, that of its list."""
    while path and isinstance(path[-1], int):
        path = path[:-1]
    section = _section_at(path[:-1])
    info = section.model_fields.get(str(path[-1])) if section and path else None
    return info.description if info else None


def on_resume(key: str) -> OnResume | None:
    """Decision of a dotted key: its field's, else that of the nearest section above it that has one; None: no decision.

    Positions in lists and names in mappings have the decision of the field that holds them; so has a key that the
    schema does not know (any more) that of its section.
    """
    found: OnResume | None = None
    section: type[BaseModel] | None = Config
    for part in key.split("."):
        if part.isdigit():
            continue
        info = section.model_fields.get(part) if section else None
        if section is None or info is None:
            break
        found = next((item for item in info.metadata if isinstance(item, OnResume)), found)
        section = section_of(section, part)
    return found


def refusal(item: ErrorDetails, path: KeyPath) -> tuple[str, str]:
    """Problem and remedy of one of pydantic's errors; `path`: of its value in the schema of a run, if it is there."""
    if item["type"] == "value_error":  # of a validator of ours, which says what would fit
        return item["msg"].removeprefix("Value error, "), ""
    problem, form = _FORMS.get(item["type"], (item["msg"][:1].lower() + item["msg"][1:], ""))
    value = item["input"]
    if KEY in item["loc"]:
        problem = f"no key: {problem}"
    if item["type"] == "string_pattern_mismatch":
        problem = _unlike(item.get("ctx", {}).get("pattern", ""), path) or problem
    elif item["type"] == "string_type" and isinstance(value, bool | int | float):  # `name: 2024`, `name: no`
        form = "write text in quotes, '…', on a command line \"'…'\""
    elif item["type"] == "model_type" and (key := _key_for(value, path)):
        return problem, f"did you mean {key}?"
    return problem, ": ".join(filter(None, (form, description(path))))


def _unlike(pattern: str, path: KeyPath) -> str:
    """The fault of text that does not match, where it can be said without the pattern."""
    if pattern == NAME:
        return "no name of letters, digits, _ . - that begins with a letter or digit"
    named = description(path) is not None and ("python:" in pattern or "file:" in pattern)
    return "of none of the forms that it takes" if named else ""  # which its meaning lists


def _key_for(value: Any, path: KeyPath) -> str:
    """`KEY=VALUE` of a key in a section that takes a value which was given to the section; empty if none does."""
    section = _section_at(path)
    fields = section.model_fields if section else {}
    if isinstance(value, bool):
        return f"{dotted_name(path)}.enabled={str(value).lower()}" if "enabled" in fields else ""
    takes = (name for name, info in fields.items() if isinstance(value, str) and value in get_args(info.annotation))
    name = next(takes, None)
    return f"{dotted_name(path)}.{name}={value}" if name else ""


def refused_option(error: ValidationError, section: str) -> ConfigError:
    """The refusal of an option that takes the place of a key of a section, with its value."""
    first = error.errors()[0]
    problem, remedy = refusal(first, (section, *first["loc"]))
    return ConfigError(dotted_name(first["loc"]), f"{first['input']!r}: {problem}", remedy)


def evaluation_with(options: Mapping[str, Any], section: Mapping[str, Any] = MappingProxyType({})) -> EvaluationConfig:
    """The section `evaluation` with options in the place of its keys.

    A height of 0 is the frame's own, a window of no size the whole frame.

    Raises:
        ConfigError: an option that cannot be.
    """
    empty = ("height_px", "longest_side_px", "window_px")
    update = {key: value or None if key in empty else value for key, value in options.items()}
    try:
        return EvaluationConfig.model_validate({**section, **update})
    except ValidationError as error:
        raise refused_option(error, "evaluation") from None


def near_key(path: KeyPath) -> str | None:
    """The nearest valid name for an unknown key: the same further down, one like it in its section, else anywhere."""
    section = _section_at(path[:-1])
    if section is None:
        return None
    names = list(section.model_fields)
    wrong = str(path[-1])
    for dotted in _all_keys(section, tuple(map(str, path[:-1]))):
        if dotted.rpartition(".")[2] == wrong:
            return dotted
    close = difflib.get_close_matches(wrong, names, n=1, cutoff=0.6)
    if close:
        return dotted_name((*path[:-1], close[0]))
    return next((dotted for dotted in _all_keys(Config, ()) if dotted.split(".")[-1] == wrong), None)


def _section_at(path: KeyPath) -> type[BaseModel] | None:
    section: type[BaseModel] | None = Config
    for part in path:
        if isinstance(part, str):
            section = section and section_of(section, part)
    return section


def section_of(section: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The section that a field holds, by itself, in a list, or as one of several kinds; None: it holds a value."""
    info = section.model_fields.get(name)
    if info is None:
        return None
    pending = [info.annotation]
    while pending:
        kind = pending.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
        pending.extend(get_args(kind))
    return None


def _all_keys(section: type[BaseModel], path: tuple[str, ...]) -> list[str]:
    found: list[str] = []
    for name in section.model_fields:
        found.append(dotted_name((*path, name)))
        below = section_of(section, name)
        if below is not None:
            found.extend(_all_keys(below, (*path, name)))
    return found

"""Configurations from a program, and the checks before a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mgcda_dist.config.keys import dotted_name
from mgcda_dist.config.load import LoadedConfig
from mgcda_dist.config.load import load_config as load
from mgcda_dist.config.overrides import Override, overrides_of
from mgcda_dist.config.schema import Config
from mgcda_dist.runs.folder import flatten

__all__ = ["check", "load_config", "loaded_config", "with_places"]


def load_config(
    source: str | Path | Mapping[str, Any] | Config,
    changes: Mapping[str, Any] | Sequence[str] = (),
    **sections: Any,
) -> Config:
    """Read a configuration, change it, and validate it.

    Args:
        source: a YAML file, as `configs/demo.yaml`; the content of one, which may have a `base`; or a configuration.
        changes: values by dotted key, `{"optim.steps": 100}`; or as on the command line, `["optim.steps=100"]`.
        sections: values and sections by name; what a section does not name stays: `name="mine", optim={"steps": 100}`.

    Returns:
        The resolved configuration, with absolute folders. It is frozen; `load_config(config, …)` changes it.

    Raises:
        ConfigError: all problems, each with its place.
    """
    return loaded_config(source, _all_changes(changes, sections)).config


def loaded_config(source: str | Path | Mapping[str, Any] | Config, overrides: Sequence[Override] = ()) -> LoadedConfig:
    """The configuration of `load_config`, with the places of its values."""
    return load(source.model_dump() if isinstance(source, Config) else source, overrides)


def with_places(loaded: LoadedConfig, changed: Config) -> LoadedConfig:
    """A configuration that a program has changed, with the places of the values that stayed."""
    before, now = (flatten(each.model_dump(mode="json")) for each in (loaded.config, changed))
    other = [key for key in before.keys() | now.keys() if before.get(key) != now.get(key)]
    lines = dict(loaded.lines)
    for path in lines:
        if any(f"{key}.".startswith(f"{dotted_name(path)}.") for key in other):
            lines[path] = "configuration"
    return LoadedConfig(changed, loaded.source, lines)


def check(loaded: LoadedConfig, *, samples: bool = False) -> list[str]:
    """Warnings about the data of a run.

    Args:
        samples: also read one sample of each folder.

    Raises:
        ConfigError: shards that are missing, or do not fit the run.
    """
    from mgcda_dist.checks import check_data

    loaded.check_files()
    problems, warnings = check_data(loaded.config, samples=samples)
    loaded.refuse([(p.path, f"{'.'.join(map(str, p.path))}: {p.problem}\n  → {p.remedy}") for p in problems])
    return warnings


def _all_changes(changes: Mapping[str, Any] | Sequence[str], sections: Mapping[str, Any]) -> list[Override]:
    """All changes, the sections last."""
    return [*overrides_of([changes] if isinstance(changes, str) else changes), *overrides_of(_dotted(sections))]


def _dotted(sections: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Sections as values by dotted key; lists, and empty sections, are values."""
    flat: dict[str, Any] = {}
    for name, value in sections.items():
        flat |= _dotted(value, f"{prefix}{name}.") if isinstance(value, Mapping) and value else {prefix + name: value}
    return flat

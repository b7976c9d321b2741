"""Loading a configuration: YAML with `base:`, then `key=value` overrides; errors say file, line, value, remedy."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mgcda_dist.choices import MANIFEST, PIPE
from mgcda_dist.config.fields import merged
from mgcda_dist.config.keys import KEY, KeyPath, dotted_name, near_key, refusal
from mgcda_dist.config.overrides import Override, overrides_of, plain, with_overrides, without_each
from mgcda_dist.config.parse import dump_yaml, read_yaml, shipped, shipped_files
from mgcda_dist.config.run import EvaluationSetConfig
from mgcda_dist.config.schema import Config
from mgcda_dist.errors import ConfigError
from mgcda_dist.references import expanded

__all__ = [
    "LoadedConfig",
    "as_of_today",
    "dump_config",
    "load_config",
    "resolve_paths",
    "shard_folders",
    "stored_config",
]


@dataclass
class LoadedConfig:
    """A validated configuration and where each of its values was written."""

    config: Config
    source: Path
    lines: dict[KeyPath, str] = field(default_factory=dict)

    def where(self, *path: str | int) -> str:
        """`file:line` of a value, of its nearest written parent, or of the file."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return str(self.source)

    def check_files(self) -> None:
        """Raise `ConfigError`, naming all, for local shard folders without a manifest and a missing file of weights."""
        problems: list[tuple[KeyPath, str]] = [
            (path, f"{dotted_name(path)}: no shards in {folder!r} (no manifest.json there)")
            for path, folder in shard_folders(self.config)
            if "://" not in _folder_of(folder) and not (Path(_folder_of(folder)) / MANIFEST).is_file()
        ]
        remedy = (
            "write them with `mgcda shards write`, or `mgcda shards synth` for the demo; "
            "relative folders are read from the current directory"
        )
        kind, _, place = self.config.model.weights.partition(":")
        if (kind == "file" and not Path(place).is_file()) or (kind == "run" and not Path(place).is_dir()):
            remedy = remedy if problems else ""
            what = "file" if kind == "file" else "folder"
            problems.append((("model", "weights"), f"model.weights: there is no {what} {place!r}"))
        self.refuse(problems, remedy)

    def refuse(self, problems: Sequence[tuple[tuple[str | int, ...], str]], remedy: str = "") -> None:
        """Raise `ConfigError` with all problems, each with its place; nothing if there is none."""
        if problems:
            (path, first), *rest = problems
            raise ConfigError(
                self.where(*path), first + "".join(f"\n{self.where(*p)}: {text}" for p, text in rest), remedy
            )


def load_config(
    path: str | Path | Mapping[str, Any], overrides: Sequence[str | Override] | Mapping[str, Any] | None = None
) -> LoadedConfig:
    """Read, merge, validate.

    Args:
        path: YAML file; its `base:` names a file, relative to it, whose values it changes. Or the content of one.
        overrides: `key.sub=value` with YAML values; list items by index: `data.streams.0.per_step=4`. Or, from a
            program, values by such keys.

    Raises:
        ConfigError: all problems, each with its place.
    """
    lines: dict[KeyPath, str] = {}
    if isinstance(path, Mapping):
        source, data = Path("configuration"), _given(path, lines)
    else:
        data = _read(source := shipped(Path(path)), lines, seen=())
    changes = overrides_of(overrides or [])
    changed = with_overrides(data, changes, lines)
    try:
        config = Config.model_validate(expanded(changed))
    except ValidationError as error:
        raise _explain(error, source, lines, _blamed(error, data, changes)) from None
    return LoadedConfig(resolve_paths(config), source, lines)


def resolve_paths(config: Config) -> Config:
    """The same configuration with absolute local paths: workers run in other directories."""
    data = config.model_dump()
    data["runs"] = _absolute(data["runs"])
    for path, folder in shard_folders(config):
        parent: Any = data
        for part in path[:-1]:
            parent = parent[part]
        parent[path[-1]] = _absolute(folder)
    best = data["checkpoint"]["best"]
    of_phases = [stream for phase in data["phases"] for stream in phase["data"].get("streams", [])]
    of_sets = [*data["evaluation"]["sets"], *([best["set"]] if best else [])]
    for reader in [*data["data"]["streams"], *of_phases, *of_sets]:
        reader["dataset_arguments"] = _with_absolute_paths(reader.get("dataset_arguments", {}))
    kind, _, place = data["model"]["weights"].partition(":")
    if kind in ("file", "run"):
        data["model"]["weights"] = f"{kind}:{_absolute(place)}"
    return Config.model_validate(data)


def as_of_today(stored: dict[str, Any]) -> dict[str, Any]:
    """A configuration that an older version wrote, as JSON, with today's keys; as it is if it is none any more."""
    try:
        return Config.model_validate(stored).model_dump(mode="json")
    except ValidationError:
        return stored


def stored_config(path: Path) -> dict[str, Any]:
    """The configuration in a run's folder, with today's keys (`as_of_today`).

    Raises:
        ConfigError: no YAML mapping.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ConfigError(str(path), "the file holds no sections", "remove the folder to start over")
    return as_of_today(content)


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML that `load_config` reads back."""
    return dump_yaml(config.model_dump(mode="json"))


def shard_folders(config: Config) -> list[tuple[KeyPath, str]]:
    """Every folder of shards that a run reads, with the key that names it."""
    found: list[tuple[KeyPath, str]] = []
    for i, stream in enumerate(config.data.streams):
        if stream.shards is not None:
            found.append((("data", "streams", i, "shards"), stream.shards))
        if stream.paste:
            found.append((("data", "streams", i, "paste", "objects"), stream.paste.objects))
    for i, phase in enumerate(config.phases):
        for j, stream in enumerate(phase.data.get("streams", [])):
            at: KeyPath = ("phases", i, "data", "streams", j)
            if stream.get("shards") is not None:
                found.append(((*at, "shards"), stream["shards"]))
            if stream.get("paste"):
                found.append(((*at, "paste", "objects"), stream["paste"]["objects"]))
    sets: list[tuple[KeyPath, EvaluationSetConfig]] = [
        (("evaluation", "sets", i), entry) for i, entry in enumerate(config.evaluation.sets)
    ]
    if config.checkpoint.best is not None:
        sets.append((("checkpoint", "best", "set"), config.checkpoint.best.set))
    for path, entry in sets:
        if entry.shards is not None:
            found.append(((*path, "shards"), entry.shards))
        if entry.paste:
            found.append(((*path, "paste", "objects"), entry.paste.objects))
    return found


def _absolute(path: str) -> str:
    folder = _folder_of(path)
    return path if "://" in folder else str(Path(folder).expanduser().absolute()) + path.removeprefix(folder)


def _with_absolute_paths(value: Any) -> Any:
    """Arguments in which what looks like a path of this folder is absolute: text that begins with ./, ../ or ~/."""
    if isinstance(value, dict):
        return {key: _with_absolute_paths(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_with_absolute_paths(below) for below in value]
    return _absolute(value) if isinstance(value, str) and value.startswith(("./", "../", "~/")) else value


def _folder_of(place: str) -> str:
    """The folder or URL of a place of shards, without the command behind it."""
    return place.partition(PIPE)[0]


def _read(path: Path, lines: dict[KeyPath, str], seen: tuple[Path, ...], asked: str = "") -> dict[str, Any]:
    """The content of a file on top of those that it is based on.

    Args:
        lines: receives the place of every value.
        seen: the files above it, which are based on it.
        asked: the place of the `base` that names it.
    """
    where = str(path)
    if not os.path.exists(path):  # unlike Path.exists, also for names that no file system takes
        problem = f"there is no file {where!r}" if asked else "there is no such file"
        raise ConfigError(asked or where, problem, _near_file(path, seen))
    if path.resolve() in seen:
        raise ConfigError(where, "`base:` leads back to this file", "remove the loop")
    data = read_yaml(path, found := {})
    if not isinstance(data, dict):
        raise ConfigError(where, "the file holds no sections", "start from one that `mgcda config list` shows")
    if "rows" in data:
        raise ConfigError(where, "is a sweep, not the configuration of one run", "`mgcda sweep` runs it")
    base = data.pop("base", None)
    if base is not None:
        at = f"{found[('base',)]}: base"
        below = _read(shipped(path.parent / str(base)), lines, (*seen, path.resolve()), at)
        data = merged(below, data)
    lines.update(found)
    return data


def _given(content: Mapping[str, Any], lines: dict[KeyPath, str]) -> dict[str, Any]:
    """A configuration from a program, on top of the file that its `base` names."""
    data = plain(content)
    base = data.pop("base", None)
    return data if base is None else merged(_read(shipped(Path(base)), lines, (), "configuration: base"), data)


_Mistake = tuple[KeyPath, str, str]
"""Place and type of an error of pydantic's, and the key that one of ours begins with."""


def _mistake(item: ErrorDetails) -> _Mistake:
    return item["loc"], item["type"], item["msg"].partition(":")[0]


def _blamed(error: ValidationError, data: dict[str, Any], overrides: Sequence[Override]) -> dict[_Mistake, list[str]]:
    """Overrides without which a mistake would not be there: one of ours may name a key that another one has spoilt."""
    found: dict[_Mistake, list[str]] = {_mistake(item): [] for item in error.errors()}
    for place, content in without_each(data, overrides):
        remaining = set[_Mistake]()
        try:
            Config.model_validate(expanded(content))
        except ValidationError as other:
            remaining = set(map(_mistake, other.errors()))
        for mistake in found.keys() - remaining:
            found[mistake].append(place)
    return found


def _explain(
    error: ValidationError, source: Path, lines: dict[KeyPath, str], blamed: Mapping[_Mistake, Sequence[str]]
) -> ConfigError:
    loaded = LoadedConfig.__new__(LoadedConfig)
    loaded.source, loaded.lines = source, lines
    messages: list[tuple[str, str]] = []
    # A misspelt key explains the missing one beside it: unknown keys come first.
    known: set[KeyPath] = set()  # keys of a known name or another text: the names are told, and the text is not
    for item in sorted(error.errors(), key=lambda item: item["type"] != "extra_forbidden"):
        path = _written(item["loc"])
        if path[:-1] in known:
            continue
        if str(*item["loc"][-1:]).startswith("literal["):
            known.add(path)
        if item["type"] == "extra_forbidden":
            near = near_key(path)
            text = f"unknown key {dotted_name(path)!r} (value {item['input']!r})" + (
                f"; did you mean {near!r}?" if near else ""
            )
        else:
            problem, remedy = refusal(item, path)
            if item["type"] == "missing":
                text = f"{dotted_name(path)!r} is missing"
            elif path == ():
                text = problem
                path = tuple(int(p) if p.isdecimal() else p for p in text.split(":", 1)[0].split("."))
            else:
                value = "" if isinstance(item["input"], dict) or KEY in item["loc"] else f" = {item['input']!r}"
                text = f"{dotted_name(path)}{value}: {problem}"
            text += f"\n  → {remedy}" if remedy else ""
        messages.append((" and ".join(blamed[_mistake(item)]) or loaded.where(*path), text))
    where, first = messages[0]
    rest = "".join(f"\n{w}: {text}" for w, text in messages[1:])
    return ConfigError(where, first + rest)


def _written(location: KeyPath) -> KeyPath:
    """Path of the value in the user's file, without the kinds of values that pydantic inserts."""
    at = ("data", "class_space")
    path = at + location[3:] if location[:2] == at else location
    return tuple(part for part in path if part != KEY and not str(part).startswith("literal["))


def _near_file(path: Path, seen: Collection[Path]) -> str:
    beside = path.parent.glob("*.yaml") if path.parent.is_dir() else []
    names = [str(p) for p in beside if p.resolve() not in seen]
    names += shipped_files()
    close = difflib.get_close_matches(str(path), names, n=1)
    return f"did you mean {close[0]}?" if close else "give the path of a YAML file; `mgcda config list` shows some"

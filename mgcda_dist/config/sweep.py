"""A sweep: configurations × seeds, from a small YAML file or from the command line, as one resolved `Config` per run.

name: ablation
seeds: [0, 1, 2]
set: {optim.steps: 300}                       # for every row
rows:
  baseline: baseline.yaml                     # relative to the current directory, else to this file
  no_queue: {config: paper.yaml, set: {cacl.queue_rows: 0}, seeds: [0]}
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from os.path import isfile  # unlike Path.is_file, also for names that are too long
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, field_validator

from mgcda_dist.choices import DATABASE
from mgcda_dist.config.fields import NAME, Name, Section
from mgcda_dist.config.keys import dotted_name, refusal
from mgcda_dist.config.load import load_config
from mgcda_dist.config.overrides import Override, overrides_of
from mgcda_dist.config.parse import read_yaml, shipped
from mgcda_dist.config.schema import Config
from mgcda_dist.errors import ConfigError

__all__ = [
    "PlannedRun",
    "Sweep",
    "SweepRow",
    "checked_sweep",
    "is_sweep_file",
    "load_sweep",
    "plan_runs",
    "sweep_of_configs",
]

_LONGEST_NAME = 60
_NAMED_HERE = ("name", "seed")
_NAMES_ITSELF = "a sweep names and seeds its runs itself"


def _of_runs(changes: dict[str, Any]) -> dict[str, Any]:
    for key in _NAMED_HERE:
        if key in changes:
            raise ValueError(f"{key}: {_NAMES_ITSELF}; give `seeds`, and names of rows")
    return changes


_Seeds = Annotated[list[int], Field(min_length=1)]
_Changes = Annotated[dict[str, Any], AfterValidator(_of_runs)]


class SweepRow(Section):
    """One row of the table: a configuration and what it changes."""

    config: str = Field(description="YAML file of a run")
    set: _Changes = Field(default={}, description="dotted keys and their values")
    seeds: _Seeds | None = Field(default=None, description="null: those of the sweep")


class Sweep(Section):
    """Rows × seeds."""

    name: Name
    seeds: _Seeds = Field(default=[0])
    set: _Changes = Field(default={}, description="dotted keys and their values, for every row")
    rows: Annotated[dict[Name, SweepRow], Field(min_length=1)]

    @field_validator("rows", mode="before")
    @classmethod
    def _short_rows(cls, rows: Any) -> Any:
        if not isinstance(rows, dict):
            return rows
        return {str(name): {"config": row} if isinstance(row, str) else row for name, row in rows.items()}


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep.

    Attributes:
        config: resolved; its `name` is `ROW-sSEED`, its `runs` the sweep's own folder.
    """

    row: str
    config: Config

    @property
    def name(self) -> str:
        """`ROW-sSEED`."""
        return self.config.name


def is_sweep_file(path: Path) -> bool:
    """True if a YAML file has `rows`, unlike the configuration of a run."""
    try:
        content = read_yaml(shipped(path))
    except ConfigError:
        return False  # whoever loads it says what is wrong
    return isinstance(content, dict) and "rows" in content


def load_sweep(path: Path) -> Sweep:
    """Read a sweep file; its configurations get absolute paths.

    Raises:
        ConfigError: what does not fit, all of it.
    """
    path = shipped(path)
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ConfigError(str(path), "the file holds no mapping", "a sweep has name, seeds, set and rows")
    sweep = checked_sweep(str(path), {"name": path.stem} | content)
    rows = {
        name: row.model_copy(update={"config": str(_found(path, name, row.config))}) for name, row in sweep.rows.items()
    }
    return sweep.model_copy(update={"rows": rows})


def checked_sweep(where: str, content: dict[str, Any]) -> Sweep:
    """A sweep from its fields; `ConfigError` at `where` with all that does not fit."""
    try:
        return Sweep.model_validate(content)
    except ValidationError as error:
        problems = [f"{dotted_name(item['loc'])}: {refusal(item, ())[0]}" for item in error.errors()]
        raise ConfigError(where, "\n".join(problems), "a sweep has name, seeds, set and rows") from None


def sweep_of_configs(paths: list[Path], name: str | None = None) -> Sweep:
    """A sweep with one row per configuration file, called as the configuration's own `name`."""
    rows: dict[str, SweepRow] = {}
    for path in paths:
        row = load_config(path).config.name
        if row in rows:
            raise ConfigError(str(path), f"two configurations are named {row!r}", "give each its own name")
        rows[row] = SweepRow(config=str(shipped(path).absolute()))
    joined = "_vs_".join(rows)
    if len(joined) > _LONGEST_NAME:
        joined = f"{next(iter(rows))}_and_{len(rows) - 1}_more"
    name = name or joined
    if not re.fullmatch(NAME, name):
        raise ConfigError("name", f"{name!r} cannot be the name of a folder", "letters, digits, _ . -")
    return Sweep(name=name, rows=rows)


def plan_runs(sweep: Sweep, overrides: list[str] | None = None) -> list[PlannedRun]:
    """Every run, seed by seed, so that a sweep that is cut short has compared all rows under the first seeds.

    Runs get a folder of their own, `RUNS/SWEEP`, and share the MLflow database of `RUNS`.

    Args:
        overrides: `key=value`, for every run.

    Raises:
        ConfigError: a configuration that cannot run, an override that would break the plan, or rows that disagree about
            where runs and records go.
    """
    for override in overrides or []:
        key = override.partition("=")[0]
        if key in _NAMED_HERE:
            raise ConfigError(f"command line, {override!r}", _NAMES_ITSELF, "give `seeds` instead")
    most = max(len(row.seeds or sweep.seeds) for row in sweep.rows.values())
    planned: list[PlannedRun] = []
    for position in range(most):
        for name, row in sweep.rows.items():
            seeds = row.seeds or sweep.seeds
            if position < len(seeds):
                planned.append(_planned(sweep, name, row, seeds[position], overrides or []))
    names = [run.name for run in planned]
    for run in planned:
        if names.count(run.name) > 1:
            raise ConfigError(f"row {run.row!r}", f"the run {run.name!r} is planned twice", "give each seed once")
    for key in ("runs", "tracking.mlflow_uri", "tracking.experiment"):
        found = {str(_value(run.config, key)) for run in planned}
        if len(found) > 1:
            problem = f"rows disagree about {key}: {', '.join(sorted(found))}"
            raise ConfigError(f"sweep {sweep.name!r}", problem, f"add {key}=… to the command")
    return planned


def _planned(sweep: Sweep, name: str, row: SweepRow, seed: int, overrides: list[str]) -> PlannedRun:
    changes: list[str | Override] = [
        Override(f"set {override.where!r}", override.key, override.value)
        for override in (*overrides_of(sweep.set), *overrides_of(row.set))
    ]
    own = overrides_of({"name": f"{name}-s{seed}", "seed": seed})
    try:
        config = load_config(row.config, [*changes, *overrides, *own]).config
    except ConfigError as error:
        raise ConfigError(f"row {name!r}, {error.where}", error.problem, error.remedy) from None
    uri = config.tracking.mlflow_uri or f"sqlite:///{Path(config.runs) / DATABASE}"
    tracking = config.tracking.model_copy(update={"mlflow_uri": uri})
    return PlannedRun(
        name, config.model_copy(update={"runs": str(Path(config.runs) / sweep.name), "tracking": tracking})
    )


def _found(sweep_file: Path, row: str, config: str) -> Path:
    places = [shipped(Path(config)).absolute(), (sweep_file.parent / config).absolute()]
    found = next((place for place in places if isfile(place)), None)
    if found is None:
        raise ConfigError(f"{sweep_file}, row {row!r}", f"there is no configuration {config!r}", "give a YAML file")
    return found


def _value(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value

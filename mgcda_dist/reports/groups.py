"""Runs that differ in nothing but their seed, together; and the parameters in which groups differ."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mgcda_dist.reports.runs import RunRecord

__all__ = ["Group", "differing_params", "group_runs"]

_NOT_COMPARED = re.compile(
    r"name|seed|runs|(tracking|checkpoint)\..*|data\.(loader_workers|prefetch_steps|pin_memory)|model\.compile"
    r"|data\.(?:streams|domains)\.\d+\.(shards|paste\.objects)|evaluation\.(sets\..*|sets|panel_frames)"
)
"""Parameters for the place, the record and the reading speed of a run. The data is compared by its digests."""
_NO_GROUP_OF_ITS_OWN = re.compile(r"scaling\..*")
"""Shown where it differs, but the same experiment: the method gives the same result at every world size."""


@dataclass(frozen=True)
class Group:
    """Runs of one configuration under several seeds, sorted by seed."""

    name: str
    runs: tuple[RunRecord, ...]

    @property
    def seeds(self) -> tuple[str, ...]:
        """Seed of each run."""
        return tuple(run.params.get("seed", "") for run in self.runs)


def group_runs(records: Sequence[RunRecord]) -> list[Group]:
    """Runs that differ in nothing but their seed, together; a run without parameters stays alone."""
    by_config: dict[tuple[Any, ...], list[RunRecord]] = {}
    for record in records:
        kept = tuple(sorted((k, v) for k, v in _compared(record).items() if not _NO_GROUP_OF_ITS_OWN.fullmatch(k)))
        by_config.setdefault(kept or (record.source,), []).append(record)
    groups: list[Group] = []
    for runs in by_config.values():
        name = _group_name([run.name for run in runs])
        taken = [group.name for group in groups]
        number = next(n for n in range(1, len(taken) + 2) if (name if n == 1 else f"{name} ({n})") not in taken)
        ordered = sorted(runs, key=lambda run: (len(run.params.get("seed", "")), run.params.get("seed", "")))
        groups.append(Group(name if number == 1 else f"{name} ({number})", tuple(ordered)))
    return groups


def differing_params(groups: Sequence[Group]) -> dict[str, list[str]]:
    """Parameters whose values differ between groups, with each group's value; `–` where a group has no such key."""
    values: dict[str, list[str]] = {}
    per_group = [[_compared(run) for run in group.runs] for group in groups]
    for key in dict.fromkeys(key for group in per_group for params in group for key in params):
        row = [" / ".join(dict.fromkeys(params.get(key, "–") for params in group)) for group in per_group]
        if len(set(row)) > 1:
            values[key] = row
    return values


def _compared(run: RunRecord) -> dict[str, str]:
    return {key: _plain(value) for key, value in run.params.items() if not _NOT_COMPARED.fullmatch(key)}


def _plain(value: str) -> str:
    """Equal numbers as equal text: 1.0 and 1, 1e-3 and 0.001."""
    try:
        return f"{float(value):.12g}"
    except ValueError:
        return value


def _group_name(names: list[str]) -> str:
    """Common part of the names, without the seed at the end."""
    if len(names) == 1:
        return names[0]
    prefix = names[0]
    while not all(name.startswith(prefix) for name in names):
        prefix = prefix[:-1]
    return re.sub(r"[-_. ]*(seed|s)?[-_. =]*$", "", prefix) or names[0]

"""Ratios from turns: medians and quartiles, their targets, and a table compared with an earlier one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Literal

from benchmarks.sections import Findings, Result
from mgcda_dist.tables import Cell, Column, Table, markdown

__all__ = ["CLOCKS", "RATIOS", "Compared", "Ratio", "compare", "found_in", "note", "read", "summary"]

RATIOS = "ratios"
"""The table of a section that holds its ratios."""
_LEAST_ALLOWANCE = 0.01
"""Two runs of which neither varies differ by less."""
Clock = Literal["processor time", "wall time", "bytes"]
CLOCKS: Mapping[Clock, str] = {"processor time": "process", "wall time": "wall"}
"""Clock → name in `setting.Spent`. Other work on the machine stretches the first one less; waiting is in the second."""


@dataclass(frozen=True)
class Ratio:
    """A ratio, or a number of seconds, as it was measured.

    Attributes:
        name: equal in every run.
        median, lower, upper: over the turns; lower and upper are the quartiles.
        turns: each has measured both sides, one after the other.
        clock: what was measured.
        at_most, at_least: target; None: there is none on this side.
        in_seconds: it is no ratio, and is not compared with other runs.
    """

    name: str
    median: float
    lower: float
    upper: float
    turns: int
    clock: Clock
    at_most: float | None = None
    at_least: float | None = None
    in_seconds: bool = False

    @classmethod
    def over(cls, name: str, turns: Sequence[float], clock: Clock, **target: Any) -> Ratio:
        """The ratio of turns that were measured; quartiles of one are that one."""
        lower, _, upper = quantiles(turns, n=4, method="inclusive") if len(turns) > 1 else (turns[0],) * 3
        return cls(name, median(turns), lower, upper, len(turns), clock, **target)

    @property
    def met(self) -> bool | None:
        """The median keeps the target; None: there is none."""
        if self.at_most is None and self.at_least is None:
            return None
        return self._excess(self.median) <= 0

    @property
    def target(self) -> str:
        """The target in words."""
        unit = " s" if self.in_seconds else ""
        if self.at_most is not None:
            return f"≤ {self.at_most:g}{unit}"
        return "" if self.at_least is None else f"≥ {self.at_least:g}{unit}"

    @property
    def spread(self) -> float:
        """Half of the distance of the quartiles."""
        return (self.upper - self.lower) / 2

    def _excess(self, value: float) -> float:
        """Distance of a value over the target; negative: the target is kept."""
        if self.at_most is not None:
            return value - self.at_most
        return 0.0 if self.at_least is None else self.at_least - value


@dataclass(frozen=True)
class Compared:
    """The outcome for one ratio.

    Attributes:
        fell: worse than before by more than the two spreads, or a target is no longer met, or there is no value.
    """

    name: str
    fell: bool
    text: str


def note(found: Findings, ratio: Ratio) -> None:
    """Write a ratio down in the table of its section."""
    found.row(RATIOS, **asdict(ratio))


def found_in(results: Sequence[Result | Mapping[str, Any]]) -> list[Ratio]:
    """All ratios of sections, as they were run or as they stand in a file, in their order."""
    tables: list[Mapping[str, Any]] = [r.tables if isinstance(r, Result) else r["tables"] for r in results]
    return [Ratio(**row) for table in tables for row in table.get(RATIOS, ())]


def read(file: Path) -> list[Ratio]:
    """The ratios of a file that a run has written.

    Raises:
        OSError: there is none.
        ValueError: it is another kind of file.
    """
    try:
        return found_in(json.loads(file.read_text(encoding="utf-8"))["sections"])
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: no result of this benchmark: {error!r}") from None


def compare(now: Sequence[Ratio], before: Sequence[Ratio], reasons: Mapping[str, str] | None = None) -> list[Compared]:
    """Each ratio of an earlier run against that of this one, and each target; seconds are left out.

    The allowance is half of the distance of the quartiles of both runs together, and at least 0.01. A target that the
    earlier run has missed is named, and not held against this one.

    Args:
        reasons: by name of a ratio, why this run does not have it.
    """
    present = {ratio.name: ratio for ratio in now}
    return [
        _compared(present.get(ratio.name), ratio, (reasons or {}).get(ratio.name, "its section gave no value"))
        for ratio in before
        if not ratio.in_seconds
    ]


def _compared(now: Ratio | None, before: Ratio, reason: str) -> Compared:
    if now is None:
        return Compared(before.name, True, f"{before.name}: not measured: {reason}")
    allowance = max(_LEAST_ALLOWANCE, now.spread + before.spread)
    change = now.median - before.median
    # Without a target it is a fact about the machine, which has no worse side.
    worse = change if now.at_most is not None else -change if now.at_least is not None else 0.0
    text = f"{before.name}: {now.median:.3f}, was {before.median:.3f} (allowance {allowance:.3f})"
    if worse > allowance:
        return Compared(before.name, True, f"{text}: it fell")
    if now.met is False and before.met is False:
        return Compared(before.name, False, f"{text}: misses its target, {now.target}, as it did before")
    if now.met is False and now._excess(now.median) > max(_LEAST_ALLOWANCE, now.spread):
        return Compared(before.name, True, f"{text}: misses its target, {now.target}, which it met")
    return Compared(before.name, False, text)


def summary(results: Sequence[Result]) -> str:
    """One Markdown table of all ratios; a section without any has a line that says why."""
    rows: list[list[Cell]] = []
    for result in results:
        ratios = found_in([result])
        rows += [_row(ratio) for ratio in ratios]
        if result.status != "passed" and result.status != "skipped":
            last = (result.reason.splitlines() or ["; ".join(result.problems)])[-1]
            rows.append([f"{result.title}: {result.status}, {last}", "", "", "", "", "", ""])
    titles = ("median", "quartiles", "turns", "target", "")
    columns = [Column("", align="left"), Column("of", align="left"), *map(Column, titles)]
    return markdown(Table(columns, rows))


def _row(ratio: Ratio) -> list[Cell]:
    digits, unit = (1, " s") if ratio.in_seconds else (3, "")
    said = {True: "met", False: "**missed**", None: ""}[ratio.met]
    quartiles = f"{ratio.lower:.{digits}f} – {ratio.upper:.{digits}f}"
    middle = f"{ratio.median:.{digits}f}{unit}"
    return [ratio.name, ratio.clock, middle, quartiles, str(ratio.turns), ratio.target, said]

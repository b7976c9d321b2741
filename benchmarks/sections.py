"""Sections of a check: each in a process of its own with a time limit, so that none can end or spoil the others.

A fault of a GPU ends the process that has met it, and a hang is ended with its process. A section writes down what it
has found as it goes, so that what comes before a fault is kept.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from mgcda_dist.tables import Cell, Column, Table, markdown

__all__ = ["Findings", "Result", "Section", "SkippedError", "exit_code", "page", "run"]

Status = Literal["passed", "failed", "skipped", "no time"]
Value = str | int | float | bool | None
_SHOWN_LINES = 12
_LEAST_S = 3.0
"""A section that has less time is not begun."""
_END_S = 10.0
"""So long a process that was killed may take to end: one in a call of the GPU's driver can outlast any signal."""
_PR_SET_PDEATHSIG = 1
"""Of `prctl`, sys/prctl.h."""


class SkippedError(Exception):
    """A section cannot run here; the reason."""


class Findings:
    """Facts, tables and problems of one section, kept in a file.

    Attributes:
        problems: sentences; one of them makes the section fail.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.facts: dict[str, Value] = {}
        self.tables: dict[str, list[dict[str, Value]]] = {}
        self.problems: list[str] = []

    def fact(self, name: str, value: Value) -> None:
        """Note a single value."""
        self.facts[name] = _written(value)
        self._write()

    def row(self, table: str, **cells: Value) -> None:
        """Add a row to a table; its keys are the columns."""
        self.tables.setdefault(table, []).append({name: _written(value) for name, value in cells.items()})
        self._write()

    def problem(self, sentence: str) -> None:
        """Note that something is not as it should be."""
        self.problems.append(sentence)
        self._write()

    def bounded(self, what: str, value: float, limit: float) -> None:
        """Note a problem where a difference is over its limit, or no number."""
        if not value <= limit:
            self.problem(f"{what}: {value:.2e}, over {limit:.0e}")

    def end(self, status: Status, reason: str = "") -> None:
        """Write the end of the section down."""
        self._write(status=status, reason=reason)

    def _write(self, **end: str) -> None:
        content = {"facts": self.facts, "tables": self.tables, "problems": self.problems, **end}
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps(content, default=str), encoding="utf-8")
        partial.replace(self._file)


@dataclass(frozen=True)
class Section:
    """One section.

    Attributes:
        title: heading on the page.
        job: does it, with the setting of the check.
        limit_s: longest time that it may take.
    """

    title: str
    job: Callable[[Any, Findings], None]
    limit_s: float


@dataclass
class Result:
    """The outcome of a section, as it goes into the JSON.

    Attributes:
        reason: of a failure, a skip, or an end before the time.
    """

    title: str
    status: Status
    seconds: float = 0.0
    reason: str = ""
    facts: Mapping[str, Value] = field(default_factory=dict)
    tables: Mapping[str, list[dict[str, Value]]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def run(section: Section, setting: Any, folder: Path, left_s: float) -> Result:
    """Do a section in a child of this process, which has not touched a GPU and has no threads of torch's.

    Args:
        folder: for the file through which the child answers.
        left_s: time left to the whole check.
    """
    limit_s = min(section.limit_s, left_s)
    if limit_s < _LEAST_S:
        return Result(section.title, "no time", reason="the time of the check was used up")
    file = folder / f"{len(list(folder.iterdir()))}.json"
    child = get_context("fork").Process(target=_in_child, args=(section, setting, file))
    began = time.perf_counter()
    child.start()
    is_late = True
    try:
        child.join(limit_s)
        is_late = child.is_alive()
    finally:  # with the processes that it has started, and where this one is interrupted, too
        if is_late:
            with suppress(ProcessLookupError):
                assert child.pid is not None
                os.killpg(child.pid, signal.SIGKILL)
            child.kill()
            child.join(_END_S)
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    ended = found.pop("status", None)
    result = Result(section.title, ended or "failed", time.perf_counter() - began, **found)
    if is_late and ended is None:  # one that has written its end was late to leave, and no more
        result.status, result.reason = "failed", f"ended after {limit_s:.0f} s"
        if limit_s < section.limit_s:
            result.status = "no time"
    elif ended is None:
        result.reason = f"its process ended with exit code {child.exitcode}"
    return result


def _in_child(section: Section, setting: Any, file: Path) -> None:
    os.setsid()
    if sys.platform == "linux":
        # Out of reach of what ends the check from outside, it would go on with the GPU.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    findings = Findings(file)
    try:
        section.job(setting, findings)
    except SkippedError as reason:
        findings.end("skipped", str(reason))
    except BaseException:  # of any kind: it is a finding, and the other sections go on
        findings.end("failed", "\n".join(traceback.format_exc().strip().splitlines()[-_SHOWN_LINES:]))
    else:
        findings.end("failed" if findings.problems else "passed")


def exit_code(results: list[Result]) -> int:
    """0: all is well; 1: a section failed; 3: none did, but time was too short for some."""
    found = {result.status for result in results}
    return 1 if "failed" in found else 3 if "no time" in found else 0


def page(title: str, intro: str, results: list[Result]) -> str:
    """All of it as Markdown."""
    summary = [[r.title, r.status, f"{r.seconds:.1f}", _first_line(r)] for r in results]
    columns = [Column("section", align="left"), Column("", align="left"), Column("s"), Column("", align="left")]
    parts = [f"# {title}", intro, markdown(Table(columns, summary))]
    for result in results:
        parts.append(f"## {result.title}")
        if result.status in ("skipped", "no time"):
            parts.append(f"{result.status.capitalize()}: {result.reason}")
        if result.problems:
            parts.append("\n".join(f"- **{problem}**" for problem in result.problems))
        if result.facts:
            parts.append(markdown(_as_table([{"": name, " ": _shown(value)} for name, value in result.facts.items()])))
        for name, rows in result.tables.items():
            parts.append(f"{name}\n\n{markdown(_as_table(rows))}" if name else markdown(_as_table(rows)))
        if result.status == "failed" and result.reason:
            parts.append(f"```text\n{result.reason}\n```")
    return "\n\n".join(parts) + "\n"


def _first_line(result: Result) -> str:
    if result.problems:
        return f"{len(result.problems)} × {result.problems[0]}" if len(result.problems) > 1 else result.problems[0]
    return (result.reason.splitlines() or [""])[-1]


def _as_table(rows: Sequence[Mapping[str, Value | Cell]]) -> Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    is_text = {name: any(isinstance(row.get(name), str) for row in rows) for name in names}
    columns = [Column(name, align="left" if is_text[name] else "right") for name in names]
    return Table(columns, [[_shown(row.get(name)) for name in names] for row in rows])


def _written(value: Value) -> Value:
    """The value; as text if JSON has no number for it."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _shown(value: Value | Cell) -> Cell:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else value

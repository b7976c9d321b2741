"""Two workers against one: weak and strong scaling, beside what two processes that never meet reach on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from typing import Any

from benchmarks.bench.gated import Crew, Taken, crew
from benchmarks.bench.ratios import Ratio, note
from benchmarks.bench.setting import Setting
from benchmarks.sections import Findings

__all__ = ["profiles", "strong", "weak"]

_STEPS, _SHOWN = 5, 14
_LONGEST_S = 180.0
_WALL = "wall time"
_OPERATORS = (
    "ms of a step in an operator itself; too many where tensors are large, which lie on fresh pages under a profiler"
)


def weak(setting: Setting, found: Findings) -> None:
    """8 images on one worker and 16 on two, one thread each; the ceiling is two runs of one worker side by side."""
    with _crews(setting, one=(1, 8), other=(1, 8), two=(2, 16)) as crews:
        contests = {"alone": ["one"], "side by side": ["one", "other"], "two ranks": ["two"]}
        turns = [_turn(setting, crews, contests, number) for number in setting.turns(10, _LONGEST_S)]
    note(found, _ratio("weak scaling, 1 to 2 workers", turns, "alone", "two ranks", at_least=0.92))
    note(found, _ratio("weak scaling, ceiling: two runs that never meet", turns, "alone", "side by side"))
    note(found, _ratio("weak scaling, of its ceiling", turns, "side by side", "two ranks"))
    _times(found, turns)


def strong(setting: Setting, found: Findings) -> None:
    """8 images on one worker, on two, and on one with two threads; the ceiling is two runs of 4 images side by side."""
    with _crews(setting, one=(1, 8), two=(2, 8), half=(1, 4), other=(1, 4)) as crews:
        contests = {"alone": ["one"], "two ranks": ["two"], "two threads": ["one"], "side by side": ["half", "other"]}
        turns = [_turn(setting, crews, contests, number) for number in setting.turns(10, _LONGEST_S)]
    note(found, _ratio("strong scaling, 1 to 2 workers", turns, "alone", "two ranks"))
    note(found, _ratio("strong scaling, ceiling: two runs that never meet", turns, "alone", "side by side"))
    note(found, _ratio("strong scaling, one worker with 2 threads", turns, "alone", "two threads"))
    _times(found, turns)


def profiles(setting: Setting, found: Findings) -> None:
    """Operators of a step of both ranks, and of a worker that trains alone, and beside another one."""
    with _crews(setting, one=(1, 8), other=(1, 8), two=(2, 16)) as crews:
        contests = {"alone": ["one"], "side by side": ["one", "other"], "two ranks": ["two"]}
        turns = [
            _turn(setting, crews, contests, number, profiled=number > 0) for number in setting.turns(3, _LONGEST_S)
        ]
    seen: dict[str, Mapping[str, float]] = {}
    for name in contests:
        for rank, taken in enumerate(turns[-1][name]):
            words = f"{name}, {rank}" if len(turns[-1][name]) > 1 else name
            seen[words] = {**taken.operators}
            found.row("ms of a step with the profiler", of=words, wall=1e3 * taken.wall, processor=1e3 * taken.process)
    most = {key: max(each.get(key, 0.0) for each in seen.values()) for one in seen.values() for key in one}
    shown = sorted(most, key=lambda key: -most[key])[:_SHOWN]
    for key in shown:
        row: dict[str, Any] = {name: each.get(key, 0.0) for name, each in seen.items()}
        found.row(_OPERATORS, operator=key, **row)
    rest: dict[str, Any] = {n: sum(ms for key, ms in each.items() if key not in shown) for n, each in seen.items()}
    found.row(_OPERATORS, operator="all others", **rest)


@contextmanager
def _crews(setting: Setting, **wanted: tuple[int, int]) -> Iterator[dict[str, Crew]]:
    """Crews by name, of so many workers and images, at their gates."""
    crews: dict[str, Crew] = {}
    try:
        for name, (workers, images) in wanted.items():
            crews[name] = crew(setting, name, workers=workers, images=images)
        for each in crews.values():
            each.ready()
        for each in crews.values():  # the first steps make what the others find
            each.begin(2)
            each.taken()
        yield crews
    finally:
        for each in crews.values():
            each.end()


def _turn(
    setting: Setting,
    crews: Mapping[str, Crew],
    contests: dict[str, list[str]],
    number: int,
    *,
    profiled: bool = False,
) -> dict[str, list[Taken]]:
    """Each contest once; the other way round in every second turn."""
    found: dict[str, list[Taken]] = {}
    for name in contests if number % 2 else reversed(contests):
        for each in contests[name]:
            threads = 2 if name == "two threads" else 1
            crews[each].begin(2 if setting.tiny else _STEPS, threads=threads, profiled=profiled)
        found[name] = [taken for each in contests[name] for taken in crews[each].taken()]
    return found


def _ratio(
    name: str, turns: list[dict[str, list[Taken]]], base: str, ours: str, at_least: float | None = None
) -> Ratio:
    """Time of `base` in that of `ours`, where the slowest process counts; of a step, whatever its images."""
    ratios = [_slowest(turn[base]) / _slowest(turn[ours]) for turn in turns]
    return Ratio.over(name, ratios, _WALL, at_least=at_least)


def _slowest(taken: list[Taken]) -> float:
    return max(each.wall for each in taken)


def _times(found: Findings, turns: list[dict[str, list[Taken]]]) -> None:
    """Medians: seconds of a step, and what its process computes in them; the rest it waits."""
    for name in turns[0]:
        for rank in range(len(turns[0][name])):
            wall, process = (median(getattr(turn[name][rank], part) for turn in turns) for part in ("wall", "process"))
            row = {"wall": wall, "processor": process, "waits": max(0.0, wall - process)}
            found.row("s of a step", of=name, process=rank, **row)

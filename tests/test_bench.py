"""The ratios of the system: their statistics, their comparison with a committed table, sections that fail, a trial."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import sections
from benchmarks.bench import __main__ as bench
from benchmarks.bench.ratios import Ratio, compare, found_in, note, read, summary
from benchmarks.bench.setting import Setting, Spent, in_blocks
from benchmarks.bench.starts import items
from benchmarks.bench.steps import _Between, _EnoughError
from benchmarks.sections import Findings, Result, Section, SkippedError

ROOT = Path(__file__).parents[1]
COST = Ratio("cost", 1.02, 1.01, 1.03, 9, "processor time", at_most=1.03)
GAIN = Ratio("gain", 0.95, 0.93, 0.97, 9, "wall time", at_least=0.92)
FACT = Ratio("fact", 1.50, 1.50, 1.50, 9, "wall time")
SECONDS = Ratio("start", 12.0, 11.0, 13.0, 3, "wall time", at_most=15.0, in_seconds=True)


def test_a_ratio_has_the_median_and_quartiles_of_its_turns() -> None:
    ratio = Ratio.over("r", [1.0, 1.2, 1.1, 9.0, 1.3], "wall time", at_most=1.2)
    assert (ratio.median, ratio.lower, ratio.upper, ratio.turns) == pytest.approx((1.2, 1.1, 1.3, 5))
    assert ratio.met and ratio.spread == pytest.approx(0.1)
    one = Ratio.over("r", [1.3], "wall time", at_most=1.2)
    assert (one.lower, one.median, one.upper, one.met) == (1.3, 1.3, 1.3, False)
    assert Ratio.over("r", [0.9, 0.9], "wall time", at_least=0.92).met is False and FACT.met is None


def test_blocks_leave_out_an_incomplete_one() -> None:
    assert in_blocks([1, 2, 3, 4, 5], 2) == [3, 7] and in_blocks([1], 2) == []


@pytest.mark.parametrize(
    ("now", "before", "fell", "text"),
    [
        (COST, COST, False, "cost: 1.020, was 1.020"),
        (replace(COST, median=1.039), COST, False, "1.039, was 1.020 (allowance 0.020)"),
        (replace(COST, median=1.041), COST, True, "it fell"),
        (replace(COST, median=0.5), COST, False, "0.500"),
        (replace(GAIN, median=0.90), GAIN, True, "it fell"),
        (replace(GAIN, median=1.50), GAIN, False, "1.500"),
        (replace(FACT, median=0.5), FACT, False, "0.500"),
        # Within the allowance of the comparison, which is wide, and out of the target by more than its own.
        (replace(GAIN, median=0.9, lower=0.89, upper=0.91), replace(GAIN, lower=0.8, upper=1.1), True, "which it met"),
        (replace(GAIN, median=0.8), replace(GAIN, median=0.8), False, "misses its target, ≥ 0.92, as it did before"),
        (None, GAIN, True, "gain: not measured: ended after 300 s"),
    ],
)  # fmt: skip
def test_a_ratio_is_compared_with_an_earlier_one(now: Ratio | None, before: Ratio, fell: bool, text: str) -> None:
    (found,) = compare([now] if now else [], [before], {"gain": "ended after 300 s"})
    assert found.fell is fell and text in found.text


def test_seconds_and_new_ratios_are_not_compared() -> None:
    assert compare([replace(SECONDS, median=99.0), COST, GAIN], [SECONDS, COST]) == compare([COST], [COST])


def result(title: str, *ratios: Ratio, **how: Any) -> Result:
    return Result(title, how.pop("status", "passed"), tables={"ratios": [asdict(ratio) for ratio in ratios]}, **how)


def test_the_table_says_what_is_missed_and_what_failed() -> None:
    text = summary([
        result("A", replace(COST, median=1.2), SECONDS),
        result("B", status="failed", reason="Traceback\nRuntimeError: out of memory"),
        result("C", GAIN, status="no time", reason="ended after 3 s"),
    ])  # fmt: skip
    assert "| cost | processor time | 1.200 | 1.010 – 1.030 | 9 | ≤ 1.03 | **missed** |" in text
    assert "| start | wall time | 12.0 s | 11.0 – 13.0 | 3 | ≤ 15 s | met |" in text
    assert "B: failed, RuntimeError: out of memory" in text and "C: no time, ended after 3 s" in text and "gain" in text


def test_what_is_no_result_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("[]", "{}", '{"sections": [{"tables": {"ratios": [{"name": "r"}]}}]}', "no JSON"):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(ValueError, match=r"no result of this benchmark|Expecting value"):
            read(tmp_path / "other.json")
    for name in ("other.json", "none.json"):
        with pytest.raises(SystemExit):
            bench.main(["--check", str(tmp_path / name)])
    assert "none.json" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------- sections, and the command


def gives(*ratios: Ratio) -> Any:
    def job(setting: Setting, found: Findings) -> None:
        found.row("s of a step", of="one", wall=0.5)
        for ratio in ratios:
            note(found, ratio)

    return job


def breaks(setting: Setting, found: Findings) -> None:
    note(found, COST)
    raise SkippedError("no loader here") if setting.tiny else RuntimeError("out of memory")


def endless(setting: Setting, found: Findings) -> None:
    time.sleep(60)


@pytest.fixture
def of_two(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Section]:
    """The sections of the command, for a test to fill, without frames; a committed result of two is there."""
    known = {"price": Section("Price", gives(COST), 50), "weak": Section("Weak", gives(GAIN, SECONDS), 50)}
    monkeypatch.setattr(bench, "SECTIONS", known)
    monkeypatch.setattr(Setting, "write_shards", lambda setting: None)
    assert bench.main(["--out", str(tmp_path)]) == 0
    (tmp_path / "bench.json").rename(tmp_path / "committed.json")
    return known


def checked(tmp_path: Path, *words: str) -> int:
    return bench.main(["--out", str(tmp_path), "--check", str(tmp_path / "committed.json"), *words])


def test_nothing_fell(of_two: dict[str, Section], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert checked(tmp_path) == 0
    said = capsys.readouterr().out
    assert "cost: 1.020, was 1.020" in said and "gain: 0.950" in said and "FELL" not in said and "start:" not in said
    page = (tmp_path / "bench.md").read_text()
    assert "| s of a step" not in page and "s of a step\n\n| of | wall |" in page and "| in_seconds |" not in page


def test_a_ratio_that_fell_ends_the_command_with_1(
    of_two: dict[str, Section], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_two["weak"] = Section("Weak", gives(replace(GAIN, median=0.8)), 50)
    assert checked(tmp_path) == 1
    said = capsys.readouterr().out
    assert "FELL  gain: 0.800, was 0.950 (allowance 0.040): it fell" in said and "FELL  cost" not in said
    assert checked(tmp_path, "--only", "price") == 0


def test_a_section_that_fails_or_overruns_has_a_line_and_the_others_go_on(
    of_two: dict[str, Section], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sections, "_LEAST_S", 0.1)
    of_two |= {"price": Section("Price", breaks, 50), "late": Section("Late", endless, 0.3)}
    assert bench.main(["--out", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "Price: failed, RuntimeError: out of memory" in said and "Late: failed, ended after 0 s" in said
    assert "| cost |" in said and "| gain |" in said, "what was found before is kept"
    of_two["weak"] = Section("Weak", endless, 0.3)
    assert checked(tmp_path) == 1
    assert "FELL  gain: not measured: ended after 0 s" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------- what is timed


class Slow:
    """A bare loop whose step takes a while of one thread."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def step(self, batch: Any, progress: float) -> float:
        self.at.append(progress)
        began = time.thread_time()
        while time.thread_time() - began < 0.03:
            pass
        return float(batch)


def test_steps_of_two_loops_are_timed_apart() -> None:
    between = _Between(range(9), Slow(), 4, 60.0)  # pyright: ignore[reportArgumentType]
    seen = list[Any]()
    for _ in range(4):
        seen.append(next(between))
        time.sleep(0.01)  # the other loop: it waits, and computes nothing
    with pytest.raises(_EnoughError):
        next(between)
    assert seen == between.losses == [0, 1, 2, 3] and len(between.stack) == len(between.bare) == 4
    assert all(spent.thread >= 0.03 for spent in between.bare)
    assert all(spent.wall >= 0.01 and spent.process < 0.02 for spent in between.stack)


def test_clocks_measure_from_one_moment_to_another() -> None:
    assert Spent(5.0, 3.0, 2.0).since(Spent(1.0, 1.0, 1.5)) == Spent(4.0, 2.0, 0.5)


def test_items_of_a_start_and_of_a_recovery_add_up() -> None:
    def event(time: float, kind: str = "note", text: str = "", **facts: Any) -> dict[str, Any]:
        return {"time": time, "kind": kind, "text": text, **facts}

    first = [
        event(12, "launch"),
        event(15, "phase", workers=[1]),
        event(16, text="learning: all"),
        event(18, call="start"),
    ]
    again = [
        event(31, "restart"),
        event(34, "phase", workers=[1]),
        event(35, text="learning: all"),
        event(36, call="start"),
    ]
    start = items([*first, *again], 10, (0, 20), "Ray")
    assert list(start.values()) == [2, 3, 1, 2, 2] and list(start)[1] == "Ray"
    recovery = items([*first, *again], 30, (5, 38), "a group")
    assert list(recovery.values()) == [1, 3, 1, 1, 2] and list(recovery)[:2] == ["the fault is found", "a group"]


@pytest.mark.extended
@pytest.mark.timeout(1500)
def test_every_section_runs_on_the_smallest_network(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.bench", "--tiny", "--out", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads((tmp_path / "bench.json").read_text())["sections"]
    assert {section["status"] for section in found} == {"passed"} and len(found) == len(bench.SECTIONS)
    assert all(ratio.median > 0 for ratio in found_in(found)) and len(found_in(found)) > 10

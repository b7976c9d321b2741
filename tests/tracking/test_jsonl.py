import json
from pathlib import Path

import pytest

from mgcda_dist.tracking.jsonl import JsonlTracker, read_history, read_lines


def write(path: Path, steps: range, start_step: int = 0) -> None:
    tracker = JsonlTracker(path, start_step)
    for step in steps:
        tracker.log_metrics({"loss/total": 1.0 / (step + 1), "lr/heads": 0.001}, step)
    tracker.close("FINISHED")


def test_one_line_per_step(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.jsonl"
    write(path, range(3))
    lines = path.read_text().splitlines()
    assert len(lines) == 3
    record = json.loads(lines[1])
    assert record["step"] == 1 and record["metrics"] == {"loss/total": 0.5, "lr/heads": 0.001}
    assert record["time"] > 1.6e9


def test_a_line_is_on_disk_when_the_call_returns(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tracker = JsonlTracker(path)
    tracker.log_metrics({"a": 1.0}, 0)
    assert [step for step, _, _ in read_lines(path)] == [0]
    tracker.close("KILLED")


def test_resume_removes_the_steps_that_come_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(10))
    write(path, range(6, 12), start_step=6)
    assert [step for step, _, _ in read_lines(path)] == list(range(12))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl", "record.jsonl"]


def test_a_half_written_last_line_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(3))
    whole = path.read_bytes()
    for cut in (1, 5, 30):
        path.write_bytes(whole[:-cut])
        assert [step for step, _, _ in read_lines(path)] == [0, 1]
        write(path, range(2, 4), start_step=2)
        assert [step for step, _, _ in read_lines(path)] == [0, 1, 2, 3]
        path.write_bytes(whole)


def test_an_untouched_record_is_not_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(3))
    before = path.stat().st_ino
    write(path, range(3, 5), start_step=3)
    assert path.stat().st_ino == before and len(list(read_lines(path))) == 5


def test_numbers_that_json_lacks_survive(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tracker = JsonlTracker(path)
    tracker.log_metrics({"a": float("nan"), "b": float("inf"), "c": float("-inf")}, 0)
    tracker.close("FAILED")
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    history = read_history(path)
    assert history["a"][1][0] != history["a"][1][0]
    assert history["b"] == ([0], [float("inf")]) and history["c"] == ([0], [float("-inf")])
    assert read_history(tmp_path / "absent.jsonl") == {}

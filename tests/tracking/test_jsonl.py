import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mgcda_dist.tracking.jsonl import JsonlTracker, read_calls, read_history, read_lines
from tests.support.disks import Ballast
from tests.support.watched import wait_for


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


def test_on_a_full_disk_the_record_waits_and_is_whole_in_the_end(small_disk: Callable[[str], Path]) -> None:
    disk = small_disk("512k")
    said: list[str] = []
    tracker = JsonlTracker(disk / "metrics.jsonl", warn=said.append)
    picture = disk / "preview.png"
    picture.write_bytes(bytes(5000))
    with Ballast(disk):
        for step in range(80):
            tracker.log_metrics({f"metric {index}": index / 7 for index in range(20)}, step)
        tracker.set_tags({"a": "b" * 5000})
        tracker.log_picture("preview", picture, 3)
        tracker.log_picture("preview", picture, 4)
        assert len(list(read_lines(tracker.path))) < 10
    wait_for(lambda: len(list(read_lines(tracker.path))) == 80, "all lines", 20)
    tracker.log_picture("preview", picture, 5)
    tracker.close("FINISHED")
    assert [step for step, _, _ in read_lines(tracker.path)] == list(range(80))
    assert [call["call"] for _, call in read_calls(disk)] == ["tags", "picture", "end"]
    assert [path.name for path in (disk / "pictures/steps").iterdir()] == ["preview-00000005.png"]
    left_out = "pictures are left out, from preview of step 3 on: No space left on device"
    assert [text for text in said if "pictures" in text] == [left_out]
    assert {text.split("/")[-1].split(" ")[0] for text in said if "is written again" in text} == {
        "metrics.jsonl",
        "record.jsonl",
    }


def test_a_restart_on_a_full_disk_removes_the_steps_that_come_again(small_disk: Callable[[str], Path]) -> None:
    path = small_disk("512k") / "metrics.jsonl"
    write(path, range(200))
    with Ballast(path.parent):
        write(path, range(100, 103), start_step=100)
    assert [step for step, _, _ in read_lines(path)] == list(range(103))


def test_what_is_not_written_at_the_end_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    tracker = JsonlTracker(tmp_path / "metrics.jsonl", warn=said.append)
    monkeypatch.setattr("os.write", lambda handle, data: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    tracker.log_metrics({"a": 1.0}, 0)
    tracker.close("FAILED")
    assert said[-2].endswith("metrics.jsonl lacks 1 line: there was no room to the end")

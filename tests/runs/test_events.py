"""Progress events of an evaluation on workers: one as a set begins, then one every ten seconds."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from mgcda_dist.api.evaluation import followed
from mgcda_dist.cli import progress as cli_progress
from mgcda_dist.cli.progress import shown_progress
from mgcda_dist.runs import events
from mgcda_dist.runs.events import EVENTS, NewLines, append_event, evaluation_progress, read_events


def test_a_set_as_it_begins_and_then_one_word_in_ten_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(events, "monotonic", lambda: now)
    progress, lines = evaluation_progress(partial(append_event, tmp_path / EVENTS)), NewLines(tmp_path / EVENTS)
    for name, done, seconds in (("road", 2, 0), ("road", 4, 9), ("road", 6, 11), ("lost", 2, 12), ("lost", 4, 13)):
        now = 100.0 + seconds
        progress(name, done, 40)
    said = [(event["kind"], event["text"], event["done"], event["total"]) for event in lines.read()]
    assert said == [
        ("progress", "evaluating road: 2 of 40 frames", 2, 40),
        ("progress", "evaluating road: 6 of 40 frames", 6, 40),
        ("progress", "evaluating lost: 2 of 40 frames", 2, 40),
    ]
    assert lines.read() == []


def test_progress_of_workers_is_shown_by_the_waiting_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli_progress, "PLAIN_LINE_EVERY_S", 0.0)
    append_event(tmp_path / EVENTS, "progress", "evaluating old: 1 of 2 frames", done=1, total=2)
    with shown_progress("starting 2 workers") as show, followed(tmp_path, show):
        append_event(tmp_path / EVENTS, "watchdog", "rank 1 waits for rank 0")
        append_event(tmp_path / EVENTS, "progress", "evaluating road: 2 of 40 frames", done=2, total=40)
    assert capsys.readouterr().err == "evaluating road  2/40\n"


def test_an_event_of_a_full_disk_comes_later_and_half_a_line_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / EVENTS
    path.write_bytes(b'{"kind": "note", "te')
    lines = NewLines(path)
    with monkeypatch.context() as patch, caplog.at_level("WARNING"):
        patch.setattr("os.write", lambda handle, data: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        append_event(path, "note", "the disk is full")
    assert "note: the disk is full" in caplog.text
    append_event(path, "note", "next")
    assert [event["text"] for event in read_events(path)] == ["the disk is full", "next"]
    assert [event["text"] for event in lines.read()] == ["the disk is full", "next"]

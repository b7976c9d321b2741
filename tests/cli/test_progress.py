"""Progress without a terminal: a log gets a line per period, and short work none."""

from __future__ import annotations

import pytest

from mgcda_dist.cli import progress as cli_progress
from mgcda_dist.cli.progress import shown_progress


def test_a_log_gets_a_line_per_period(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.0, 10.0, 31.0, 31.0, 40.0, 62.0, 62.0])
    monkeypatch.setattr(cli_progress, "monotonic", lambda: next(seconds))
    with shown_progress("model") as show:
        show(1, 40, "model on road_anomaly")  # after 10 s
        show(2)  # 31
        show(3)  # 40
        show(1, None, "model on lost_and_found")  # 62
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["model on road_anomaly  2/40", "model on lost_and_found  1/40"]


def test_without_a_total(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_progress, "PLAIN_LINE_EVERY_S", 0.0)
    with shown_progress("frames of a video") as show:
        show(7)
    assert capsys.readouterr().err == "frames of a video  7\n"


def test_short_work_prints_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    with shown_progress("frames", 2) as show:
        show(1)
        show(2)
    assert capsys.readouterr().err == ""

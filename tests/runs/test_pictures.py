"""The report at the end of a run: written beside the results, and never the reason for a run to fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from mgcda_dist.runs.folder import RunFolder
from mgcda_dist.runs.pictures import draw_report
from tests.support.configs import plain_config
from tests.support.evaluations import write_evaluated_run


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    write_evaluated_run(tmp_path / "r")
    return RunFolder(plain_config(runs=str(tmp_path)))


def test_a_run_about_to_end_is_reported_as_finished(run: RunFolder) -> None:
    run.results.unlink()  # written after the report
    assert draw_report(run) == run.report
    text = run.report.read_text(encoding="utf-8")
    assert "<td>finished</td>" in text and "data:image/webp" in text


def test_a_report_that_cannot_be_written_costs_a_sentence(run: RunFolder) -> None:
    (run.evaluation / "results.json").write_text("{")
    assert draw_report(run) is None
    assert "there is no report" in run.events.read_text(encoding="utf-8")

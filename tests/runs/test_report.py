"""The report at the end of a run: written beside the results, and never the reason for a run to fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from mgcda_dist.config.schema import Config
from mgcda_dist.runs.folder import RunFolder
from mgcda_dist.runs.report import draw_report
from tests.support.evaluations import write_evaluated_run


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    domains = [{"name": name, "shards": str(tmp_path / name), "per_step": 2} for name in "ab"]
    data = {"class_space": "idd7", "crop_px": (64, 64), "domains": domains}
    content = {"name": "r", "runs": str(tmp_path), "data": data, "model": {"backbone": "x"}, "optim": {"steps": 9}}
    write_evaluated_run(tmp_path / "r")
    return RunFolder(Config.model_validate(content))


def test_a_run_about_to_end_is_reported_as_finished(run: RunFolder) -> None:
    run.results.unlink()  # written after the report
    assert draw_report(run) == run.report
    text = run.report.read_text(encoding="utf-8")
    assert "<td>finished</td>" in text and "data:image/webp" in text


def test_a_report_that_cannot_be_written_costs_a_sentence(run: RunFolder) -> None:
    (run.evaluation / "results.json").write_text("{")
    assert draw_report(run) is None
    assert "there is no report" in run.events.read_text(encoding="utf-8")

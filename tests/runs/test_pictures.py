"""Previews while a run trains, which hold nobody up; the report at its end, never the reason for a run to fail."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mgcda_dist import build
from mgcda_dist.evaluation.job import Evaluation, EvaluationJob
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.runs import pictures
from mgcda_dist.runs.folder import RunFolder
from mgcda_dist.runs.pictures import Previews, draw_report
from tests.support.configs import plain_config
from tests.support.evaluations import evaluate_drawn, write_evaluated_run


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


def test_training_goes_on_while_a_preview_is_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All ranks would wait for rank 0's pen in the next step."""
    pen, result = threading.Event(), evaluate_drawn("val", 1.0, 3, with_anomalies=True)
    assert result is not None

    def evaluated(job: EvaluationJob, *_: object, **__: object) -> Evaluation:
        return Evaluation(job, [result])

    def draw(evaluation: Evaluation, _: Any, path: Path, title: str) -> Path:
        assert pen.wait(60)
        if title.endswith("step 6"):
            raise RuntimeError("no font")
        path.write_text(title)
        return path

    monkeypatch.setattr(pictures, "run_job", evaluated)
    monkeypatch.setattr(pictures, "_draw_panel", draw)
    config = plain_config(evaluation={"sets": [{"name": "val", "shards": "/val"}]})
    logged: list[tuple[str, str, int]] = []
    said: list[str] = []
    job = build.preview_job(config)
    assert job is not None

    def log(name: str, path: Path, step: int) -> None:
        logged.append((name, path.read_text(), step))

    previews = Previews(job, tmp_path, log, said.append)
    previews.draw(nn.Identity(), 4, Collectives(), torch.device("cpu"))
    previews.settle(wait=False)
    assert logged == [], "the picture is not drawn, and training is here"
    pen.set()
    previews.draw(nn.Identity(), 5, Collectives(), torch.device("cpu"))  # the next one waits for the one before
    assert logged == [("preview_val", "r on val, step 4", 4)]
    previews.draw(nn.Identity(), 6, Collectives(), torch.device("cpu"))
    previews.settle()
    assert logged[1:] == [("preview_val", "r on val, step 5", 5)]
    assert said == ["the preview of step 6: left out (RuntimeError: no font)"]

"""`mgcda laws`: what it prints, and its exit code."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from mgcda_dist.cli.main import app
from mgcda_dist.errors import ConfigError


@pytest.mark.slow
def test_a_broken_law_is_an_exit_code_and_a_line_of_json() -> None:
    words = ["laws", "python:tests.support.planted:MeanOverImages", "--quick", "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    report = json.loads(done.stdout)
    (broken,) = [each for each in report["findings"] if each["verdict"] == "broken"]
    assert report["broken"] == 1 and broken["law"] == "1, 6" and broken["number"] > 0.1
    assert "that looks like a mean over images; return the sum" in broken["said"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["plugin:ulre", "--argument", "weight"], "has no ="),
        (["plugin:ulre", "--head", "unknown"], "is no mapping"),
        (["plugin:ulre", "--score", "plugin:ulre_scor"], "did you mean ulre_score"),
        (["configs/methods/ulre.yaml", "model.heads=[]"], "reads extra"),
    ],
)
def test_a_slip_has_a_remedy(words: list[str], says: str) -> None:
    done = CliRunner().invoke(app, ["laws", *words, "--quick"])
    assert isinstance(done.exception, ConfigError) and says in str(done.exception)

"""`mgcda compare` on the terminal and in files; what is missing is one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mgcda_dist.cli.main import app
from mgcda_dist.errors import MgcdaError
from tests.support.runs import write_run

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare") / "runs"
    write_run(folder / "baseline", skill=2.0, mdat={"enabled": False})
    write_run(folder / "full", skill=2.5)
    return folder


def test_tables_sentences_and_files(runs: Path, tmp_path: Path) -> None:
    command = [
        "compare",
        "baseline",
        "full",
        "--runs",
        str(runs),
        "--replicates",
        "100",
        "--out",
        str(tmp_path / "out"),
    ]
    done = RUNNER.invoke(app, command, env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.output
    assert "mdat.enabled" in done.stdout and "road: 12 frames, convention pooled, %" in done.stdout
    assert "road, against baseline: full is better in AP" in done.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"comparison.{k}" for k in ("md", "tex", "json")}


@pytest.mark.parametrize(("form", "start"), [("markdown", "**Para"), ("latex", "% needs"), ("json", "{")])
def test_the_forms_can_be_piped(runs: Path, form: str, start: str) -> None:
    done = RUNNER.invoke(
        app, ["compare", str(runs / "full"), str(runs / "baseline"), "--format", form, "--replicates", "100"]
    )
    assert done.exit_code == 0 and done.stdout.startswith(start) and done.stderr == ""
    if form == "json":
        assert json.loads(done.stdout)["reference"] == "full"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [([], "which runs"), (["ful"], "did you mean full"), (["full", "-r", "x"], "one of full")],
)
def test_what_is_missing_is_said(runs: Path, arguments: list[str], says: str) -> None:
    done = RUNNER.invoke(app, ["compare", "--runs", str(runs), "--replicates", "100", *arguments])
    assert isinstance(done.exception, MgcdaError) and says in str(done.exception)

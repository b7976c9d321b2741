"""`mgcda compare` on the terminal and in files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.commands import invoke, refusal
from tests.support.runs import write_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare") / "runs"
    write_run(folder / "baseline", skill=2.0, mdat={"enabled": False})
    write_run(folder / "full", skill=2.5)
    return folder


def test_tables_sentences_and_files(runs: Path, tmp_path: Path) -> None:
    names = ("baseline", "full", "--runs", runs)
    done = invoke("compare", *names, "--replicates", 100, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "mdat.enabled" in done.stdout and "road: 12 frames, convention pooled, %" in done.stdout
    assert "road, against baseline: full is better in AP" in done.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"comparison.{k}" for k in ("md", "tex", "json")}
    assert "which runs" in str(refusal("compare", "--runs", runs))


@pytest.mark.parametrize(("form", "start"), [("markdown", "**Para"), ("latex", "% needs"), ("json", "{")])
def test_the_forms_can_be_piped(runs: Path, form: str, start: str) -> None:
    done = invoke("compare", runs / "full", runs / "baseline", "--format", form, "--replicates", 100)
    assert done.exit_code == 0 and done.stdout.startswith(start) and done.stderr == ""
    if form == "json":
        assert json.loads(done.stdout)["reference"] == "full"


def test_a_place_that_cannot_be_written_is_told_before_anything_is_read(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mgcda_dist.api.comparison.compare_found", lambda *_, **__: pytest.fail("runs were read"))
    monkeypatch.setattr("mgcda_dist.reports.runs.find_runs", lambda *_, **__: pytest.fail("runs were read"))
    (tmp_path / "afile").touch()
    compared = ("compare", "baseline", "full", "--runs", runs, "--out")
    assert "afile: is a file\n  → give a folder" in str(refusal(*compared, tmp_path / "afile"))
    assert "cannot be written to (Not a directory)" in str(refusal(*compared, tmp_path / "afile/below"))
    reported = ("report", "baseline", "--runs", runs, "--out")
    assert "is a folder\n  → give a file" in str(refusal(*reported, tmp_path))
    assert "afile: is a file\n  → give a folder" in str(refusal(*reported, tmp_path / "afile/x.html"))

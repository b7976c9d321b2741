"""docs/notebooks run from top to bottom, in an empty folder; copies with outputs are left for the site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from docs.site.notebooks import EXECUTED, cells_of, notebook_page
from docs.site.pages import NOTEBOOKS
from tests.conftest import REPOSITORY

PAGES = sorted(REPOSITORY.glob(NOTEBOOKS))
LONG: dict[str, Any] = {"first-run": pytest.mark.extended, "own-everything": pytest.mark.extended}  # minutes


def test_there_are_notebooks_and_they_hold_no_outputs() -> None:
    assert len(PAGES) >= 2
    for page in PAGES:
        cells: list[Any] = cells_of(page)
        assert cells[0]["source"].startswith("# ")
        assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")], page.name


def test_the_page_of_a_notebook_has_its_cells(tmp_path: Path) -> None:
    text = notebook_page(PAGES[0], lambda name, picture: name)
    assert text.startswith("# ") and all(cell["source"].splitlines()[-1] in text for cell in cells_of(PAGES[0]))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", [pytest.param(page, id=page.stem, marks=LONG.get(page.stem, ())) for page in PAGES])
def test_a_notebook_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(page, as_version=4)
    (tmp_path / "work").mkdir()
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path / "work")}}).execute()
    EXECUTED.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, EXECUTED / page.name)

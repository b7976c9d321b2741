"""Notebooks as pages: the cells as they are stored, and what they print where the tests have run them.

Notebooks are kept without outputs. `tests/documents/test_notebooks.py` runs them and leaves copies in build/notebooks;
a page shows the outputs of a copy whose cells are still those of the notebook.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["EXECUTED", "cells_of", "notebook_page"]

EXECUTED = Path(__file__).parents[2] / "build" / "notebooks"


def cells_of(notebook: Path) -> list[dict[str, Any]]:
    """The cells, with `source` as one text."""
    cells: list[dict[str, Any]] = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in cells]


def notebook_page(notebook: Path, keep: Callable[[str, bytes], str]) -> str:
    """Markdown of a notebook.

    Args:
        keep: stores a picture under a name, and returns where a page links to it.
    """
    cells = cells_of(notebook)
    copy = EXECUTED / notebook.name
    if copy.is_file() and [cell["source"] for cell in cells_of(copy)] == [cell["source"] for cell in cells]:
        cells = cells_of(copy)
    parts: list[str] = []
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "markdown":
            parts.append(cell["source"])
            continue
        parts.append(f"```python\n{cell['source']}\n```")
        for output in cell["outputs"]:
            if output.get("name") == "stderr":  # what libraries say of the terminal
                continue
            data = output.get("data", {})
            if "image/png" in data:
                place = keep(f"{notebook.stem}-{number}.png", base64.b64decode(data["image/png"]))
                parts.append(f"![What the cell draws]({place})")
            elif text := "".join(output.get("text", data.get("text/plain", ""))).rstrip():
                parts.append(f"```text\n{text}\n```")
    head, _, rest = "\n\n".join(parts).partition("\n")
    note = f"*A notebook: `docs/notebooks/{notebook.name}`, run by the tests.*"
    return f"{head}\n\n{note}\n{rest}\n"

"""Recipes of a docs page, applied to a copy of the package and of its tests.

A recipe is a section with blocks, each headed by the file it goes to:

    `mgcda_dist/choices.py`, its name:

    ```diff
         "max_logit",
    +    "margin",
    ```

Lines with `+` are added between the others, which must stand together in the file once; `@@` starts another place.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

__all__ = ["apply_recipe", "copy_package"]

_BLOCK = re.compile(r"^`(?P<file>[^`\n]+)`[^\n]*:\n\n```diff\n(?P<hunks>.*?)^```", re.MULTILINE | re.DOTALL)


def copy_package(root: Path, folder: Path) -> Path:
    """The package and its tests, copied to a new folder."""
    for name in ("mgcda_dist", "tests"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "pyproject.toml", folder)
    return folder


def apply_recipe(page: Path, heading: str, copy: Path) -> list[str]:
    """Change the files of a copy as a section of a page says; returns their paths, in the page's order."""
    text = page.read_text(encoding="utf-8")
    section = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section is not None, f"{page.name} has no section {heading!r}"
    changed: list[str] = []
    for block in _BLOCK.finditer(section.group(1)):
        path = copy / block["file"]
        content = path.read_text(encoding="utf-8")
        for hunk in block["hunks"].split("@@\n"):
            lines = hunk.splitlines()
            before = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("+"))
            after = "".join(f"{line[1:]}\n" for line in lines)
            found = f"\n{content}".count(f"\n{before}")
            assert found == 1, f"{page.name}, {heading}: {found} places in {block['file']} for\n{hunk}"
            content = f"\n{content}".replace(f"\n{before}", f"\n{after}")[1:]
        path.write_text(content, encoding="utf-8")
        changed.append(block["file"])
    return changed

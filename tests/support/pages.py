"""A page of the documents, followed word for word in a copy of the repository.

A code block is applied where the line above it names a file: `` `PATH`, a new file: `` or `` `PATH`, below `LINE`: ``,
where LINE is the beginning of a line that the file has once. Blocks of `sh` are commands.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.conftest import REPOSITORY
from tests.support.recipes import copy_package

__all__ = ["Edit", "apply", "commands_of", "copy_of_repository", "edits_of", "run"]

_EDIT = re.compile(r"^`([^`]+)`, (?:a new file|below (`+) ?(.+?) ?\2):\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMANDS = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Edit(NamedTuple):
    """One block of a page: the file, the line that it goes below (empty: it is the whole file), and the text."""

    path: str
    below: str
    text: str


def edits_of(page: Path) -> list[Edit]:
    """The blocks of a page that go to files, in order."""
    found = _EDIT.finditer(page.read_text(encoding="utf-8"))
    return [Edit(match[1], match[3] or "", match[4]) for match in found]


def commands_of(page: Path) -> list[str]:
    """The blocks of commands of a page, in order."""
    return _COMMANDS.findall(page.read_text(encoding="utf-8"))


def copy_of_repository(folder: Path) -> Path:
    """The package, its tests, configurations and documents in another folder."""
    copy_package(REPOSITORY, folder)
    for name in ("configs", "docs"):
        shutil.copytree(REPOSITORY / name, folder / name)
    (folder / "shards").mkdir()
    for name in ("shards/README.md", "README.md"):
        shutil.copyfile(REPOSITORY / name, folder / name)
    return folder


def apply(edits: list[Edit], root: Path) -> None:
    """Make the edits below a folder."""
    for path, below, text in edits:
        file = root / path
        if not below:
            assert not file.exists(), f"{path} is there already"
            file.write_text(text, encoding="utf-8")
            continue
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        places = [number for number, line in enumerate(lines) if line.strip().startswith(below)]
        assert len(places) == 1, f"{path} has {len(places)} lines that begin with {below}"
        lines.insert(places[0] + 1, text)
        file.write_text("".join(lines), encoding="utf-8")


def run(command: str, root: Path) -> str:
    """The output of a shell command in the copy, which must succeed."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(root), "HOME": str(root)}
    done = subprocess.run(
        ["bash", "-euc", command], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout

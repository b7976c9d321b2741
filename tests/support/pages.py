"""A page of the documents, followed word for word in a copy of the repository.

A code block is applied where the line above it names a file: `` `PATH`, a new file: `` or `` `PATH`, below `LINE`: ``,
where LINE is the beginning of a line that the file has once. A block of `diff` stands below `` `PATH`, text: ``; its
lines with `+` are added between the others, which stand together in the file once; `@@` starts another place. Blocks of
`sh` are commands.
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

__all__ = ["Edit", "apply", "commands_of", "copy_of_repository", "edits_of", "run"]

_EDIT = re.compile(
    r"^`([^`]+)`, (?:a new file|below (`+) ?(.+?) ?\2|[^\n]+):\n\n```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
_COMMANDS = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Edit(NamedTuple):
    """One block of a page: the file, the line that it goes below (empty: it is the whole file), language and text."""

    path: str
    below: str
    language: str
    text: str


def edits_of(page: Path, section: str = "") -> list[Edit]:
    """The blocks of a page, or of its section with this heading, that go to files, in order."""
    text = page.read_text(encoding="utf-8")
    if section:
        text = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return [Edit(match[1], match[3] or "", match[4], match[5]) for match in _EDIT.finditer(text)]


def commands_of(page: Path) -> list[str]:
    """The blocks of commands of a page, in order."""
    return _COMMANDS.findall(page.read_text(encoding="utf-8"))


def copy_of_repository(folder: Path) -> Path:
    """The package, its tests, configurations and documents in another folder."""
    for name in ("mgcda_dist", "tests"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    for name in ("configs", "docs"):
        shutil.copytree(REPOSITORY / name, folder / name)
    (folder / "shards").mkdir()
    for name in ("shards/README.md", "README.md"):
        shutil.copyfile(REPOSITORY / name, folder / name)
    return folder


def apply(edits: list[Edit], root: Path) -> None:
    """Make the edits below a folder."""
    for path, below, language, text in edits:
        file = root / path
        if language == "diff":
            file.write_text(_merged(file, text), encoding="utf-8")
            continue
        if not below:
            assert not file.exists(), f"{path} is there already"
            file.write_text(text, encoding="utf-8")
            continue
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        places = [number for number, line in enumerate(lines) if line.strip().startswith(below)]
        assert len(places) == 1, f"{path} has {len(places)} lines that begin with {below}"
        lines.insert(places[0] + 1, text)
        file.write_text("".join(lines), encoding="utf-8")


def _merged(file: Path, hunks: str) -> str:
    """The content of a file with the lines of a `diff` block."""
    content = "\n" + file.read_text(encoding="utf-8")
    for hunk in hunks.split("@@\n"):
        lines = hunk.splitlines()
        before = "".join(f"\n{line[1:]}" for line in lines if not line.startswith("+"))
        assert content.count(f"{before}\n") == 1, f"{content.count(before)} places in {file.name} for\n{hunk}"
        content = content.replace(f"{before}\n", "".join(f"\n{line[1:]}" for line in lines) + "\n")
    return content[1:]


def run(command: str, root: Path) -> str:
    """The output of a shell command in the copy, which must succeed."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(root), "HOME": str(root)}
    done = subprocess.run(
        ["bash", "-euc", command], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout

"""What is installed, and from where: no name on an index that anyone could take, pins with hashes, images by digest."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
BESIDE = {
    "gcsfs": "fsspec's own driver of gs://",
    "{package}": "mgcda_dist.models.weights: one of three packages that it knows",
}
"""What texts tell the user to install beside the pins, and why its name can be trusted."""


def _files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a checkout")
    here = Path(__file__).relative_to(ROOT)
    return [ROOT / name for name in listed.stdout.split("\0") if name and Path(name) != here]


def _installs(text: str) -> list[str]:
    """What the `pip install` commands of a text name: no options, no files of options, nothing local, no wheel."""
    named = []
    for command in re.findall(r"pip3? install((?:[ \t]+(?:\\\n[ \t]*)?[^\s`&;|,)\"]+)+)", text):
        words = re.findall(
            r"'[^']*'|[^\s\\]+", re.sub(r"(?<!\S)(-c|-r|--constraint|--requirement)[ =]\S+", "", command)
        )
        words = words[: words.index("#")] if "#" in words else words
        named += [
            re.split(r"[\[=<>~!]", word.strip("'"))[0]
            for word in words
            if re.match(r"'?[\w{]", word) and not re.match(r"'?(WHEEL\b|\S*\.whl\b)", word)
        ]
    return named


def test_the_reader_of_commands_finds_what_they_would_fetch() -> None:
    assert _installs("pip install 'mgcda-dist[maps]' # x") == ["mgcda-dist"]
    assert _installs("`pip install -c constraints.txt '.[maps]'`, pip install 'WHEEL[maps]', pip install a.whl") == []
    assert _installs("pip install --no-cache-dir -c c.txt mlflow \\\n   boto3==1 && x") == ["mlflow", "boto3"]


def test_no_text_names_a_package_on_an_index_that_is_not_pinned() -> None:
    """Least of all the project's own name: on an index it is free, and whoever takes it runs code at every user."""
    unknown = []
    for path in _files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        unknown += [
            f"{path.relative_to(ROOT)}: {name}" for name in _installs(text) if name not in PINS and name not in BESIDE
        ]
    assert not unknown

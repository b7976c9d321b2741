"""Installed packages and their sources: no name on an index that anyone could take, pins with hashes, digests."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
BESIDE = {
    "gcsfs": "fsspec's own driver of gs://",
    "{package}": "mgcda_dist.models.weights: one of three packages that it knows",
}
"""Names that texts tell the user to install beside the pins, and the reason to trust each."""


def _files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a checkout")
    here = Path(__file__).relative_to(ROOT)
    return [ROOT / name for name in listed.stdout.split("\0") if name and Path(name) != here]


def _installs(text: str) -> list[str]:
    """The names in the `pip install` commands of a text: no options, no files of options, nothing local, no wheel."""
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


LOCKS = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "requirements").glob("*.txt"))}


def _pinned(lock: str) -> dict[str, str]:
    """Package → version of a file of requirements."""
    found = re.findall(r"^([\w.-]+)(?:\[[\w,-]+\])?==([^\s;]+)", lock, re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


@pytest.mark.parametrize("name", LOCKS)
def test_every_file_that_is_installed_has_a_hash(name: str) -> None:
    for requirement in re.split(r"\n(?=\S)", LOCKS[name].strip()):
        assert re.fullmatch(r"[\w.-]+(\[[\w,-]+\])?==\S+( \\\n    --hash=sha256:[0-9a-f]{64})+", requirement), (
            requirement
        )


def test_the_hashes_are_of_the_tested_versions() -> None:
    """`make lock` writes both; the environments of the demo and of the tests are exactly constraints.txt."""
    tested = _pinned(LOCKS["demo"]) | _pinned(LOCKS["dev"]) | _pinned(LOCKS["wandb"])
    assert tested == {canonicalize_name(k): v for k, v in PINS.items()}
    for name in ("build", "mlflow", "tools"):
        pinned = _pinned(LOCKS[name])
        assert not [package for package, version in pinned.items() if PINS.get(package, version) != version]
        wanted = (ROOT / "requirements" / f"{name}.in").read_text(encoding="utf-8").splitlines()
        assert {line for line in wanted if not line.startswith("#")} <= {*pinned}


@pytest.mark.parametrize("name", ["Makefile", "cluster/Dockerfile", "cluster/mlflow/Dockerfile"])
def test_environments_are_made_with_hashes_and_nothing_else(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(r"pip install[^&\n]*", text)
    assert commands
    for command in commands:
        assert "--no-deps" in command, command
        # Make's INSTALL ends in the checkout, or goes on in HASHED.
        local = command.rstrip().endswith((" .", "--no-deps"))
        assert local or "--require-hashes" in command, command
    if name == "Makefile":
        used = re.findall(r"\$\(INSTALL\)(.*)", text)
        assert sorted(used) == [" --no-build-isolation -e .", " --require-hashes --no-build-isolation -r"]


OWN = re.compile(r"(registry\.example\.com/)?mgcda-(dist|mlflow):")
"""Images that the user builds and pushes: their digest is known after that only."""


def test_images_of_others_are_named_by_digest() -> None:
    found: dict[str, str] = {}
    for path in _files():
        if path.is_relative_to(ROOT / "cluster"):
            text = path.read_text(encoding="utf-8")
            for image in re.findall(r"^(?:FROM|[ -]*image:) +(\S+)", text, re.MULTILINE):
                found[image] = path.name
    digests = {image for image in found if re.search(r"@sha256:[0-9a-f]{64}$", image)}
    assert {image.partition(":")[0] for image in digests} == {"python", "postgres", "chrislusf/seaweedfs"}
    assert not {image: where for image, where in found.items() if image not in digests and not OWN.match(image)}


@pytest.mark.parametrize(
    ("does", "code", "says"),
    [
        ("exit 0", 0, "audit: no known vulnerability"),
        ("echo 'six 1.17.0 PYSEC-1' > $out; exit 1", 2, "six 1.17.0 PYSEC-1"),
        ("echo 'ConnectionError: no route' >&2; exit 1", 2, "NOT DONE for requirements/demo.txt"),
        ("echo 'six: not found on PyPI and could not be audited' >&2; exit 1", 2, "could not be audited"),
    ],
)
def test_an_audit_without_an_answer_does_not_pass(tmp_path: Path, does: str, code: int, says: str) -> None:
    """Against a program in pip-audit's place, which writes its findings to a file, and none where it got no answer."""
    program = tmp_path / "bin/pip-audit"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\ncase " $* " in *" --strict "*) ;; *) exit 0;; esac\nfor out in "$@"; do :; done\n{does}\n'
    )
    program.chmod(0o755)
    (tmp_path / ".ready").touch()
    command = ["make", "audit", f"TOOLS={tmp_path}", f"VENV={sys.prefix}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert says in done.stdout + done.stderr and ("no known vulnerability" in done.stdout) == (code == 0)

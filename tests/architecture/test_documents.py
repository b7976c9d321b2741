"""The documents agree with the code: links, commands, keys, the map of the package and the names of its symbols."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

import mgcda_dist
from mgcda_dist.cli.main import app
from mgcda_dist.config.keys import near_key

ROOT = Path(mgcda_dist.__file__).parents[1]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "cluster/*.md", "shards/*.md", "benchmarks/**/*.md")
    for path in ROOT.glob(pattern)
)
SYMBOLS = re.compile(r"\]\(\.\./(mgcda_dist/[\w/.]+\.py)\)((?:[ |,]*`[A-Za-z_][\w.]*`)+)")
MGCDA: Any = typer.main.get_command(app)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_relative_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = {_anchor(line) for line in text.splitlines() if line.startswith("#")}
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        assert not file or (path.parent / file).exists(), f"{_name(path)} links to {target}, which is not there"
        assert file or anchor in headings, f"{_name(path)} links to #{anchor}, and has no such heading"


def _anchor(heading: str) -> str:
    words = re.sub(r"[^\w\- ]", "", heading.lstrip("#").strip().lower())
    return words.replace(" ", "-")


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_imports_in_documents_work(path: Path) -> None:
    for module, names in re.findall(
        r"^ *from (mgcda_dist[\w.]*) import ([\w, ]+)$", path.read_text("utf-8"), re.MULTILINE
    ):
        for name in names.split(","):
            assert hasattr(importlib.import_module(module), name.strip()), f"{_name(path)}: {module} has no {name}"


def test_the_index_lists_every_page() -> None:
    folder = ROOT / "docs"
    listed = set(LINK.findall((folder / "README.md").read_text(encoding="utf-8")))
    missing = {path.relative_to(folder).as_posix() for path in folder.rglob("*.md")} - listed - {"README.md"}
    assert not missing, f"docs/README.md does not list {missing}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_commands_in_documents_exist(path: Path) -> None:
    """Every `mgcda COMMAND --option KEY=VALUE` names a command, its options, and keys of the configuration."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"(?:^ *|`|-- +)mgcda ([a-z]+\b[^`#|\n]*)", text, re.MULTILINE):
        command, words = MGCDA, line.split()
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        assert not (hasattr(command, "commands") and words and words[0].isalpha()), f"there is no `mgcda {line}`"
        options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        options.add("--help")
        for word in words:
            name = word.partition("=")[0].rstrip(",.;:)")
            assert not name.startswith("--") or name in options, f"{_name(path)}: mgcda {command.name} has no {name}"
            if "=" in word and re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", name):
                assert near_key(tuple(name.split("."))) == name, f"{_name(path)}: there is no key {name}"


def test_the_tables_that_programs_write_are_there() -> None:
    parts = [
        (path, part)
        for path in DOCUMENTS
        for part in re.findall(r"<!-- tables -->(.*?)<!-- end -->", path.read_text(encoding="utf-8"), re.DOTALL)
    ]
    assert {_name(path) for path, _ in parts} == {
        "benchmarks/results/methods.md",
        "benchmarks/results/multi_source.md",
        "benchmarks/results/parts.md",
        "benchmarks/results/small_benchmark.md",
        "benchmarks/results/synthetic_to_real.md",
        "benchmarks/results/synthetic_to_real_levels.md",
        "benchmarks/results/synthetic_to_real_source.md",
        "docs/reliability.md",
        "docs/scale.md",
    }
    for path, part in parts:
        assert part.count("\n|") > 3, f"{_name(path)} has no table where its program should have written one"


def test_the_map_of_equations_names_what_exists() -> None:
    text = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
    assert _check_symbols("docs/equations.md", text) > 35


def test_the_walks_name_what_exists() -> None:
    walks = " ".join((ROOT / "docs" / "walks.md").read_text(encoding="utf-8").partition("## Follow a batch")[2].split())
    assert _check_symbols("docs/walks.md", walks) > 40
    unchecked = re.findall(r"`([^`]+)`", SYMBOLS.sub("", walks))
    assert unchecked == ["mgcda train", "mg.train"], "a name that does not stand behind a link to its file"


def test_the_tree_is_the_package() -> None:
    tree = re.search(r"```text\nmgcda_dist/\n(.*?)```", _architecture(), re.DOTALL)
    assert tree is not None
    package = room = ROOT / "mgcda_dist"
    rooms: set[str] = set()
    for line in tree[1].splitlines():
        name, _, text = line.strip().partition(" ")
        path = (room if line.startswith("    ") else package) / name
        if path.parent == package:
            room = path
            rooms.add(path.name)
        for file in (name, *re.findall(r"[\w/]+\.py", text)):
            found = file == name and path.exists(), (path.parent / file).exists(), (path / file).exists()
            assert any(found), f"docs/architecture.md: there is no {file} where {line.strip()!r} says"
    unsaid = {"__init__.py", "__main__.py", "__pycache__", "py.typed"}
    assert rooms - unsaid == {path.name for path in package.iterdir()} - unsaid


def test_the_import_line_is_the_contract() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["id"] == "direction")
    assert f"\n    {' > '.join(layers)}\n" in _architecture()


def _architecture() -> str:
    return (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def _check_symbols(page: str, text: str) -> int:
    """Check every `symbol` behind a link to a file of the package; returns how many there are."""
    checked = 0
    for file, symbols in SYMBOLS.findall(text):
        defined = _definitions(ROOT / file)
        for symbol in re.findall(r"`([^`]+)`", symbols):
            assert symbol in defined, f"{page}: {file} defines no {symbol}"
            checked += 1
    return checked


def _definitions(path: Path) -> set[str]:
    """Names of functions and classes, and of the methods as `Class.method`."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{child.name}" for child in node.body if isinstance(child, ast.FunctionDef)}
    return names

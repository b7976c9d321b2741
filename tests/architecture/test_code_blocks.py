"""Every block of code in the documents: Python runs, commands are those there are, configurations have valid keys.

A block that cannot run has a line above it, `<!-- not run: REASON -->`, which the site shows below the block. Pages
that are followed word for word have tests of their own, which are named here.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml

from docs.site.reference import commands
from mgcda_dist.config.keys import near_key, section_of
from mgcda_dist.config.schema import Config
from tests.architecture.test_documents import DOCUMENTS
from tests.conftest import REPOSITORY

FENCE = re.compile(r"^( *)(`{3,})([^\n`]*)\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\s*$")
SHELL = {"", "sh", "bash", "console"}
SHOWN = {"text", "markdown", "html"}
OF_OTHERS = {
    "docs/add-a-dataset.md": "test_add_a_dataset.py",
    "docs/add-a-dataset-package.md": "test_add_a_dataset.py",
    "docs/network-in-code.md": "test_add_a_network.py",
    "docs/add-a-loss.md": "test_add_a_network.py",
    "docs/add-a-method.md": "../plugins/test_page.py",
    "docs/python.md": "../cluster/test_python_page.py",
    "docs/python-runs.md": "../cluster/test_python_page.py",
}
"""Pages whose Python a test of their own runs."""
YOURS = {"configs/mine.yaml"}
"""Files that a page takes to be the reader's."""
MGCDA = dict(commands())


class Block(NamedTuple):
    """One fenced block: page, line of its fence, language, text without indent, and the reason why it is not run."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str

    @property
    def place(self) -> str:
        """`PAGE:LINE`."""
        return f"{self.page.relative_to(REPOSITORY).as_posix()}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, match.start()) + 1,
            match[3].strip().partition(" ")[0],
            textwrap.dedent(match[4]),
            reason[1] if (reason := NOT_RUN.search(text[: match.start()])) else "",
        )
        for match in FENCE.finditer(text)
    ]


BLOCKS = [block for page in DOCUMENTS for block in blocks_of(page)]


def _of(*languages: str) -> Callable[[Any], Any]:
    chosen = [block for block in BLOCKS if block.language in languages]
    return pytest.mark.parametrize("block", chosen, ids=[block.place for block in chosen])


def test_every_block_is_of_a_language_that_is_checked_here() -> None:
    assert len(BLOCKS) > 60
    known = SHELL | SHOWN | {"python", "yaml", "json", "diff"}
    assert not [f"{block.place}: {block.language}" for block in BLOCKS if block.language not in known]
    for page, test in OF_OTHERS.items():
        named = (Path(__file__).parent / test).read_text(encoding="utf-8")
        assert Path(page).name in named, f"{test} does not name {page}"


# --------------------------------------------------------------------------------------------------------------- Python


PYTHON = [page for page in DOCUMENTS if any(block.language == "python" for block in blocks_of(page))]


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_python_runs(page: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page, in order, in one program; `runs/small_real` is a run, `image` and `images` are pictures."""
    blocks = [block for block in blocks_of(page) if block.language == "python"]
    if page.relative_to(REPOSITORY).as_posix() in OF_OTHERS:
        return
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/small_real").symlink_to(run)
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    names: dict[str, Any] = {"__name__": "page", "image": image, "images": image[None]}
    for block in blocks:
        if not block.not_run:
            try:
                exec(compile(block.text, block.place, "exec"), names)
            except Exception as error:
                error.add_note(f"{block.place}: mend it, or say above it why it cannot run: <!-- not run: REASON -->")
                raise


# ---------------------------------------------------------------------------------------------------------------- shell


@_of(*SHELL)
def test_commands_are_well_formed(block: Block) -> None:
    checked = subprocess.run(
        ["bash", "-n"], input=_placeholders(block.text), capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, f"{block.place}: {checked.stderr}"
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^ *make ([a-z-]+)", block.text, re.MULTILINE):
        assert f".PHONY: {target}\n" in makefile, f"{block.place}: there is no make {target}"
    for path in re.findall(r"(?<![\w/.])((?:configs|benchmarks|examples|cluster)/[\w/.-]+\.\w+)", block.text):
        page = block.page.read_text(encoding="utf-8")
        made = path in YOURS or f"# {path}" in page or f"`{path}`, a new file" in page
        assert (REPOSITORY / path).exists() or made, f"{block.place}: there is no {path}"


@_of(*SHELL)
def test_command_lines_of_mgcda_are_understood(block: Block) -> None:
    """As typer understands them: the command, its arguments, options and the kinds of their values."""
    for words in mgcda_lines(block.text):
        name = "mgcda"
        while words and f"{name} {words[0]}" in MGCDA:
            name = f"{name} {words.pop(0)}"
        command = MGCDA[name]
        if "--help" in words:
            continue
        assert not hasattr(command, "commands"), f"{block.place}: there is no {name} {shlex.join(words[:1])}"
        try:
            command.make_context(name, list(words))
        except Exception as error:  # of typer's own click, which has no public name
            message = getattr(error, "message", str(error))
            assert "does not exist" in message, f"{block.place}: {name} {shlex.join(words)}: {message}"


def mgcda_lines(text: str) -> list[list[str]]:
    """The words of each `mgcda …`, also behind `--` of another command; without comments, pipes and placeholders."""
    found: list[list[str]] = []
    for line in _placeholders(text).replace("\\\n", " ").splitlines():
        match = re.search(r"(?:^|-- |bin/|^[A-Z_]+=\S+ )\s*mgcda (.*)", line)
        if match:
            lexer = shlex.shlex(match[1], posix=True, punctuation_chars="|&;<>")
            lexer.whitespace_split, lexer.commenters = True, ""
            words: list[str] = []
            for word in lexer:
                if word[0] in "|&;<>#":
                    break
                words.append(word)
            found.append([word for word in words if word != "…"])
    return found


def _placeholders(text: str) -> str:
    """`…` stands for more of the same, and `git clone …` is no command to check."""
    return text.replace("git clone …", "git clone URL").replace("cd …", "cd FOLDER")


# ------------------------------------------------------------------------------------------------- configurations, JSON


@_of("yaml", "json")
def test_configurations_have_keys_of_the_schema(block: Block) -> None:
    content = yaml.safe_load(block.text.replace("…", "0"))
    if not isinstance(content, dict) or not set(content) & set(Config.model_fields):
        return
    assert _check_keys(content, ()), block.place


def _check_keys(value: Any, path: tuple[str, ...]) -> int:
    """Assert that every key is known; returns how many there are. Keys of free mappings are the user's."""
    checked = 0
    for key, below in value.items():
        name = (*path, str(key))
        if name == ("base",):
            continue
        assert near_key(name) == ".".join(name), f"there is no key {'.'.join(name)}"
        checked += 1
        section: Any = Config
        for part in name:
            section = section and section_of(section, part)
        if section is not None:
            for entry in below if isinstance(below, list) else [below]:
                checked += _check_keys(entry, name) if isinstance(entry, dict) else 0
    return checked


def test_a_wrong_block_does_not_pass(tmp_path: Path) -> None:
    """Each check above refuses what it is there for."""
    page = REPOSITORY / "README.md"
    for text in (
        "mgcda train",
        "mgcda trian x.yaml",
        "mgcda export a b --formats x",
        "mgcda shards show a --count=many",
    ):
        with pytest.raises(AssertionError):
            test_command_lines_of_mgcda_are_understood(Block(page, 1, "sh", text, ""))
    for text in ("make everything", "mgcda train configs/none.yaml", "if"):
        with pytest.raises(AssertionError):
            test_commands_are_well_formed(Block(page, 1, "sh", text, ""))
    for text in ("optim: {stepz: 1}", "data: {streams: [{names: a}]}"):
        with pytest.raises(AssertionError):
            test_configurations_have_keys_of_the_schema(Block(page, 1, "yaml", text, ""))

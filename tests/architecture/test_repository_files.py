"""The repository's files for its host fit their schemas, call what exists, and agree about the version."""

from __future__ import annotations

import importlib.util
import json
import re
from importlib import resources
from types import ModuleType
from typing import Any

import pytest
import yaml
from jsonschema.validators import validator_for

from mgcda_dist import __version__
from tests.conftest import REPOSITORY

GITHUB = REPOSITORY / ".github"
FILES = {
    "CITATION.cff": "citation-file-format",
    ".github/dependabot.yml": "dependabot",
    ".github/ISSUE_TEMPLATE/config.yml": "github-issue-config",
    **{f".github/ISSUE_TEMPLATE/{name}.yml": "github-issue-forms" for name in ("fault", "proposal", "result")},
    **{f".github/workflows/{name}.yml": "github-workflows" for name in ("audit", "checks")},
}
"""File → name of its schema among those that check-jsonschema brings."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2 in one thing: `on` is a word."""


_LETTERS = {letter: list(found) for letter, found in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:bool" or letter in "tTfF"]
    for letter, found in _LETTERS.items()
}


def _content(name: str) -> Any:
    return yaml.load((REPOSITORY / name).read_text(encoding="utf-8"), _Loader)


def test_every_file_is_checked() -> None:
    there = {path.relative_to(REPOSITORY).as_posix() for path in GITHUB.rglob("*.yml")} | {"CITATION.cff"}
    assert there == {*FILES}


@pytest.mark.parametrize("name", FILES)
def test_the_file_fits_its_schema(name: str) -> None:
    schemas = resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((schemas / f"{FILES[name]}.json").read_text(encoding="utf-8"))
    validator = validator_for(schema)
    assert not [error.message for error in validator(schema).iter_errors(_content(name))]
    assert list(validator(schema).iter_errors({"unknown": 1})), "a schema that refuses nothing"


def test_workflows_run_targets_that_exist_on_actions_of_a_commit() -> None:
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    found: list[str] = []
    for path in (GITHUB / "workflows").glob("*.yml"):
        text = path.read_text(encoding="utf-8")
        found += re.findall(r"- run: make ([a-z-]+)$", text, re.MULTILINE)
        actions = re.findall(r"uses: (\S+)", text)
        assert actions and all(re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", action) for action in actions)
    assert {"lint", "types", "imports", "test", "docs", "release", "audit"} <= set(found) <= set(targets)


def test_forms_are_asked_for_what_the_commands_print() -> None:
    fault = _content(".github/ISSUE_TEMPLATE/fault.yml")
    fields = {part["id"]: part for part in fault["body"] if "id" in part}
    required = {name for name, part in fields.items() if part.get("validations", {}).get("required")}
    assert required == {"what", "reproduce", "version"}


def test_the_version_stands_in_one_place() -> None:
    assert _content("CITATION.cff")["version"] == __version__ == release().version()
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert release().notes(__version__, changelog)
    with pytest.raises(SystemExit, match=r"no section `## \[9\.9\.9\] - YYYY-MM-DD`"):
        release().notes("9.9.9", changelog)
    text = "## [Unreleased]\n\n## [1.0.0] - 2030-01-02\n\n### Added\n\n- b\n\n## [0.9.0] - 2029-01-02\n\n- a\n"
    assert release().notes("1.0.0", text) == "### Added\n\n- b\n"


def test_archives_are_judged_by_what_must_and_must_not_be_there() -> None:
    must = ("a/b.py", "*.dist-info/LICENSE")
    there = ["a/b.py", "x-1.dist-info/LICENSE", "mgcda_dist/pretrained/model.safetensors"]
    assert release().problems_of(there, must) == []
    names = ["a/b.py", "a/__pycache__/b.cpython-311.pyc", "runs/x", "a/model.safetensors", "x.dist-info/y/LICENSE"]
    assert release().problems_of(names, must) == [
        "lacks *.dist-info/LICENSE",
        "holds a/__pycache__/b.cpython-311.pyc",
        "holds runs/x",
        "holds a/model.safetensors",
    ]


def release() -> ModuleType:
    """The program of `make release`."""
    spec = importlib.util.spec_from_file_location("release", REPOSITORY / ".ci/release.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

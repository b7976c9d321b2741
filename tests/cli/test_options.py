"""Messages of the library on the command line: the command's own option stands where the library names an argument."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from pydantic import BaseModel

from mgcda_dist.cli.main import app
from mgcda_dist.cli.options import with_options
from mgcda_dist.config.keys import section_of
from mgcda_dist.config.schema import Config
from mgcda_dist.errors import ConfigError
from tests.support.commands import typed

_MGCDA = typer.main.get_command(app)


@pytest.mark.parametrize(
    ("message", "words", "shown"),
    [
        ("a: changed\n  → or choose `override_config`", "train a.yaml", "a: changed\n  → or choose --override-config"),
        ("name: is bad\n  → another `name`", "sweep a.yaml", "--name: is bad\n  → another --name"),
        ("threshold: 'x'", "predict NET", "--threshold: 'x'"),
        ("threshold: 'x'", "train a.yaml", "threshold: 'x'"),
        ("x\n  → give `uri`", "sync runs/a", "x\n  → give --mlflow-uri"),
        ("x\n  → `overwrite`", "shards write a b", "x\n  → --overwrite"),
        ("x\n  → write it `unlabelled`", "shards verify a", "x\n  → write it `unlabelled`"),
        ("x: is `must`\n  → `mgcda calibrate a`", "train a", "x: is `must`\n  → `mgcda calibrate a`"),
    ],
)
def test_an_argument_is_shown_as_the_option_of_the_command(message: str, words: str, shown: str) -> None:
    assert with_options(message, _MGCDA, words.split()) == shown


def _commands(program: Any = _MGCDA, words: str = "") -> Iterator[tuple[str, dict[str, str]]]:
    """Words of every command, and its options by the name of their parameter."""
    children = getattr(program, "commands", {})
    for name, child in children.items():
        yield from _commands(child, f"{words} {name}".strip())
    if not children:
        yield words, {each.name: each.opts[0] for each in program.params if each.opts[0].startswith("--")}


def test_no_option_of_another_command_is_shown() -> None:
    """`skip` of data.on_bad_sample is no --skip, which only `mgcda shards write` has."""
    commands = dict(_commands())
    every = {name for own in commands.values() for name in own}
    for words, own in commands.items():
        for name in sorted(every - own.keys()):
            message = f"{name}: x\n  → `{name}`"
            assert with_options(message, _MGCDA, words.split()) == message, words


def _descriptions(section: type[BaseModel], path: str = "") -> Iterator[tuple[str, str]]:
    for name, info in section.model_fields.items():
        yield f"{path}{name}", info.description or ""
        if below := section_of(section, name):
            yield from _descriptions(below, f"{path}{name}.")


def test_no_meaning_of_a_key_becomes_an_option_of_a_command_that_takes_keys() -> None:
    """`name` of a stream is not the --name of a sweep."""
    for words, own in _commands():
        if not any("KEY=VALUE" in (each.metavar or "") for each in _running(words).params):
            continue
        for key, text in _descriptions(Config):
            assert not own.keys() & set(re.findall(r"`(\w+)`", text)), f"mgcda {words}: {key}: {text}"


def _running(words: str) -> Any:
    program: Any = _MGCDA
    for word in words.split():
        program = program.commands[word]
    return program


def test_resuming_with_another_configuration_names_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ConfigError("runs/a/config.yaml", "another configuration", "choose `override_config` to resume")

    monkeypatch.setattr("mgcda_dist.config.load.load_config", refuse)
    done = typed("train", "a.yaml")
    assert done.returncode == 2 and "choose --override-config to resume" in done.stderr


@pytest.mark.parametrize("text", ["pooled,per_image", "pooled, per_image", " pooled , per_image "])
def test_names_are_read_with_blanks_around_them(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """… by `mgcda evaluate --convention` as by every other option that takes names."""
    given: dict[str, Any] = {}

    def options(**values: Any) -> None:
        given.update(values)
        raise ConfigError("there", "enough")

    monkeypatch.setattr("mgcda_dist.runs.evaluation_request.EvaluationOptions", options)
    typed("evaluate", "runs/a", "--convention", text)
    assert given["conventions"] == ["pooled", "per_image"]

"""Messages of the library on the command line: the command's own option stands where the library names an argument."""

from __future__ import annotations

import pytest
import typer

from mgcda_dist.cli.main import app
from mgcda_dist.cli.options import with_options
from mgcda_dist.errors import ConfigError
from tests.support.commands import typed


@pytest.mark.parametrize(
    ("message", "words", "shown"),
    [
        ("a: changed\n  → or choose `override_config`", "train a.yaml", "a: changed\n  → or choose --override-config"),
        ("name: is bad\n  → another `name`", "sweep a.yaml", "--name: is bad\n  → another --name"),
        ("threshold: 'x'", "predict NET", "--threshold: 'x'"),
        ("threshold: 'x'", "train a.yaml", "threshold: 'x'"),
        ("x\n  → give `uri`", "sync runs/a", "x\n  → give --mlflow-uri"),
        ("x\n  → `overwrite`", "shards write a b", "x\n  → --overwrite"),
        ("x\n  → write it `unlabelled`", "shards verify a", "x\n  → write it --unlabelled"),
        ("x: is `must`\n  → `mgcda calibrate a`", "train a", "x: is `must`\n  → `mgcda calibrate a`"),
    ],
)
def test_an_argument_is_shown_as_the_option_of_the_command(message: str, words: str, shown: str) -> None:
    assert with_options(message, typer.main.get_command(app), words.split()) == shown


def test_resuming_with_another_configuration_names_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ConfigError("runs/a/config.yaml", "another configuration", "choose `override_config` to resume")

    monkeypatch.setattr("mgcda_dist.config.load.load_config", refuse)
    done = typed("train", "a.yaml")
    assert done.returncode == 2 and "choose --override-config to resume" in done.stderr

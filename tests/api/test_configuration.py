"""Configurations from a program: files, content, and changes in every form."""

from __future__ import annotations

from pathlib import Path

import pytest

from mgcda_dist.api.configuration import load_config
from mgcda_dist.errors import ConfigError
from tests.support.configs import plain_content, write_config


def test_changes_by_key_by_section_and_as_on_the_command_line(tmp_path: Path):
    file = write_config(tmp_path / "c.yaml", plain_content())
    by_key = load_config(file, {"optim.steps": 7, "data.streams.1.per_step": 6, "runs": tmp_path})
    assert (by_key.optim.steps, by_key.data.streams[1].per_step, by_key.runs) == (7, 6, str(tmp_path))
    in_words = load_config(file, ["optim.steps=7", "data.streams.1.per_step=6", f"runs={tmp_path}"])
    by_section = load_config(file, "data.streams.1.per_step=6", optim={"steps": 7}, runs=tmp_path)
    assert by_key == in_words == by_section
    for changed in (load_config(by_key, optim={"lr_heads": 0.5}), load_config(by_key, {"optim": {"lr_heads": 0.5}})):
        assert (changed.optim.steps, changed.optim.lr_heads) == (7, 0.5), "what a section does not name stays"


def test_content_has_a_base_and_stays_the_callers_own(tmp_path: Path):
    file = write_config(tmp_path / "c.yaml", plain_content())
    content = {"base": str(file), "optim": {"steps": 3}, "model": {"backbone": "y"}}
    found = load_config(content, seed=4)
    assert (found.optim.steps, found.model.backbone, found.seed, found.name) == (3, "y", 4, "r")
    assert content == {"base": str(file), "optim": {"steps": 3}, "model": {"backbone": "y"}}
    assert load_config(found) == found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim.step": 3}, "optim.step=3: unknown key 'optim.step'.*did you mean 'optim.steps'"),
        ({"data.streams.9.per_step": 3}, "'9' is no item of a list with 2 items"),
        (["optim.steps"], "not of the form key=value"),
        ({"optim.steps": "many"}, "optim.steps = 'many': input should be a valid integer"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(changes, message: str):
    with pytest.raises(ConfigError, match=message):
        load_config(plain_content(), changes)
    with pytest.raises(ConfigError, match="backbone"):
        load_config(plain_content(), model={"backbone": None})

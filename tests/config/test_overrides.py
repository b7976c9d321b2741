"""Overrides: a mistake that one has made is said with it, wherever the key that the message names is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mgcda_dist.config.load import load_config
from mgcda_dist.config.overrides import overrides_of, with_overrides, without_each
from mgcda_dist.config.sweep import Sweep, plan_runs
from mgcda_dist.errors import ConfigError
from tests.support.configs import plain_content, write_config


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_config(tmp_path / "t.yaml", plain_content(mdat={"enabled": True}))


@pytest.mark.parametrize(
    ("overrides", "where", "problem"),
    [
        (["optim.steps=9", "teachr.enabled=true"], "command line, 'teachr.enabled=true'", "unknown key 'teachr'"),
        (["data.streams.1.domain=a", "name=x"], "command line, 'data.streams.1.domain=a'", "mdat.enabled: domain"),
        (["data.streams.0.domain=x", "data.streams.1.domain=x"],
         "command line, 'data.streams.0.domain=x' and command line, 'data.streams.1.domain=x'", "mdat.enabled: domain"),
        (["optim.steps=nine"], "command line, 'optim.steps=nine'", "optim.steps = 'nine'"),
        (["cacl.quue_rows=9"], "command line, 'cacl.quue_rows=9'", "did you mean 'cacl.queue_rows'"),
        (["data.streams.1.per_step=1", "scaling.workers=2"],
         "command line, 'data.streams.1.per_step=1' and command line, 'scaling.workers=2'", "data.streams: 3 images"),
    ],
)  # fmt: skip
def test_a_mistake_is_said_with_the_override_that_made_it(
    file: Path, overrides: list[str], where: str, problem: str
) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(file, [*overrides, "seed=2"])
    assert error.value.where == where and problem in error.value.problem
    changes = {key: int(value) if value.isdigit() else value for key, _, value in (o.partition("=") for o in overrides)}
    with pytest.raises(ConfigError) as error:
        load_config(file, {**changes, "seed": 2})
    assert error.value.where == where.replace("command line, ", "").replace("'", "")


def test_a_mistake_of_the_file_is_said_with_its_line(file: Path) -> None:
    file.write_text(file.read_text().replace("optim:", "optmi:"))
    with pytest.raises(ConfigError) as error:
        load_config(file, ["cacl.enabled=false"])
    assert error.value.where.startswith(f"{file}:") and "did you mean 'optim'" in error.value.problem


def test_overrides_leave_the_content_as_it_is() -> None:
    content, one = {"a": [{"b": 1}]}, object()
    lines: dict[tuple[str | int, ...], str] = {}
    assert with_overrides(content, overrides_of({"a.0.b": one}), lines) == {"a": [{"b": one}]}
    assert content == {"a": [{"b": 1}]}
    assert list(lines) == [("a", 0, "b")]
    assert list(without_each(content, overrides_of(["c={d: 1}", "a.0.b=2"]))) == [
        ("command line, 'c={d: 1}'", {"a": [{"b": 2}]}),
        ("command line, 'a.0.b=2'", {"a": [{"b": 1}], "c": {"d": 1}}),
    ]
    needed = ["a=[{b: 1}, {b: 2}]", "a.1.b=3"]
    assert [place for place, _ in without_each(content, overrides_of(needed))] == ["command line, 'a.1.b=3'"]


BELOW = {
    "optim": {"steps": 9, "lr_heads": 0.5},
    "loss": {"outlier": "python:x:Loss", "arguments": {"margin": 1, "cap": {"low": 2, "high": 3}}},
    "data": {"augment": {"scale": [1, 2], "flip": 0.25}},
}


@pytest.mark.parametrize(
    "above",
    [
        {"optim": {"steps": 3}},
        {"loss": {"arguments": {"cap": {"low": 7}}}},
        {"loss": {"arguments": {"other": 1}}, "data": {"augment": {"scale": [1, 1]}}},
        {"data": {"augment": {"own": ["python:x:f"]}}, "optim": {"lr_heads": 1, "steps": 4}},
    ],
)
def test_sections_of_overrides_merge_as_those_of_a_file_with_a_base(
    tmp_path: Path, above: dict[str, dict[str, Any]]
) -> None:
    below = write_config(tmp_path / "below.yaml", plain_content(**BELOW))
    expected = load_config(write_config(tmp_path / "above.yaml", {"base": "below.yaml", **above})).config
    assert load_config(below, above).config == expected
    assert load_config(below, [f"{key}={json.dumps(value)}" for key, value in above.items()]).config == expected
    deeper = {f"{key}.{name}": value for key, section in above.items() for name, value in section.items()}
    assert load_config(below, deeper).config == expected
    rows = {"a": {"config": str(below), "set": above}}
    (run,) = plan_runs(Sweep.model_validate({"name": "s", "rows": rows, "set": {"optim.lr_backbone": 0.125}}))
    assert run.config.optim == expected.optim.model_copy(update={"lr_backbone": 0.125})
    assert (run.config.loss, run.config.data) == (expected.loss, expected.data)


def test_items_of_lists_merge_too_and_an_empty_mapping_empties(file: Path) -> None:
    assert load_config(file, ["data.streams.1={per_step: 4}"]).config.data.streams[1].name == "b"
    arguments = ["loss={outlier: 'python:x:Loss', arguments: {margin: 1}}", "loss.arguments={}"]
    assert load_config(file, arguments).config.loss.arguments == {}


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("data.streams.².per_step=1", "'²' is no item of a list with 2 items"),
        ("data.streams.٣.per_step=1", "'٣' is no item of a list with 2 items"),
        ("data.streams.-1.per_step=1", "'-1' is no item of a list with 2 items"),
        ("data.streams." + "1" * 5000 + "=1", "is no item of a list with 2 items"),
        ("data.streams..per_step=1", "'' is no item of a list with 2 items"),
        ("data.streams.1x=1", "'1x' is no item of a list with 2 items"),
        ("data.crop_px.0.x=1", "data.crop_px.0: input should be a valid integer"),
        ("optim.².x=1", "unknown key 'optim.²'"),
        ("data.class_space={names: [a], ids: {own: {0: a}}, map: {²: a}}", "map.²: no class to map"),
    ],
)
def test_a_position_that_is_none_is_refused(file: Path, override: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(file, [override])
    assert says in str(error.value)

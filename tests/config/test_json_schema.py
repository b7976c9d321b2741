"""JSON schemas for editors: they refuse names, kinds and missing keys that loading refuses, and nothing else."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from mgcda_dist.config.json_schema import schema_of
from tests.support.configs import tiny_content

CONFIG = jsonschema.Draft202012Validator(schema_of("config"))
SWEEP = jsonschema.Draft202012Validator(schema_of("sweep"))


def _problems(content: dict[str, Any]) -> list[str]:
    return [f"{'.'.join(map(str, error.path))}: {error.message}" for error in CONFIG.iter_errors(content)]


def test_a_whole_configuration_fits() -> None:
    assert _problems(tiny_content("shards")) == []


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"model": {"bakbone": "x"}}, "model: Additional properties are not allowed ('bakbone' was unexpected)"),
        ({"optim": {"steps": 0}}, "optim.steps: 0 is less than the minimum of 1"),
        ({"model": {"weights": "imagenet"}}, "model.weights: 'imagenet' does not match"),
    ],
)
def test_a_mistake_is_marked(sections: dict[str, Any], says: str) -> None:
    assert any(problem.startswith(says) for problem in _problems(tiny_content("shards", **sections)))


def test_a_base_may_bring_any_key_of_a_section_but_not_of_an_item() -> None:
    stream = {"name": "a", "shards": "s"}
    assert _problems({"base": "demo.yaml", "optim": {"lr_heads": 1.0}, "data": {"streams": [stream]}}) == [
        "data.streams.0: 'per_step' is a required property"
    ]
    best = {"set": {"shards": "val"}}
    assert _problems({"base": "demo.yaml", "checkpoint": {"best": best}}) == []
    alone = _problems({"name": "a", "optim": {"lr_heads": 1.0}, "checkpoint": {"best": best}})
    assert [problem for problem in alone if "required" in problem] == [
        ": 'data' is a required property",
        ": 'model' is a required property",
        "optim: 'steps' is a required property",
        "checkpoint.best.set: 'name' is a required property",
    ]


def test_a_row_of_a_sweep_is_a_file_or_a_section() -> None:
    rows = {"a": "a.yaml", "b": {"config": "a.yaml", "set": {"optim.steps": 3}, "seeds": [1]}}
    assert SWEEP.is_valid({"rows": rows}) and not SWEEP.is_valid({"rows": {"a": {"conf": "a.yaml"}}})
    assert not SWEEP.is_valid({"name": "x"}) and not SWEEP.is_valid({"rows": {}})

"""Every shipped configuration names its schema in its first line, the schemas are those of the models, and it fits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mgcda_dist.config.json_schema import SCHEMA_FILES, Kind, editor_line, schema_of, schema_text
from mgcda_dist.config.parse import read_yaml
from mgcda_dist.config.sweep import is_sweep_file
from tests.conftest import REPOSITORY
from tests.support.commands import invoke

CONFIGS = REPOSITORY / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))


@pytest.mark.parametrize("kind", SCHEMA_FILES)
def test_the_schema_is_that_of_the_models(kind: Kind) -> None:
    file = CONFIGS / SCHEMA_FILES[kind]
    command = f"mgcda config schema{' --sweep' if kind == 'sweep' else ''}"
    assert file.read_text(encoding="utf-8") == schema_text(kind), f"write it anew: {command} > configs/{file.name}"
    assert invoke(*command.split()[1:]).stdout == schema_text(kind)
    jsonschema.Draft202012Validator.check_schema(schema_of(kind))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_each_configuration_names_its_schema_and_fits_it(path: Path) -> None:
    kind: Kind = "sweep" if is_sweep_file(path) else "config"
    address = os.path.relpath(CONFIGS / SCHEMA_FILES[kind], path.parent)
    assert path.read_text(encoding="utf-8").splitlines()[0] == editor_line(address)
    jsonschema.Draft202012Validator(schema_of(kind)).validate(_as_json(read_yaml(path)))


def _as_json(value: Any) -> Any:
    return {str(k): _as_json(v) for k, v in value.items()} if isinstance(value, dict) else value

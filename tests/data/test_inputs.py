"""The list of the data of a run: its form on disk, and what a damaged file is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mgcda_dist.data.inputs import Role, RunInput, read_inputs, write_inputs
from mgcda_dist.errors import MgcdaError


def test_the_file_has_the_keys_that_runs_have_always_had(tmp_path: Path) -> None:
    path = tmp_path / "manifests.json"
    assert read_inputs(path) == []
    identity = {"folder": "/s", "dataset": "d", "split": "val", "samples": 8, "shards": 1, "digest": "c" * 64}
    content = {f"{role}/a/b": identity for role in (
        "train", "paste", "eval", "eval_paste", "eval_validation", "eval_validation_paste"
    )}  # fmt: skip
    path.write_text(json.dumps(content))
    inputs = read_inputs(path)
    assert [each.role for each in inputs] == list(Role) and {each.name for each in inputs} == {"a/b"}
    assert [each.role for each in inputs if each.role.is_training] == [Role.TRAIN, Role.PASTE]
    assert [each.role.kind for each in inputs] == ["frames", "objects"] * 3
    path.unlink()
    write_inputs(inputs, path)
    assert json.loads(path.read_text()) == content


@pytest.mark.parametrize("text", ["{", "[]", '{"drive/a": {}}', '{"train/a": {"digest": "c"}}', '{"train/a": 3}'])
def test_a_damaged_file_is_an_error_of_ours(text: str, tmp_path: Path) -> None:
    (tmp_path / "manifests.json").write_text(text)
    with pytest.raises(MgcdaError, match="no list of the data"):
        read_inputs(tmp_path / "manifests.json")
    assert RunInput(Role.EVAL, "a", "/s", "d", "val", 8, 1, "c").key == "eval/a"

"""Errors for users: place, value and remedy, also after pickling."""

from __future__ import annotations

import pickle

import pytest

from mgcda_dist.errors import CheckpointError, ConfigError, MgcdaError, ShardError, in_one_line


@pytest.mark.parametrize("kind", [MgcdaError, ConfigError, ShardError, CheckpointError])
def test_message_and_fields_also_after_pickling(kind: type[MgcdaError]):
    error = kind("demo.yaml:3", "unknown key 'lr'", "did you mean lr_heads?")
    for each in (error, pickle.loads(pickle.dumps(error))):
        assert type(each) is kind and isinstance(each, ValueError)
        assert str(each) == "demo.yaml:3: unknown key 'lr'\n  → did you mean lr_heads?"
        assert (each.where, each.problem, each.remedy) == ("demo.yaml:3", "unknown key 'lr'", "did you mean lr_heads?")


def test_without_a_remedy_there_is_one_line():
    assert str(ShardError("a.tar", "is truncated")) == "a.tar: is truncated"


def test_an_error_in_one_line_names_its_kind_unless_it_is_ours():
    assert in_one_line(ConfigError("demo.yaml:3", "no key", "look")) == "demo.yaml:3: no key"
    assert in_one_line(RuntimeError("first\nsecond")) == "RuntimeError: first"
    assert in_one_line(AssertionError()) == "AssertionError: no message"

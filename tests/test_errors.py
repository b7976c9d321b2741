"""Errors for users: place, value and remedy, also after pickling."""

from __future__ import annotations

import pickle

import pytest

from mgcda_dist.errors import CheckpointError, ConfigError, MgcdaError, ShardError


@pytest.mark.parametrize("kind", [MgcdaError, ConfigError, ShardError, CheckpointError])
def test_message_and_fields(kind: type[MgcdaError]):
    error = kind("demo.yaml:3", "unknown key 'lr'", "did you mean lr_heads?")
    assert str(error) == "demo.yaml:3: unknown key 'lr'\n  → did you mean lr_heads?"
    assert (error.where, error.problem, error.remedy) == ("demo.yaml:3", "unknown key 'lr'", "did you mean lr_heads?")
    assert isinstance(error, ValueError)


def test_without_a_remedy_there_is_one_line():
    assert str(ShardError("a.tar", "is truncated")) == "a.tar: is truncated"


@pytest.mark.parametrize("kind", [MgcdaError, ConfigError, ShardError, CheckpointError])
def test_pickling_keeps_class_and_fields(kind: type[MgcdaError]):
    error = pickle.loads(pickle.dumps(kind("x", "y", "z")))
    assert type(error) is kind and (error.where, error.problem, error.remedy) == ("x", "y", "z")

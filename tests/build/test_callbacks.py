"""Callbacks of a configuration as objects, and what is refused before a run."""

from __future__ import annotations

from typing import Any

import pytest

from mgcda_dist import build
from mgcda_dist.callbacks import Callback, Context, StopTraining
from mgcda_dist.config.schema import Config
from mgcda_dist.errors import ConfigError
from mgcda_dist.references import reference
from tests.support.callbacks import Recorder
from tests.support.configs import plain_config

HERE = "python:tests.build.test_callbacks"
SUPPORT = "python:tests.support.callbacks"


class Misspelt(Callback):
    def on_stp(self, context: Context, step: int, metrics: dict[str, float]) -> None: ...


class ForAnotherLibrary:
    def on_train_batch_end(self, trainer: Any) -> None: ...


class TakesTooLittle(Callback):
    def on_step(self, context: Context, step: int) -> None: ...  # pyright: ignore[reportIncompatibleMethodOverride]


class OfNoRank(Callback):
    ranks = "second"  # pyright: ignore[reportAssignmentType]

    def on_step(self, context: Context, step: int, metrics: dict[str, float]) -> None: ...


class OnItsOwn:
    """Without the base class."""

    ranks = "all"

    def on_plateau(self) -> None:
        """Of its own: nothing like a method that is called."""

    def on_end(self, context: Context, status: str, results: dict[str, float]) -> None:
        raise StopTraining


class Broken(Callback):
    def __init__(self) -> None:
        raise OSError("no such device")

    def on_start(self, context: Context) -> None: ...


def _config(*callbacks: Any) -> Config:
    return plain_config(callbacks=list(callbacks))


def test_classes_functions_and_objects_become_callbacks_in_their_order() -> None:
    given = Recorder("all")
    config = _config(
        {"use": f"{SUPPORT}:Recorder", "arguments": {"ranks": "all"}},
        f"{SUPPORT}:make_recorder",
        f"{SUPPORT}:recorder",
        f"{HERE}:OnItsOwn",
        reference(given, "callbacks_4"),
    )
    build.check_callbacks(config)
    made = build.callbacks(config)
    assert [type(each).__name__ for each in made] == ["Recorder", "Recorder", "Recorder", "OnItsOwn", "Recorder"]
    assert [each.ranks for each in made] == ["all", "all", "first", "all", "all"] and made[4] is given
    assert [*build.methods_of(made[3])] == ["on_end"]
    assert [*build.methods_of(made[0])] == ["on_start", "on_step", "on_validation", "on_checkpoint", "on_end"]
    assert build.methods_of(Callback()) == {}


def test_a_name_alone_stands_for_one_without_arguments() -> None:
    config = _config(f"{SUPPORT}:recorder")
    assert config.model_dump()["callbacks"] == [{"use": f"{SUPPORT}:recorder", "arguments": {}}]
    assert plain_config().callbacks == []


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"use": "python:no_such_module:X"}, "cannot import 'no_such_module'"),
        ({"use": f"{SUPPORT}:Recoder"}, "has nothing called 'Recoder'"),
        ({"use": f"{SUPPORT}:Nothing"}, "Nothing without any of on_start, on_step"),
        ({"use": f"{HERE}:HERE"}, "is a str without any of on_start"),
        ({"use": f"{SUPPORT}:Recorder", "arguments": {"rank": 1}}, r"(?s)unexpected keyword.*it is Recorder\(ranks"),
        ({"use": f"{SUPPORT}:recorder", "arguments": {"ranks": "all"}}, "takes no arguments"),
        ({"use": f"{HERE}:Misspelt"}, r"(?s)a method on_stp, which nothing calls.*did you mean on_step\?"),
        ({"use": f"{HERE}:ForAnotherLibrary"}, "without any of|which nothing calls"),
        ({"use": f"{HERE}:TakesTooLittle"}, r"(?s)on_step cannot be called: too many.*def on_step\(self, context"),
        ({"use": f"{HERE}:OfNoRank"}, "ranks is 'second'"),
    ],
    ids=lambda value: value["use"].rpartition(":")[2] if isinstance(value, dict) else "",
)
def test_what_could_never_be_called_is_refused_before_the_run(entry: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        build.check_callbacks(_config(f"{SUPPORT}:recorder", entry))
    assert error.value.where.startswith("callbacks.1")


def test_a_constructor_runs_in_the_run_alone_and_its_error_is_named() -> None:
    config = _config(f"{HERE}:Broken")
    build.check_callbacks(config)
    with pytest.raises(ConfigError, match=r"callbacks\.0: .*Broken could not be made: OSError: no such device"):
        build.callbacks(config)


def test_no_reference_is_refused_by_the_schema() -> None:
    with pytest.raises(ValueError, match="String should match pattern"):
        _config("mymodule.Recorder")

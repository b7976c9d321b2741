"""References to a user's code: what any process can import, and what has to travel."""

from __future__ import annotations

import pickle
import sys
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from mgcda_dist.errors import ConfigError
from mgcda_dist.references import TRUST, check_trusted, expanded, reference, register, registered, resolve
from tests.support import external


class Outer:
    class Inner:
        pass


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr("mgcda_dist.references._objects", {})
    monkeypatch.setattr("mgcda_dist.references._used", set())


@pytest.mark.parametrize("given", [external.make_unet, pickle.Pickler])
def test_what_other_processes_can_import_need_not_travel(given):
    text = reference(given, "network")
    assert text == f"python:{given.__module__}:{given.__qualname__}"
    assert resolve("model.network", text) is given
    assert registered([text]) == {}


def test_a_reference_stays_as_it_is():
    assert reference("python:my.nets:make", "network") == "python:my.nets:make"


def test_a_class_in_a_class_is_found():
    assert resolve("here", f"python:{__name__}:Outer.Inner") is Outer.Inner


def test_objects_without_a_module_travel(monkeypatch):
    cell = type("Net", (), {"__module__": "__main__"})
    monkeypatch.setattr(sys.modules["__main__"], "Net", cell, raising=False)
    texts = {
        reference(cell, "network"): cell,
        reference(lambda: 1, "loss"): None,
        reference([1, 2], "dataset"): [1, 2],
    }
    assert set(texts) == {"python:__main__:Net", "python:given:loss", "python:given:dataset"}
    sent = registered(texts)
    assert set(sent) == set(texts)
    monkeypatch.setattr("mgcda_dist.references._objects", {})
    with pytest.raises(ConfigError, match=r"loss\.outlier: python:given:loss is an object of the program[\s\S]*again"):
        resolve("loss.outlier", "python:given:loss")
    register(sent)
    assert resolve("model.network", "python:__main__:Net") is cell
    assert resolve("loss.outlier", "python:given:loss")() == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("python:no_such_module:make", "cannot import 'no_such_module'[\\s\\S]*PYTHONPATH"),
        ("python:tests.support.external:mak", "nothing called 'mak'"),
        ("python:tests.support.external:make_unet.no", "nothing called 'make_unet.no'"),
    ],
)
def test_what_is_not_there_is_named(text, message):
    with pytest.raises(ConfigError, match=rf"model\.network: .*{message}"):
        resolve("model.network", text)


def test_files_of_others_name_code_only_with_trust(monkeypatch):
    text = "python:tests.support.external:make_unet"
    with pytest.raises(ConfigError, match=rf"may come from anybody[\s\S]*{TRUST}=tests\.support\.external"):
        check_trusted("model.network", text)
    monkeypatch.setenv(TRUST, "other, tests.support.external")
    check_trusted("model.network", text)
    monkeypatch.delenv(TRUST)
    resolve("model.network", text)
    check_trusted("model.network", text)


def _registered(monkeypatch, *pairs):
    points = EntryPoints(EntryPoint(name, value, "mgcda_dist") for name, value in pairs)
    monkeypatch.setattr("mgcda_dist.references.entry_points", lambda group: points)


def test_a_short_name_becomes_the_reference_that_it_stands_for(monkeypatch):
    _registered(monkeypatch, ("sides", "sides:Loss"), ("sides", "sides:Loss"))
    given = {"loss": {"outlier": "plugin:sides"}, "callbacks": [{"use": "plugin:sides"}], "seed": 3, "name": "plugins"}
    found = expanded(given)
    assert found["loss"] == {"outlier": "python:sides:Loss"} and found["callbacks"] == [{"use": "python:sides:Loss"}]
    assert (found["seed"], found["name"]) == (3, "plugins")


def test_a_short_name_that_is_unknown_or_has_two_meanings_is_refused_at_its_place(monkeypatch):
    _registered(monkeypatch, ("sides", "sides:Loss"), ("both", "a:Loss"), ("both", "b:Loss"))
    with pytest.raises(
        ConfigError, match=r"loss\.outlier: no installed package registers a plugin 'side'\n.*mean sides"
    ):
        expanded({"loss": {"outlier": "plugin:side"}})
    with pytest.raises(ConfigError, match=r"several packages register a plugin 'both'\n.*python:a:Loss, python:b:Loss"):
        expanded({"model": {"score": "plugin:both"}})
    _registered(monkeypatch)
    with pytest.raises(ConfigError, match="install the package that has it"):
        expanded({"model": {"score": "plugin:both"}})


def test_scores_and_losses_of_the_package_are_trusted_and_those_of_others_are_not():
    check_trusted("model.score", "python:mgcda_dist.plugins.uem:UemScore")
    with pytest.raises(ConfigError, match=f"{TRUST}=mgcda_dist_plugins"):
        check_trusted("model.score", "python:mgcda_dist_plugins.uem:UemScore")

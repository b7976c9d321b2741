"""Objects that a program gives for a run: references in its configuration, and objects that travel, or are refused."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from mgcda_dist import references
from mgcda_dist.api.own import objects_of, references_of, with_own
from mgcda_dist.api.run import Run
from mgcda_dist.config.load import dump_config
from mgcda_dist.errors import ConfigError
from mgcda_dist.models.external import ExternalNetwork
from mgcda_dist.models.taps import Taps
from tests.support import external
from tests.support.configs import plain_config


def flipped(image: Any, label: Any, generator: Any) -> tuple[Any, Any]:
    return image[::-1].copy(), label[::-1].copy()


class Loss:
    def __init__(self, **held: Any) -> None:
        self.held = held


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(references, "_objects", {})


def test_the_configuration_is_the_record():
    config, loss = plain_config(), Loss()
    found = with_own(
        config,
        network=lambda num_classes: nn.Conv2d(3, num_classes, 1),
        arguments={},
        taps=Taps({"mid": "body"}, "head"),
        loss=loss,  # pyright: ignore[reportArgumentType]
    )
    assert (found.model.network, found.model.backbone) == ("python:given:network", None)
    assert found.model.taps is not None and found.model.taps.model_dump(exclude_none=True) == {
        "stages": {"mid": "body"}, "logits": "head"
    }  # fmt: skip
    assert found.loss.outlier == "python:given:loss"
    assert references_of(found) == ["python:given:network", "python:given:loss"]
    assert objects_of(found).keys() == {"python:given:network", "python:given:loss"}
    assert objects_of(found)["python:given:loss"] is loss
    aligned = with_own(found, sections={"mdat": {"stages": [{"name": "mid"}]}, "model": {"norm": "group"}})
    assert (aligned.mdat.stages[0].name, aligned.model.norm, aligned.model.network) == (
        "mid",
        "group",
        "python:given:network",
    )
    assert with_own(config) is config and objects_of(config) == {}


def test_what_workers_can_import_does_not_travel():
    config = with_own(plain_config(), network=external.make_unet, arguments={"width": 4})
    assert config.model.network == "python:tests.support.external:make_unet" and objects_of(config) == {}
    assert config.model.arguments == {"width": 4}
    again = with_own(config, network=external.make_unet)
    assert again == config, "what the configuration says of the same network stays"
    other = with_own(config, network="python:tests.support.external:other")
    assert other.model.arguments == {} and other.model.weights == "none"


def test_augmentations_in_their_order() -> None:
    class Given:
        def __call__(self, image: Any, label: Any, generator: Any) -> tuple[Any, Any]:
            return image, label

    given = Given()
    config = with_own(plain_config(), augment=[flipped, given, "python:mine:noise"])
    uses = [each.use for each in config.data.augment.own]
    assert uses == [f"python:{__name__}:flipped", "python:given:augment_1", "python:mine:noise"]
    assert objects_of(config) == {"python:given:augment_1": given}
    alone = with_own(config, augment=lambda image, label, generator: (image, label))
    assert [each.use for each in alone.data.augment.own] == ["python:given:augment_0"], "in the place of the file's"
    held = with_own(plain_config(), augment=partial(flipped, generator=threading.Lock()))
    with pytest.raises(ConfigError, match=r"augment_0: the partial cannot be sent to the workers: cannot pickle"):
        objects_of(held)
    references._objects.clear()
    with pytest.raises(
        ConfigError, match=r"data\.augment\.own\.0: python:given:augment_0 [\s\S]*again in Python, as `augment`"
    ):
        references.resolve("data.augment.own.0", "python:given:augment_0")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"network": nn.Conv2d(3, 8, 1)}, r"network: is a Conv2d, made already[\s\S]*give the class"),
        ({"network": ExternalNetwork(nn.Identity(), None)}, "network: is a ExternalNetwork, made already"),
        ({"network": 3}, "network: is a int"),
        ({"arguments": {"width": 3}}, "arguments: is of a network"),
        ({"network": external.make_unet, "taps": {"logits": lambda x: x}}, "taps: logits is a function"),
        ({"network": external.make_unet, "taps": {"logit": "head"}}, "unknown key 'model.taps.logit'"),
        ({"loss": "energy"}, r"loss\.outlier = 'energy': no such loss; did you mean energy_hinge"),
        ({"augment": 3}, r"augment: is a int, which cannot be called"),
        ({"augment": [flipped, None]}, r"augment: is a NoneType, which cannot be called"),
        ({"sources": {"c": []}}, r"sources: there is no stream 'c'[\s\S]*one of a, b"),
    ],
)
def test_what_cannot_be_is_refused_by_the_name_of_its_argument(given: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        with_own(plain_config(), **given)


def test_what_cannot_be_sent_is_refused_with_the_reason(tmp_path: Path):
    cases: list[tuple[Any, str]] = [
        ((tmp_path / "f").open("w"), "it holds an open file, .*/f"),
        (threading.Lock(), "cannot pickle '_thread.lock' object"),
        ((n for n in range(3)), "cannot pickle 'generator' object"),
    ]
    for held, reason in cases:
        config = with_own(plain_config(), loss=Loss(held=held))  # pyright: ignore[reportArgumentType]
        with pytest.raises(ConfigError, match=rf"loss: the Loss cannot be sent to the workers: {reason}[\s\S]*pickled"):
            objects_of(config)
    cases[0][0].close()


def _run(folder: Path, **given: Any) -> Run:
    config = with_own(plain_config(name=folder.name, runs=str(folder.parent)), **given)
    folder.mkdir()
    (folder / "config.yaml").write_text(dump_config(config))
    return Run(folder)


def test_a_run_is_given_its_objects_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    loss = Loss()
    _run(tmp_path / "mine", network=lambda num_classes: nn.Identity(), loss=loss)
    monkeypatch.setattr(references, "_objects", {})
    with pytest.raises(ConfigError, match=r"not known here[\s\S]*again in Python, as `network`"):
        references.resolve("model.network", "python:given:network")
    with pytest.raises(ConfigError, match="as `loss`"):
        references.resolve("loss.outlier", "python:given:loss")
    other = Loss()
    Run(tmp_path / "mine", loss=other).register()  # pyright: ignore[reportArgumentType]
    assert references.resolve("loss.outlier", "python:given:loss") is other
    _run(tmp_path / "plain")
    with pytest.raises(ConfigError, match=r"network: the run was started without one of its own \(None\)"):
        Run(tmp_path / "plain", network=external.make_unet)
    with pytest.raises(ConfigError, match=r"loss: the run was started without one of its own \(energy_hinge\)"):
        Run(tmp_path / "plain", loss=other)  # pyright: ignore[reportArgumentType]


def test_callbacks_by_their_order(tmp_path: Path):
    first, second = Loss(), Loss()
    run = _run(tmp_path / "mine", callbacks=[first, second])
    assert [each.use for each in run.config.callbacks] == ["python:given:callbacks_0", "python:given:callbacks_1"]
    Run(tmp_path / "mine", callbacks=[second, first]).register()
    assert references.resolve("callbacks", "python:given:callbacks_0") is second
    with pytest.raises(ConfigError, match="1 are given, and the run has 2"):
        Run(tmp_path / "mine", callbacks=[first])

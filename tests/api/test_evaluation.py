"""Evaluation from a program: a model, maps and a module give the numbers of the command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from mgcda_dist import build
from mgcda_dist.api.evaluation import evaluate
from mgcda_dist.api.prediction import predict
from mgcda_dist.api.run import Run
from mgcda_dist.config.run import EvaluationConfig, EvaluationSetConfig
from mgcda_dist.errors import ConfigError, MgcdaError
from mgcda_dist.inference.model import load_exported
from tests.support.commands import typed
from tests.support.configs import plain_config
from tests.support.exported import write_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a model; evaluations are written beside it."""
    folder = write_run(tmp_path_factory.mktemp("evaluated") / "tiny")
    (folder / "config.yaml").write_text("name: tiny\n")
    return folder


@pytest.fixture(scope="module")
def shards(tiny_shards: Path) -> Path:
    return tiny_shards / "real_day/test"


def test_a_run_its_folder_and_its_module_give_the_same_numbers(trained: Path, shards: Path):
    told = []
    results = evaluate(Run(trained), {"mine": shards}, max_frames=2, progress=lambda *what: told.append(what))
    assert told == [(1, 2, "tiny on mine"), (2, 2, "tiny on mine")]
    assert (trained / "evaluation/results.json").is_file() and results.sets["mine"].frames == 2
    model = load_exported(trained)
    again = evaluate(model, {"mine": shards}, max_frames=2)
    assert again == results and not (trained / "evaluation-2").exists()
    network = model.network.train()
    module = evaluate(network, {"mine": shards}, max_frames=2, height_px=32, class_space="road8", name="tiny")
    assert module.sets == results.sets and network.training


_ON_WORKERS = """
import sys

import mgcda_dist as mg

results = mg.evaluate(sys.argv[1], {"mine": sys.argv[2]}, max_frames=3, workers=int(sys.argv[3]))
print(repr(results.sets))
"""


@pytest.mark.extended
@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_workers_of_ray_give_the_same_numbers(trained: Path, shards: Path) -> None:
    """In programs of their own: Ray's libraries warn of each other, which is an error here."""
    found = [
        subprocess.run(
            [sys.executable, "-c", _ON_WORKERS, str(trained), str(shards), workers],
            capture_output=True, text=True, check=False,
        )
        for workers in ("1", "2")
    ]  # fmt: skip
    assert not any(done.returncode for done in found), found[-1].stderr
    assert found[0].stdout == found[1].stdout and "'mine'" in found[0].stdout


def test_logits_alone_are_a_module_and_without_a_class_space_there_is_no_miou(shards: Path, tmp_path: Path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4))

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.network(image.float() / 255)

    results = evaluate(Scaled(), shards, score="max_logit", max_frames=2, out=tmp_path / "out")
    (row,) = results.sets.values()
    assert {"ap", "auroc"} <= row.metrics.keys() and "miou" not in row.metrics
    assert (tmp_path / "out/results.json").is_file()
    with pytest.raises(ConfigError, match="results of another evaluation"):
        evaluate(Scaled(), shards, score="energy", max_frames=2, out=tmp_path / "out")
    with pytest.raises(ConfigError, match="Flatten: returns 1×24576"):
        evaluate(nn.Flatten(), shards, max_frames=1)
    with pytest.raises(ConfigError, match="a module names no sets"):
        evaluate(network)


def test_maps_of_another_method(trained: Path, shards: Path, tmp_path: Path):
    frames = build.evaluation_frames(EvaluationSetConfig(name="s", shards=str(shards)), plain_config().data)
    maps = tmp_path / "maps"
    for key in frames.keys:
        file = maps / f"{key}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, np.random.default_rng(0).random((64, 128), np.float32))
    results = evaluate(maps, shards)
    assert results.subject.kind == "maps" and (tmp_path / "maps-evaluation/results.json").is_file()
    with pytest.raises(ConfigError, match=r"score: is an option of a network"):
        evaluate(maps, shards, score="energy")
    with pytest.raises(MgcdaError, match="need the labels they are judged by"):
        evaluate(maps)


def test_what_cannot_be_evaluated_is_named(trained: Path, shards: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="no shards there"):
        evaluate(trained, tmp_path)
    with pytest.raises(ConfigError, match="the run names no evaluation sets"):
        evaluate(trained)
    with pytest.raises(MgcdaError, match="nothing"):
        evaluate(tmp_path / "nothing", shards)
    for thing in (np.zeros((4, 4)), {"a": np.zeros((4, 4))}, 3, None):
        with pytest.raises(ConfigError, match=r"subject: is an? \w+\n.*a folder of score maps"):
            evaluate(cast(Any, thing), shards)


def test_a_class_space_that_there_is_not_is_refused(shards: Path, tmp_path: Path):
    graph = tmp_path / "a.onnx"
    graph.touch()

    def scores(image: np.ndarray) -> np.ndarray:
        return image[..., 0].astype(np.float32)

    for subject in (nn.Conv2d(3, 8, 1), scores, graph):
        with pytest.raises(ConfigError, match=r"class_space: no such .*'cityscapes'\n.*did you mean cityscapes19"):
            evaluate(subject, shards, class_space=cast(Any, "cityscapes"))


@pytest.mark.parametrize("option", [{"class_space": "road8"}, {"input_range": "0-1"}])
def test_options_of_foreign_networks_are_refused_of_a_model_in_few_words(
    trained: Path, shards: Path, option: dict[str, Any]
):
    for subject, name in (
        (load_exported(trained), "ExportedModel"),
        (Run(trained), "Run"),
        (trained, str(trained)),
    ):
        with pytest.raises(ConfigError, match=f"and not of {name}\n") as refused:
            evaluate(subject, shards, **option)
        assert len(str(refused.value)) < 300


@pytest.fixture(scope="module")
def by_side(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is evaluated at a longest side of 64 pixels."""
    return write_run(tmp_path_factory.mktemp("longest") / "tiny", {"height_px": None, "longest_side_px": 64})


def test_the_run_s_longest_side_is_that_of_evaluation_and_prediction(by_side: Path, tiny_shards: Path) -> None:
    """Frames of 128×64 pixels with a longest side of 64 are frames of height 32."""
    shards = tiny_shards / "real_day/test"
    found = evaluate(by_side, shards, max_frames=1)
    by_height = evaluate(by_side, shards, max_frames=1, height_px=32)
    assert found.sets == by_height.sets and found.evaluation_id != by_height.evaluation_id
    shown = [results.settings.options() for results in (found, by_height)]
    assert [(each["height_px"], each.get("longest_side_px")) for each in shown] == [(None, 64), (32, None)]
    assert json.loads((by_side / "evaluation/results.json").read_text())["longest_side_px"] == 64
    assert "network input with a longest side of 64" in (by_side / "evaluation/results.md").read_text()
    assert evaluate(by_side, shards, max_frames=1, longest_side_px=128).sets != found.sets

    assert json.loads((by_side / "model/model.json").read_text())["longest_side_px"] == 64
    model = load_exported(by_side)
    image = np.random.default_rng(0).integers(0, 256, (64, 128, 3)).astype(np.uint8)
    scores, _ = model.predict(image)
    assert np.array_equal(scores, model.predict(image, height_px=32)[0])
    assert not np.array_equal(scores, model.predict(image, height_px=0)[0])
    assert np.array_equal(scores, predict(model, image)[0].scores)
    assert np.array_equal(model.predict(image, height_px=0)[0], predict(model, image, longest_side_px=128)[0].scores)


def test_a_height_and_a_longest_side_are_refused(by_side: Path, tiny_shards: Path) -> None:
    with pytest.raises(ValueError, match="set height_px or longest_side_px to null"):
        EvaluationConfig(height_px=32, longest_side_px=64)
    shards = tiny_shards / "real_day/test"
    with pytest.raises(ConfigError, match="longest_side_px: is given, and `height_px`, too"):
        evaluate(by_side, shards, height_px=32, longest_side_px=64)
    with pytest.raises(ConfigError, match="longest_side_px: is given, and `height_px`, too"):
        load_exported(by_side).predict(np.zeros((8, 8, 3), np.uint8), height_px=32, longest_side_px=64)
    both = ("--height", "32", "--longest-side", "64")
    for words in (("evaluate", by_side, "--data", shards), ("predict", by_side, by_side)):
        done = typed(*words, *both)
        assert done.returncode == 2 and "--longest-side: is given, and --height, too" in done.stderr

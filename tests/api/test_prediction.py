"""Prediction from a program: arrays and files, in memory and into a folder."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from math import inf, nan
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from mgcda_dist.api.evaluation import evaluate
from mgcda_dist.api.prediction import plan, predict, predict_files
from mgcda_dist.errors import CheckpointError, ConfigError, MgcdaError
from mgcda_dist.inference.model import load_exported
from mgcda_dist.inference.predict import prediction_id

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images/one.png"), cv2.cvtColor(IMAGE, cv2.COLOR_RGB2BGR))
    return tmp_path / "images/one.png"


def test_arrays_files_and_folders_give_the_same(run: Path, file: Path):
    expected = load_exported(run).predict(IMAGE)
    found = predict(run, [IMAGE, file, file.parent], device="cpu")
    assert len(found) == 3
    for each in found:
        np.testing.assert_array_equal(each.scores, expected[0])
        np.testing.assert_array_equal(each.classes, expected[1])
        assert (each.threshold, each.anomalies, len(each.class_names)) == (None, (), 8)
    (one,) = predict(load_exported(run), IMAGE, threshold=float(expected[0].min()), min_area_px=1)
    assert one.anomalies[0].area_px == 40 * 60
    (low,) = predict(run, IMAGE, height_px=0, score="max_logit", blur=True)
    assert not np.array_equal(low.scores, expected[0])


def test_files_are_written_and_predicted_once(run: Path, file: Path, tmp_path: Path):
    out = tmp_path / "out"
    done = predict_files(run, file, out, outputs=["npy"], threshold=0.0, device="cpu")
    assert [each["name"] for each in done.done] == ["one"] and not done.failed and done.resumed == 0
    assert (out / "one.json").is_file()
    assert json.loads((out / "predictions.json").read_text())["settings"]["threshold"] == 0.0
    assert predict_files(run, file, out, outputs=["npy"], threshold=0.0, device="cpu").resumed == 1
    with pytest.raises(ConfigError, match="with other settings"):
        predict_files(run, file, out, outputs=["npy"], threshold=1.0, device="cpu")


def test_a_score_that_the_model_cannot_give_is_refused_by_name(run: Path):
    with pytest.raises(ConfigError, match=r"reads extra\['unknown'\], which the network does not give"):
        predict(run, IMAGE, score="plugin:uem_score")
    with pytest.raises(ConfigError, match=r"registers a plugin 'uem_scor'[\s\S]*did you mean uem_score"):
        predict(run, IMAGE, score="plugin:uem_scor")


def test_scores_that_evaluation_refuses_are_refused(run: Path, tiny_shards: Path):
    for score, says in (
        ("rba", r"adds up σ\(L_k\)[\s\S]*loss\.outlier"),
        ("rba_mask", "class scores that masks add up"),
    ):
        for refused in (partial(predict, run, IMAGE), partial(evaluate, run, tiny_shards / "real_day/test")):
            with pytest.raises(ConfigError, match=says):
                refused(score=score)
    model = load_exported(run)
    for own in ("python:losses:Mine", "loss_of_another_version"):  # of which nothing is known
        config = model.metadata.config | {"loss": {"outlier": own}}
        of_own = replace(model, metadata=replace(model.metadata, config=config))
        assert plan(of_own, score="rba").options.score == "rba"
    damaged = replace(model, metadata=replace(model.metadata, config={"loss": [1]}))
    with pytest.raises(CheckpointError, match=r"model\.json: config\.loss"):
        plan(damaged)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"scales": [1, 0]}, r"scales\.1: 0: input should be greater than 0"),
        ({"scales": [-1.0]}, r"scales\.0: -1\.0: input should be greater than 0"),
        ({"scales": [float("nan")]}, r"scales\.0: nan: "),
        ({"scales": [float("inf")]}, r"scales\.0: inf: "),
        ({"scales": [1e9]}, r"scales\.0: 1000000000\.0: input should be less than or equal to 8"),
        ({"scales": []}, r"scales: \[\]: "),
        ({"scales": 1.0}, r"scales: 1\.0: not a list"),
        ({"height_px": 10_000_000}, r"height_px: 10000000: input should be less than or equal to 32768"),
        ({"height_px": -5}, r"height_px: -5: input should be greater than or equal to 1"),
        ({"longest_side_px": 10_000_000}, r"longest_side_px: 10000000: input should be less than"),
        ({"window_px": (0, 64)}, r"window_px\.0: 0: input should be greater than or equal to 1"),
        ({"window_px": (64,)}, r"window_px\.1: "),
        ({"window_overlap": 1.0}, r"window_overlap: 1\.0: input should be less than 1"),
        ({"window_px": 64}, r"window_px: 64: not a list"),
        ({"height_px": "tall"}, r"height_px: 'tall': input should be a valid integer"),
        ({"flip": "sideways"}, r"flip: 'sideways': input should be a valid boolean"),
        ({"min_area_px": 0}, r"min_area_px: 0: "),
        ({"min_area_px": "few"}, r"min_area_px: 'few': input should be a valid integer"),
        ({"exif": "up"}, r"exif: 'up': input should be 'upright' or 'stored'"),
        ({"score": 3}, r"score: 3: not text"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_predicted(
    run: Path, file: Path, tmp_path: Path, settings: dict[str, Any], says: str
):
    with pytest.raises(ConfigError, match=says):
        predict(run, IMAGE, **settings)
    with pytest.raises(ConfigError, match=says):
        predict_files(run, file, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"outputs": ["npy", "overley"]}, r"outputs\.1: 'overley': input should be 'overlay', 'npy' or 'png'"),
        ({"outputs": "npy"}, r"outputs: 'npy': not a list"),
        ({"codec": "h264"}, r"codec: 'h264': input should be 'vp9' or 'mpeg4'"),
        ({"shown_range": (5, 1)}, r"shown_range: \(5, 1\): .*lowest and the highest"),
        ({"shown_range": (5, 5)}, r"shown_range: \(5, 5\): .*lowest and the highest"),
        ({"shown_range": (5,)}, r"shown_range\.1: "),
        ({"shown_range": (1, 2, 3)}, r"shown_range: "),
        ({"batch": 0}, "batch: 0: "),
        ({"batch": "several"}, r"batch: 'several': input should be a valid integer"),
        ({"every": 0}, "every: 0: "),
        ({"every": 1.5}, r"every: 1\.5: input should be a valid integer"),
    ],
)
def test_settings_of_files_that_cannot_be_are_refused(
    run: Path, file: Path, tmp_path: Path, settings: dict[str, Any], says: str
):
    with pytest.raises(ConfigError, match=says):
        predict_files(run, file, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_settings_are_taken_in_their_types(run: Path):
    """Numbers of numpy, text that is a number: what predicts is what was meant, and has one digest."""
    model = load_exported(run)
    meant = plan(model, scales=[0.5, 1], window_px=(32, 64), batch=4, outputs=["npy"], height_px=32, flip=False)
    other: dict[str, Any] = {"scales": np.array([0.5, 1]), "window_px": [32, 64], "batch": "4", "outputs": ("npy",)}
    found = plan(model, **other, height_px=np.int64(32), flip=cast(Any, "no")).options  # pyright: ignore[reportArgumentType]
    assert found == meant.options and prediction_id(model, found) == prediction_id(model, meant.options)
    assert plan(model, window_px=()).options.augmentation.window_px is None


def test_a_size_that_cannot_be_computed_is_refused_by_its_option(run: Path):
    long = np.zeros((2, 4000, 3), np.uint8)
    with pytest.raises(MgcdaError, match=r"`height_px` 20000 makes it 20000×40000000 pixels"):
        predict(run, long, height_px=20000)
    with pytest.raises(MgcdaError, match=r"`scales` 8\.0 makes it 32000×64000 pixels[\s\S]*smaller"):
        predict(run, np.zeros((500, 1000, 3), np.uint8), height_px=4000, scales=[1, 8])
    with pytest.raises(MgcdaError, match=r"`height_px` 360 enlarges 1×500 to 360×180000 pixels[\s\S]*crop"):
        predict(run, long[:1, :500], height_px=360)
    with pytest.raises(MgcdaError, match=r"`longest_side_px` 8192 enlarges 64×64 to 8192×8192 pixels"):
        predict(run, long.reshape(-1, 64, 3)[:64], longest_side_px=8192)


def test_what_is_no_image_is_named(run: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"an image is 40×60×3 float64[\s\S]*uint8"):
        predict(run, IMAGE / 255)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"an image is 0×60×3 uint8[\s\S]*H×W×3"):
        predict(run, IMAGE[:0])
    others: list[Any] = [Image.fromarray(IMAGE), torch.from_numpy(IMAGE), b"PNG", None, 3, [Image.fromarray(IMAGE)]]
    for other in others:
        with pytest.raises(ConfigError, match=r"an image is a \w+\n[\s\S]*H×W×3 RGB, uint8[\s\S]*convert\('RGB'\)"):
            predict(run, other)
    with pytest.raises(ConfigError, match="does not exist"):
        predict(run, tmp_path / "none.png")
    (tmp_path / "drive.mp4").touch()
    with pytest.raises(ConfigError, match=r"is a video[\s\S]*predict_files"):
        predict(run, tmp_path / "drive.mp4")
    with pytest.raises(ConfigError, match=r"treshold: there is no such setting[\s\S]*did you mean threshold"):
        predict(run, IMAGE, treshold=0.0)  # pyright: ignore[reportCallIssue]
    with pytest.raises(ConfigError, match="batch: there is no such setting"):
        predict(run, IMAGE, batch=4)  # pyright: ignore[reportCallIssue]
    with pytest.raises(ConfigError, match="device: 'gpu' cannot be used"):
        predict(run, IMAGE, device="gpu")
    numbers: dict[str, Any] = {"threshold": nan, "scales": (1.0, inf), "window_overlap": nan, "shown_range": (-inf, 0)}
    for name, value in numbers.items():
        with pytest.raises(ConfigError, match=rf"^{name}[.\d]*: [\s\S]*finite"):
            predict_files(run, tmp_path, tmp_path / "out", **{name: value})
    with pytest.raises(ConfigError, match="'best' is no threshold"):
        predict(run, IMAGE, threshold="best")

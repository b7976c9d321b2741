"""Class statistics of the maximum logit: measured, written into a model, and used by its scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mgcda_dist.data.frames import Frame
from mgcda_dist.errors import ConfigError
from mgcda_dist.evaluation.calibration import class_statistics
from mgcda_dist.inference.model import load_exported
from mgcda_dist.method.batch import VOID, Prediction
from mgcda_dist.models.scores import scorer
from tests.support.commands import invoke, refusal
from tests.support.configs import tiny_config
from tests.support.exported import write_run


class _Logits(nn.Module):
    """Returns the image's three channels as logits."""

    def forward(self, image: torch.Tensor) -> Prediction:
        return Prediction(image.float(), {}, image.float())


def test_the_statistics_are_those_of_the_pixels_predicted_as_each_class() -> None:
    rng, frames = np.random.default_rng(0), list[Frame]()
    for n in range(3):
        image = rng.integers(0, 200, (20, 30, 3)).astype(np.uint8)
        image[..., 2] = 0  # never the largest
        image[..., 0] += 1
        frames.append(Frame(image, rng.choice([0, 1, 2, 254, VOID], (20, 30)).astype(np.uint8), f"f{n}"))
    found, pixels = class_statistics(_Logits(), frames, 3)
    logits = np.concatenate([frame.image[frame.label < 3] for frame in frames]).astype(np.float64)
    largest, predicted = logits.max(axis=1), logits.argmax(axis=1)
    for k in range(2):
        assert found.mean[k] == pytest.approx(largest[predicted == k].mean(), rel=1e-12)
        assert found.var[k] == pytest.approx(largest[predicted == k].var(), rel=1e-12)
    assert (found.mean[2], found.var[2]) == pytest.approx((largest.mean(), largest.var()), rel=1e-12)
    assert pixels == [*np.bincount(predicted, minlength=3)]
    with pytest.raises(ValueError, match="0 inlier pixels"):
        class_statistics(_Logits(), [frames[0]._replace(label=np.full((20, 30), VOID, np.uint8))], 3)


def test_a_model_is_calibrated_and_then_takes_the_score(tmp_path: Path, tiny_shards: Path) -> None:
    run, shards = write_run(tmp_path / "run"), f"{tiny_shards}/render_a/train"
    scored = ("evaluate", run, "--data", shards, "--max-frames", 2, "--score", "standardized_max_logit")
    assert "first: `mgcda calibrate" in refusal(*scored).remedy
    told = invoke("calibrate", run, "--data", shards, "--max-frames", 2, "--device", "cpu")
    assert told.exit_code == 0 and "now supports --score standardized_max_logit" in told.output, told.output
    model = load_exported(run)
    measured = model.metadata.class_statistics
    assert measured is not None and measured["frames"] == 2 and sum(measured["pixels"]) > 0
    assert invoke(*scored).exit_code == 0
    results = json.loads((run / "evaluation/results.json").read_text())
    assert results["score"] == "standardized_max_logit"
    assert results["class_statistics"] == {key: measured[key] for key in ("mean", "var")}
    image = np.zeros((40, 60, 3), np.uint8)
    ((score, _),) = model.predict_batch([image], score="standardized_max_logit")
    ((plain, _),) = model.predict_batch([image], score="max_logit")
    assert score.shape == plain.shape and not np.allclose(score, plain)


def test_it_cannot_be_trained_with_and_says_why(tmp_path: Path, tiny_shards: Path) -> None:
    with pytest.raises(ConfigError, match="statistics of the trained network"):
        tiny_config(tmp_path, tiny_shards, "model.score=standardized_max_logit")
    with pytest.raises(ValueError, match="mgcda calibrate"):
        scorer("standardized_max_logit")

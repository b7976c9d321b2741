"""docs/add-a-network.md, word for word: a score, an outlier loss and a smoothing mode, from the page to the report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mgcda_dist
from tests.support.recipes import apply_recipe, copy_package

ROOT = Path(mgcda_dist.__file__).parents[1]
PAGE = ROOT / "docs" / "add-a-network.md"
RECIPES = ("A score", "An outlier loss", "A smoothing mode")

CONFIG = """\
name: t
data:
  class_space: road8
  crop_px: [64, 96]
  domains:
    - {{name: render_a, shards: {shards}/render_a/train, per_step: 2, paste: {{objects: {shards}/objects/train}}}}
    - {{name: render_b, shards: {shards}/render_b/train, per_step: 1}}
  loader_workers: 0
model: {{backbone: test_resnet.r160_in1k, decoder_channels: 16, norm: group, score: margin}}
loss: {{outlier: max_logit_hinge, inlier_max_logit: -6}}
mdat: {{smoothing: {{mode: cosine}}}}
optim: {{steps: 4}}
"""
SCRIPT = """
import sys
from pathlib import Path

import cv2
import numpy as np
from typer.testing import CliRunner

import mgcda_dist
from mgcda_dist import build
from mgcda_dist.cli.main import app
from mgcda_dist.config.load import load_config

assert Path(mgcda_dist.__file__).parents[1] == Path.cwd()
shards = sys.argv[1]


def mgcda(*words):
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output


mgcda("config", "check", "t.yaml")
config = load_config("t.yaml").config
model = build.mgcda(config).train()
outcome = model(next(iter(build.training_stream(config, 0, 1))), 0.5)
outcome.loss.backward()
assert outcome.loss.isfinite()
build.save_model(config, model.segmenter, Path("margin/model"))
build.save_model(load_config("t.yaml", ["model.score=energy"]).config, model.segmenter, Path("energy/model"))
mgcda("evaluate", "margin", "--data", f"{shards}/real_day/test", "--max-frames", "2", "--out", "default")
mgcda("evaluate", "energy", "--data", f"{shards}/real_day/test", "--max-frames", "2", "--out", "option",
      "--score", "margin")
cv2.imwrite("image.png", np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8))
mgcda("predict", "energy", "image.png", "--score", "margin", "--threshold", "-1", "--out", "predictions")
mgcda("report", "option", "--out", "report.html")
"""


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[str]]]:
    """A copy of the package with all recipes of the page, and the files that each has changed."""
    copy = copy_package(ROOT, tmp_path_factory.mktemp("recipes"))
    return copy, {recipe: apply_recipe(PAGE, recipe, copy) for recipe in RECIPES}


def _run(copy: Path, *command: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(copy), "COLUMNS": "200", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=copy, env=env, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_touches_at_most_three_files_of_code_and_one_test(
    changed: tuple[Path, dict[str, list[str]]], recipe: str
) -> None:
    files = changed[1][recipe]
    code = [file for file in files if file.startswith("mgcda_dist/")]
    assert 1 <= len(code) <= 3 and len(files) == len(set(files)) == len(code) + 1


@pytest.mark.slow
def test_what_is_added_works_from_the_configuration_to_the_report(
    changed: tuple[Path, dict[str, list[str]]], tiny_shards: Path
) -> None:
    copy, _ = changed
    (copy / "t.yaml").write_text(CONFIG.format(shards=tiny_shards), encoding="utf-8")
    _run(copy, "-c", SCRIPT, str(tiny_shards))
    results = [json.loads((copy / name / "results.json").read_text(encoding="utf-8")) for name in ("default", "option")]
    assert [found["score"] for found in results] == ["margin", "margin"]
    assert results[0]["sets"] == results[1]["sets"]
    assert "score margin" in (copy / "option" / "results.md").read_text(encoding="utf-8")
    assert "margin" in (copy / "report.html").read_text(encoding="utf-8")
    assert '"score": "margin"' in (copy / "predictions" / "predictions.json").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_tests_of_the_page_pass(changed: tuple[Path, dict[str, list[str]]]) -> None:
    copy, _ = changed
    files = [
        "tests/models/test_scores.py",
        "tests/models/test_outlier_losses.py",
        "tests/method/mdat/test_smoothing.py",
    ]
    names = "margin or max_logit_hinge or cosine"
    _run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files, "-k", names)

"""docs/network-in-code.md and add-a-loss.md, word for word: a network, a score, a loss, a smoothing mode, a report."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models.segmentation import fcn_resnet50

from mgcda_dist.method.batch import Batch
from tests.conftest import REPOSITORY
from tests.support.configs import tiny_content, write_config
from tests.support.pages import apply, copy_of_repository, edits_of, run

PAGE = REPOSITORY / "docs" / "network-in-code.md"
LOSSES = PAGE.with_name("add-a-loss.md")
RECIPES = ("A score", "An outlier loss", "A smoothing mode")

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
config = load_config("t.yaml", ["data.loader_workers=0"]).config
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


@pytest.mark.extended
def test_the_method_around_a_network_from_python() -> None:
    page = PAGE.read_text(encoding="utf-8")
    section = page.partition("\n## Your own network, from Python\n")[2].partition("\n## ")[0]
    label = torch.arange(4 * 64 * 64).view(4, 64, 64) % 19
    label[:, :16, :16] = 254
    image = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    names: dict[str, Any] = {
        "network": fcn_resnet50(weights=None, weights_backbone=None, num_classes=19),
        "batch": Batch(image, label, torch.tensor([0, 1, 2, 0]), torch.arange(4), 0),
        "progress": 0.5,
    }
    wrapping, method = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    exec(wrapping, names)
    names["segmenter"].train()
    exec(method, names)
    assert names["outcome"].loss.isfinite() and int(names["model"].cacl.queue.steps.max()) == 0


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with all recipes of the page."""
    root = copy_of_repository(tmp_path_factory.mktemp("recipes"))
    for recipe in RECIPES:
        apply(edits_of(LOSSES, recipe), root)
    return root


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_touches_at_most_three_files_of_code_and_one_test(recipe: str) -> None:
    files = [edit.path for edit in edits_of(LOSSES, recipe)]
    code = [file for file in files if file.startswith("mgcda_dist/")]
    assert 1 <= len(code) <= 3 and len(files) == len(set(files)) == len(code) + 1


@pytest.mark.slow
@pytest.mark.extended
def test_what_is_added_works_from_the_configuration_to_the_report(changed: Path, tiny_shards: Path) -> None:
    content = tiny_content(
        tiny_shards,
        model={"norm": "group", "score": "margin"},
        loss={"outlier": "max_logit_hinge", "inlier_max_logit": -6},
        mdat={"smoothing": {"mode": "cosine"}},
        optim={"steps": 4},
    )
    write_config(changed / "t.yaml", content)
    (changed / "use.py").write_text(SCRIPT, encoding="utf-8")
    run(f"python use.py {tiny_shards}", changed)
    results = [
        json.loads((changed / name / "results.json").read_text(encoding="utf-8")) for name in ("default", "option")
    ]
    assert [found["score"] for found in results] == ["margin", "margin"]
    assert results[0]["sets"] == results[1]["sets"]
    assert "score margin" in (changed / "option" / "results.md").read_text(encoding="utf-8")
    assert "margin" in (changed / "report.html").read_text(encoding="utf-8")
    assert '"score": "margin"' in (changed / "predictions" / "predictions.json").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_tests_of_the_page_pass(changed: Path) -> None:
    files = "tests/models/test_scores.py tests/models/test_outlier_losses.py tests/method/mdat/test_smoothing.py"
    run(f"python -m pytest -q -k 'margin or max_logit_hinge or cosine' {files}", changed)

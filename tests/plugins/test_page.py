"""The method of docs/add-a-method.md, as it stands there: trained, exported, loaded strictly, and evaluated as ONNX."""

from __future__ import annotations

import math
import re
from itertools import islice
from pathlib import Path

import pytest
import torch
import yaml

from mgcda_dist import build
from mgcda_dist.errors import ConfigError
from mgcda_dist.inference.formats import as_program, largest_difference, write_onnx
from mgcda_dist.inference.model import load_exported
from tests.conftest import REPOSITORY
from tests.support.configs import tiny_config
from tests.support.training import train


def _blocks() -> dict[str, str]:
    page = (REPOSITORY / "docs/add-a-method.md").read_text(encoding="utf-8")
    return dict(re.findall(r"```(python|yaml)\n(.*?)```", page, re.DOTALL))


@pytest.mark.parametrize("with_mgcda", [True, False])
def test_the_method_of_the_page_works(
    tmp_path: Path, tiny_shards: Path, monkeypatch: pytest.MonkeyPatch, with_mgcda: bool
) -> None:
    blocks = _blocks()
    (tmp_path / "sides.py").write_text(blocks["python"], encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    given = yaml.safe_load(blocks["yaml"])
    overrides = [f"model.heads={given['model']['heads']}", f"model.score={given['model']['score']}"]
    overrides += [f"loss.outlier={given['loss']['outlier']}"]
    off = [] if with_mgcda else ["mdat.enabled=false", "cacl.enabled=false"]
    config = tiny_config(tmp_path, tiny_shards, *overrides, *off)
    model, steps = train(config, list(islice(build.training_stream(config, 0, 1), 3)))
    assert all(math.isfinite(step["outlier/sides"]) for step in steps)
    build.save_model(config, model.segmenter, tmp_path / "model")
    exported = load_exported(tmp_path / "model")
    image = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    kept = [name for name in exported.network.state_dict() if "heads.sides" in name]
    assert len(kept) == 4 and not [name for name in exported.network.state_dict() if name.startswith("mdat")]
    scores, classes = exported.predict(image[0].permute(1, 2, 0).numpy())
    assert scores.shape == classes.shape == (64, 96)
    if with_mgcda:
        program = as_program(exported)
        write_onnx(program, tmp_path / "model.onnx")
        assert largest_difference(exported, tmp_path / "model.onnx") < 1e-3


def test_a_model_of_others_does_not_run_their_score(
    tmp_path: Path, tiny_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs.py").write_text("raise SystemExit('code of others ran')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    config = tiny_config(tmp_path, tiny_shards)
    build.save_model(config, build.segmenter(config), tmp_path / "model")
    metadata = tmp_path / "model" / "model.json"
    text = metadata.read_text(encoding="utf-8")
    assert '"score": "energy"' in text
    metadata.write_text(text.replace('"score": "energy"', '"score": "python:theirs:score"', 1), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"theirs:score, which is code[\s\S]*MGCDA_TRUST_CODE=theirs"):
        load_exported(tmp_path / "model")

"""docs/tutorials, followed: their files are written and their commands given, in order, on small generated frames."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from mgcda_dist import build
from mgcda_dist.cli.main import app
from mgcda_dist.config.load import load_config
from tests.architecture.test_code_blocks import blocks_of, mgcda_lines
from tests.conftest import REPOSITORY

PAGES = sorted((REPOSITORY / "docs/tutorials").glob("*.md"))
SMALL = {
    "configs/demo.yaml": ["data.crop_px=[64,96]", "model.backbone=test_resnet.r160_in1k", "model.weights=none"],
    "configs/small.yaml": ["data.crop_px=[64,96]"],
    "configs/margin.yaml": ["data.crop_px=[64,96]", "model.backbone=test_resnet.r160_in1k", "model.weights=none"],
}
"""Changes that make the demo's configurations fit small frames."""
SMALL_FRAMES = ["--frames-per-domain", "4", "--height", "64", "--width", "128", "--workers", "1"]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_works(page: Path, tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training is stood in for by an untrained network in the run's folder, which is then evaluated."""
    blocks = [block for block in blocks_of(page) if not block.not_run]
    _prepare(tmp_path, tiny_shards if "shards synth" not in page.read_text(encoding="utf-8") else None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    if page.stem == "report":
        for name in ("first", "second"):
            _train("configs/demo.yaml", [f"name={name}"])
    given = 0
    for block in blocks:
        named = re.match(r"# ([\w/]+\.(?:py|yaml))\n", block.text)
        if named:
            path = tmp_path / named[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.language == "sh":
            for words in mgcda_lines(block.text):
                _give(words)
                given += 1
    for name in [name for name in sys.modules if name.startswith("my_package")]:
        del sys.modules[name]
    assert given > 0


def _prepare(folder: Path, shards: Path | None) -> None:
    """A place like the repository, with frames and pictures of a user."""
    shutil.copytree(REPOSITORY / "configs", folder / "configs")
    (folder / "shards").mkdir()
    if shards is not None:
        (folder / "shards/demo").symlink_to(shards)
    label = np.full((64, 96), 3, np.uint8)
    label[32:], label[40:50, 10:40], label[50:60, 60:80], label[:4] = 0, 7, 8, 9
    for kind in ("my_frames/images", "my_frames/labels", "photos"):
        (folder / kind).mkdir(parents=True)
        for name in "abcd":
            noise = np.random.default_rng(ord(name)).integers(0, 256, (64, 96, 3), np.uint8)
            cv2.imwrite(str(folder / kind / f"{name}.png"), label if kind.endswith("labels") else noise)


def _give(words: list[str]) -> None:
    changes = [change for word in words for change in SMALL.get(word, [])]
    if words[0] == "train":
        _train(words[1], [word for word in words[2:] if "=" in word])
    elif words[:2] == ["shards", "synth"]:
        _mgcda(*words, *SMALL_FRAMES)
    else:
        _mgcda(*words, *changes)


def _train(config: str, changes: list[str]) -> None:
    loaded = load_config(Path(config), [*SMALL.get(config, []), *changes]).config
    folder = Path(loaded.runs) / loaded.name
    if (folder / "model").exists():
        return
    build.save_model(loaded, build.segmenter(loaded), folder / "model")
    (folder / "config.yaml").write_text(loaded.model_dump_json(), encoding="utf-8")  # JSON is YAML
    if loaded.evaluation.sets:
        _mgcda("evaluate", str(folder), "--max-frames", "2")


def _mgcda(*words: str) -> None:
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, f"mgcda {' '.join(words)}\n{done.output}"

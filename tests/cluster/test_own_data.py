"""docs/data-without-shards.md, followed word for word: checked, drawn, trained on, and not resumed on less."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from tests.conftest import REPOSITORY
from tests.support.commands import mgcda, typed
from tests.support.pages import apply, commands_of, edits_of
from tests.support.shards import frame

PAGE = REPOSITORY / "docs" / "data-without-shards.md"
SMALL = ("model.backbone=test_resnet.r160_in1k", "model.decoder_channels=16", "cacl.projection_dim=16", "optim.steps=4",
         "tracking.system_metrics=false", "tracking.mlflow_uri=none", "data.loader_workers=2")  # fmt: skip


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of the page, and frames of two cities in the layout that they read."""
    (tmp_path / "configs").mkdir()
    apply(edits_of(PAGE), tmp_path)
    for folder, seed in (("city", 1), ("rain", 2), ("held_out", 3)):
        for number in range(5):
            image, label = frame(100 * seed + number)
            label %= 3
            label[:8, :8] = 254 if folder == "held_out" else label[:8, :8]
            for part, pixels in (("images", cv2.cvtColor(image, cv2.COLOR_RGB2BGR)), ("labels", label)):
                (tmp_path / folder / part).mkdir(parents=True, exist_ok=True)
                assert cv2.imwrite(str(tmp_path / folder / part / f"{number}.png"), pixels)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.extended
@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_the_page_word_for_word(project: Path) -> None:
    (commands,) = commands_of(PAGE)
    export, *lines = (line.partition("#")[0].split() for line in commands.splitlines())
    assert export == ["export", "PYTHONPATH=$PWD"]
    check, preview, train = (line[1:] for line in lines)
    keys = {"data.streams.0": "city", "data.streams.1": "rain", "evaluation.sets.0": "held_out"}
    folders = [f"{key}.dataset_arguments.root={project}/{name}" for key, name in keys.items()]
    done = typed(*check, *folders, *SMALL[:3], cwd=project)
    assert done.returncode == 0 and "2 streams of 2 domains" in done.stdout, done.stderr
    done = typed(*preview, *folders, *SMALL[:3], cwd=project)
    assert done.returncode == 0 and (project / "preview.png").is_file(), done.stderr
    path = {"PYTHONPATH": f"{project}:{REPOSITORY}", "HOME": str(project)}
    trained = mgcda(*train, *folders, *SMALL, cwd=project, env=path)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "items of" not in trained.stdout and (project / "runs/mine/model").is_dir()
    manifests = (project / "runs/mine/manifests.json").read_text()
    assert manifests.count('"python:my_data:Frames"') == 3
    results = json.loads((project / "runs/mine/results.json").read_text())["sets"]["held_out"]
    assert results["dataset"] == "Frames" and results["frames"] == 5 and 0 < results["ap"] <= 1
    evaluated = typed("evaluate", "runs/mine", "--max-frames", 2, cwd=project)  # the check has used the code here
    assert evaluated.returncode == 0 and "held_out" in evaluated.stdout, evaluated.stderr
    (project / "rain/images/4.png").unlink()
    refused = mgcda(*train, *folders, *SMALL, cwd=project, env=path)
    assert refused.returncode == 2, refused.stdout
    assert "python:my_data:Frames: the items of train/rain are not those the run started with" in refused.stderr

"""`mgcda demo`: scenes are drawn once, the configuration of the demo is trained on them, and a photo is proposed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from mgcda_dist.cli import train
from mgcda_dist.config.schema import Config
from mgcda_dist.demo_scenes import demo as scenes
from tests.support.commands import refusal, typed
from tests.support.installed import Environment, build_wheel

SMALL = ("model.backbone=test_resnet.r160_in1k", "model.weights=none", "data.crop_px=[64,96]", "scaling.workers=1")
SHORT = ("optim.steps=2", "tracking.mlflow_uri=none")


def test_scenes_are_drawn_once_and_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of small frames; a training is stood in for: that one works is the test below."""
    monkeypatch.setattr(scenes, "write_demo_shards", partial(scenes.write_demo_shards, image_px=(64, 128), workers=1))
    trained: list[Config] = []

    def stand_in(config: Config) -> int:
        trained.append(config)
        return 0

    monkeypatch.setattr(train, "run_training", stand_in)
    first, again = (typed("demo", "--frames-per-domain", 1, *SMALL, "name=a", cwd=tmp_path) for _ in range(2))
    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    assert "drawing 23 scenes and objects" in first.stdout and "drawing" not in again.stdout
    assert "predict PHOTO.jpg" in first.stdout.splitlines()[-1]
    assert [config.name for config in trained] == ["a", "a"]
    assert Path(trained[0].data.streams[0].shards or "") == tmp_path / "shards/demo/render_a/train"


def test_what_cannot_train_is_refused_before_scenes_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "nearest: resnet18" in refusal("demo", "model.backbone=resnet18x", "model.weights=none").remedy
    assert not list(tmp_path.iterdir())


@pytest.mark.extended
@pytest.mark.cluster
@pytest.mark.timeout(280)
def test_it_trains_from_a_wheel_outside_of_a_checkout(tmp_path: Path) -> None:
    environment = Environment(tmp_path / "env", build_wheel(tmp_path / "dist"), "train", "demo")
    work = tmp_path / "work"
    work.mkdir()
    done = environment.run("mgcda", "demo", "--frames-per-domain", 2, *SMALL, *SHORT, cwd=work)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (work / "runs/demo/pictures/findings_real_unseen.png").is_file() and "look at " in done.stdout

"""TensorBoard's event files: read back with its own accumulator, over restarts and on a full disk."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mgcda_dist.tracking import tensorboard
from mgcda_dist.tracking.tensorboard import TensorboardTracker
from mgcda_dist.tracking.tracker import Trackers
from tests.support.event_files import read_events
from tests.support.watched import wait_for


def _picture(path: Path, value: int, size: tuple[int, int] = (12, 8)) -> Path:
    Image.fromarray(np.full((size[1], size[0], 3), value, np.uint8)).save(path)
    return path


def test_everything_that_is_logged_can_be_read_back(tmp_path: Path) -> None:
    tracker = TensorboardTracker(tmp_path / "tensorboard")
    tracker.log_params({"optim": {"steps": 3}, "name": "a|b"})
    tracker.set_tags({"mgcda.seed": "0"})
    tracker.log_dataset("camvid", "c" * 64, "/shards/camvid", "training")
    tracker.log_artifact(tmp_path / "config.yaml")
    assert not (tmp_path / "tensorboard").exists(), "opened by the first metric: until then processes are forked"
    for step in range(3):
        tracker.log_metrics({"loss/total": 2.0 - step, "lr/heads": 1e-3, "time/step_s": math.nan}, step)
    tracker.log_picture("preview_val", _picture(tmp_path / "p.png", 40), 1)
    tracker.log_picture("panel.v2.png", _picture(tmp_path / "panel.v2.png", 80))
    tracker.log_model(tmp_path / "model")
    tracker.log_metrics({"eval/val/ap": 0.5}, 3)
    tracker.close("FINISHED")
    found = read_events(tmp_path / "tensorboard")
    assert found.scalars["loss/total"] == [(0, 2.0), (1, 1.0), (2, 0.0)]
    assert found.scalars["eval/val/ap"] == [(3, 0.5)]
    assert [step for step, _ in found.scalars["time/step_s"]] == [0, 1, 2]
    assert found.pictures["pictures/preview_val"] == [(0, (12, 8), (tmp_path / "p.png").read_bytes())]
    assert [step for step, *_ in found.pictures["pictures/panel.v2"]] == [2]
    assert "| optim.steps | 3 |" in found.texts["parameters"] and "a\\|b" in found.texts["parameters"]
    assert "| status | FINISHED |" in found.texts["tags"] and "| mgcda.seed | 0 |" in found.texts["tags"]
    assert "/shards/camvid" in found.texts["data"] and "config.yaml" in found.texts["files"]
    assert "model" in found.texts["files"]


def test_a_step_that_is_done_again_is_there_once(tmp_path: Path) -> None:
    """The second attempt starts before the end of the first, which was killed in the middle of a record."""
    folder = tmp_path / "tensorboard"
    first = TensorboardTracker(folder)
    for step in range(6):
        first.log_metrics({"loss": float(step)}, step)
    for done in (4, 5):
        first.log_picture("preview", _picture(tmp_path / "p.png", done), done)
    first.close("FAILED")
    (file,) = folder.iterdir()
    with file.open("ab") as torn:
        torn.write(b"\x20\0\0\0\0\0")
    second = TensorboardTracker(folder, start_step=4)
    for step in range(4, 8):
        second.log_metrics({"loss": 10.0 + step}, step)
    second.close("FINISHED")
    found = read_events(folder)
    assert found.scalars["loss"] == [(s, float(s) if s < 4 else 10.0 + s) for s in range(8)]
    assert [step for step, *_ in found.pictures["pictures/preview"]] == [3], "of the checkpoint that it goes on from"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of TensorBoard's thread
def test_a_full_disk_is_said_once_and_the_rest_comes_when_there_is_room(
    small_disk: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, said = small_disk("64k"), list[str]()
    trackers = Trackers([TensorboardTracker(disk / "tensorboard")], warn=said.append)
    trackers.log_metrics({"loss": 0.0}, 0)
    wait_for(lambda: bool(read_events(disk / "tensorboard").scalars), "the first event")
    with (disk / "fill").open("wb") as file, suppress(OSError):
        while True:
            os.write(file.fileno(), bytes(1024))
    step = 0
    while not said:
        step += 1
        trackers.log_metrics({f"loss/of/a/long/name/{n}": 1.0 for n in range(400)}, step)
        time.sleep(0.01)
    trackers.log_metrics({"loss": 0.5}, step + 1)
    assert len(said) == 1 and "TensorboardTracker failed and is not complete: OSError" in said[0]
    assert len([*(disk / "tensorboard").iterdir()]) == 1, "not one file for each step"
    (disk / "fill").unlink()
    monkeypatch.setattr(tensorboard, "_RETRY_S", 1.1)  # a name has a time in seconds
    time.sleep(1.2)
    trackers.log_metrics({"loss": 1.0}, step + 2)
    trackers.close("FINISHED")
    assert read_events(disk / "tensorboard").scalars["loss"] == [(0, 0.0), (step + 2, 1.0)]

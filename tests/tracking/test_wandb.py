"""The W&B tracker: files of the real package offline, and with one in its place that fails or never answers."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mgcda_dist.tracking.wandb import WandbTracker

real = pytest.mark.skipif(
    find_spec("wandb") is None, reason="the extra [wandb] is not installed: requirements/wandb.txt"
)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def instead(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Puts a module in the place of W&B; returns what its run was given."""

    def put(init: Callable[..., None] = lambda **_: None, log: Callable[..., None] = lambda *_: None) -> list[Any]:
        given: list[Any] = []

        def log_and_keep(numbers: dict[str, Any], step: int) -> None:
            log(numbers)
            given.append((step, numbers))

        run = SimpleNamespace(
            log=log_and_keep,
            config=SimpleNamespace(update=lambda content, allow_val_change: given.append(content)),
            finish=lambda exit_code: given.append(exit_code),  # noqa: PLW0108 (called by its name)
        )

        def open_run(**options: Any) -> Any:
            init(**options)
            given.append(options)
            return run

        module: Any = SimpleNamespace(init=open_run, Settings=lambda **settings: settings)
        monkeypatch.setitem(sys.modules, "wandb", module)
        return given

    return put


@real
@pytest.mark.slow
def test_offline_everything_is_in_the_run_folder_and_a_restart_goes_on(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.support.wandb_files import read_offline_run

    monkeypatch.setenv("WANDB_MODE", "online")  # of somebody's shell: the configuration decides
    Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(tmp_path / "p.png")
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation/results.json").write_text("{}")
    for start, end in ((0, 4), (3, 6)):
        tracker = WandbTracker(tmp_path, "mgcda", "demo", warn=said.append, wait_s=120)
        tracker.log_params({"optim": {"steps": 6}})
        tracker.set_tags({"mgcda.seed": "0"})
        tracker.log_dataset("camvid", "c" * 64, "/shards", "training")
        for step in range(start, end):
            tracker.log_metrics({"loss/total": 2.0 - step}, step)
        tracker.log_picture("preview", tmp_path / "p.png", end)
        tracker.log_artifact(tmp_path / "evaluation", "evaluation")
        tracker.log_metrics({"eval/val/ap": 0.5}, end)
        tracker.close("FAILED" if start == 0 else "FINISHED")
    assert said == []
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"))
    first, second = (read_offline_run(folder) for folder in folders)
    assert first.run_id == second.run_id == (tmp_path / "wandb/run_id").read_text()
    assert (first.exit_code, second.exit_code) == (1, 0)
    assert {step: row["loss/total"] for step, row in second.history.items() if "loss/total" in row} == {
        3: -1, 4: -2, 5: -3,
    }  # fmt: skip
    assert second.history[6]["eval/val/ap"] == 0.5 and second.history[6]["pictures/preview/width"] == 12
    assert second.config["optim"] == {"steps": 6} and second.config["tags/mgcda.seed"] == "0"
    assert second.config["datasets/training/camvid"]["source"] == "/shards"
    assert "evaluation/results.json" in second.files


def test_nothing_is_opened_before_the_first_metric_and_no_call_waits(tmp_path: Path, instead: Any) -> None:
    opened = threading.Event()
    given = instead(init=lambda **_: opened.wait(30))
    tracker = WandbTracker(tmp_path, "p", "n")
    tracker.log_params({"a": 1})
    assert not (tmp_path / "wandb").exists()
    started = time.monotonic()
    for step in range(50):
        tracker.log_metrics({"loss": 1.0}, step)
    assert time.monotonic() - started < 5 and not given
    opened.set()
    tracker.close("KILLED")
    options, params, *steps, exit_code = given
    assert options["mode"] == "offline" and options["dir"] == str(tmp_path) and options["resume"] == "allow"
    assert params == {"a": 1} and steps == [(step, {"loss": 1.0}) for step in range(50)] and exit_code == 1
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"


def test_a_failure_is_said_once_and_the_rest_is_handed_over(tmp_path: Path, instead: Any, said: list[str]) -> None:
    def log(numbers: dict[str, float]) -> None:
        if numbers["loss"] < 2:
            raise ConnectionError("gone")

    given = instead(log=log)
    tracker = WandbTracker(tmp_path, "p", "n", warn=said.append)
    for step in range(3):
        tracker.log_metrics({"loss": float(step)}, step)
    tracker.close("FINISHED")
    assert said == ["W&B does not take an entry of the run (ConnectionError: gone)"]
    assert given[1:] == [(2, {"loss": 2.0}), 0]


def test_a_run_that_is_not_taken_is_said_and_nothing_waits_for_it(
    tmp_path: Path, instead: Any, said: list[str]
) -> None:
    def init(**_: Any) -> None:
        raise PermissionError("no API key")

    instead(init=init)
    tracker = WandbTracker(tmp_path, "p", "n", mode="online", warn=said.append)
    for step in range(3):
        tracker.log_metrics({"loss": 1.0}, step)
    tracker.close("FINISHED")
    assert said == ["W&B does not take the run (PermissionError: no API key); training goes on without it"]


def test_the_end_waits_no_longer_than_it_may(tmp_path: Path, instead: Any, said: list[str]) -> None:
    answer = threading.Event()
    instead(log=lambda _: answer.wait(60))
    tracker = WandbTracker(tmp_path, "p", "n", warn=said.append, wait_s=0.2)
    for step in range(3):
        tracker.log_metrics({"loss": 1.0}, step)
    started = time.monotonic()
    tracker.close("FINISHED")
    answer.set()
    assert time.monotonic() - started < 10
    assert said == ["W&B has not taken 3 entries within tracking.wait_s=0.2 s"]

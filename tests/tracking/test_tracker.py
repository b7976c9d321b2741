import logging
from pathlib import Path
from typing import Any

import pytest

from mgcda_dist.tracking.jsonl import JsonlTracker, read_lines
from mgcda_dist.tracking.tracker import Tracker, Trackers


class Broken:
    """A tracker whose vendor has a bad day."""

    def __getattr__(self, name: str) -> Any:
        raise OSError("no space left on device")


def everything(tracker: Tracker, path: Path) -> None:
    tracker.log_params({"a": 1})
    tracker.log_metrics({"loss": 1.0}, 0)
    tracker.log_picture("panel", path)
    tracker.log_artifact(path)
    tracker.log_model(path)
    tracker.log_dataset("camvid", "abc", "/data", "training")
    tracker.set_tags({"a": "b"})
    tracker.close("FINISHED")


def test_a_failing_tracker_is_counted_said_once_and_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken: Any = Broken()
    trackers = Trackers([broken, JsonlTracker(tmp_path / "metrics.jsonl")])
    with caplog.at_level(logging.WARNING):
        everything(trackers, tmp_path / "absent.png")
    assert trackers.num_failures == 8
    assert [record.message for record in caplog.records] == [
        "Broken failed and is not complete: OSError: no space left on device"
    ]
    assert [step for step, _, _ in read_lines(tmp_path / "metrics.jsonl")] == [0]


def test_the_sentence_goes_where_it_is_wanted(tmp_path: Path) -> None:
    said: list[str] = []
    broken: Any = Broken()
    everything(Trackers([broken], said.append), tmp_path)
    assert len(said) == 1


def test_a_rank_without_trackers_records_nothing(tmp_path: Path) -> None:
    everything(Trackers([]), tmp_path)

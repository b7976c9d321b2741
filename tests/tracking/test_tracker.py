from pathlib import Path
from typing import Any

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


def test_a_failing_tracker_is_reported_once_and_stops_no_other(tmp_path: Path) -> None:
    said: list[str] = []
    broken: Any = Broken()
    trackers = Trackers([broken, JsonlTracker(tmp_path / "metrics.jsonl")], said.append)
    everything(trackers, tmp_path / "absent.png")
    assert said == ["Broken failed and is not complete: OSError: no space left on device"]
    assert [step for step, _, _ in read_lines(tmp_path / "metrics.jsonl")] == [0]


def test_a_rank_without_trackers_records_nothing(tmp_path: Path) -> None:
    everything(Trackers([]), tmp_path)

"""A profile of steps: what is recorded and written, and what happens where it cannot be."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch.autograd import DeviceType  # pyright: ignore[reportPrivateImportUsage]
from torch.profiler import profile

from mgcda_dist.training import profiler
from mgcda_dist.training.profiler import WARM_STEPS, Profiler, device_work, union_s

CPU = torch.device("cpu")


class Run:
    """Steps that are three products of matrices, and what a profiler says and keeps of them."""

    def __init__(self, folder: Path, num_steps: int = 2, start_step: int = 100) -> None:
        self.said, self.kept = list[str](), list[Path]()
        self.profiler = Profiler(folder, num_steps, start_step, CPU, self.said.append, self.kept.append)

    def train(self, num_steps: int, of_step: Callable[[], object] = lambda: None) -> None:
        matrix = torch.ones(3, 3)
        for _ in range(num_steps):
            with self.profiler.part("forward"):
                for _ in range(3):
                    matrix = matrix @ matrix.T / 9
            of_step()
            self.profiler.sample()


def test_the_steps_after_the_warm_ones_are_recorded_and_no_others(tmp_path: Path) -> None:
    run = Run(tmp_path / "profile", num_steps=2)
    run.train(WARM_STEPS + 2)
    trace, page = run.kept
    assert [trace.name, page.name] == ["step-00000110.json.gz", "step-00000110.md"]
    run.train(WARM_STEPS + 5)
    run.profiler.close()
    assert len(run.kept) == 2 and len(run.said) == 1, "once"
    assert run.said[0].startswith("steps 110 to 111 are profiled: ") and str(page) in run.said[0]
    names = [event.get("name") for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]]
    assert names.count("aten::mm") == 6 and names.count("step/forward") == 2
    text = page.read_text()
    assert re.search(r"^\| forward \| +\d+\.\d \|$", text, re.MULTILINE)
    assert re.search(r"^\| aten::mm \| +3 \| +\d+\.\d\d \|$", text, re.MULTILINE), "calls of one step, no GPU"
    assert run.profiler.read(1.0) == {}, "processors launch nothing"


def test_parts_are_marked_in_a_recording_of_ours_alone(tmp_path: Path) -> None:
    """A mark that is open where another profiler begins or ends would be written to freed memory."""
    run = Run(tmp_path)
    with profile() as other:
        run.train(2)
    assert "step/forward" not in {event.key for event in other.key_averages()}


def test_what_does_not_fit_into_the_table_is_summed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiler, "_SHOWN_OPERATORS", 1)
    run = Run(tmp_path, num_steps=1)
    run.train(WARM_STEPS + 1)
    rows = re.findall(r"^\| (aten::\w+|all others) \| +(\d+) \|", run.kept[1].read_text(), re.MULTILINE)
    assert len(rows) == 2 and rows[1][0] == "all others" and int(rows[1][1]) > 6


def test_a_failure_is_told_once_and_ends_the_profile_alone(tmp_path: Path) -> None:
    (tmp_path / "profile").write_text("a file where the folder would be")
    run = Run(tmp_path / "profile", num_steps=1)
    run.train(WARM_STEPS + 5)
    run.profiler.close()
    assert len(run.said) == 1 and "no profile: FileExistsError" in run.said[0] and not run.kept


@pytest.mark.parametrize("done", [4, WARM_STEPS + 1])
def test_a_training_that_ends_before_says_so_and_leaves_no_recording_on(tmp_path: Path, done: int) -> None:
    run = Run(tmp_path / "profile", num_steps=3)
    run.train(done)
    run.profiler.close()
    assert run.said == [f"no profile: the training ended after step {99 + done}, steps 110 to 112 are needed"]
    assert not (tmp_path / "profile").exists()
    with profile():  # torch refuses a second one while a first is on
        torch.ones(1).add(1)


def test_a_recording_that_cannot_be_ended_hides_no_error_of_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, num_steps=3)
    run.train(WARM_STEPS + 1)
    ended = profile.__exit__

    def fail(self: profile, *reason: Any) -> None:
        ended(self, *reason)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(profile, "__exit__", fail)
    run.profiler.close()
    assert len(run.said) == 1 and run.said[0].startswith("no profile: the training ended")


def test_launches_of_a_gpu_are_those_of_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiler, "device_work", lambda recorded: (14, 0.02))  # pyright: ignore[reportUnknownArgumentType, reportUnknownLambdaType]
    run = Run(tmp_path, num_steps=2)
    run.train(WARM_STEPS + 2)
    assert run.profiler.read(1.0) == {"time/launches": 7.0} and run.profiler.read(1.0) == {}
    fact = "he GPU ran 7 kernels and copies a step, and was busy for 10.0 ms of it"
    assert run.said[0].endswith(f"; t{fact}") and f"T{fact}." in run.kept[1].read_text()


def test_work_of_a_device_is_kernels_and_copies() -> None:
    def event(start: float, end: float, kind: DeviceType = DeviceType.CUDA, **more: bool) -> Any:
        return SimpleNamespace(device_type=kind, time_range=SimpleNamespace(start=start, end=end), **more)

    events = [event(0, 2e6), event(1e6, 3e6), event(0, 9e6, DeviceType.CPU), event(0, 9e6, is_user_annotation=True)]
    assert device_work(cast(profile, SimpleNamespace(events=lambda: events))) == (2, pytest.approx(3.0))
    assert device_work(cast(profile, SimpleNamespace(events=lambda: events[2:]))) == (None, None)


def test_two_streams_at_work_are_not_twice_the_time() -> None:
    assert union_s([(5e6, 7e6), (0, 2e6), (1e6, 3e6), (1.5e6, 1.6e6)]) == pytest.approx(5.0)
    assert union_s([]) == 0

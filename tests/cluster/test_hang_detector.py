"""The hang detector names the rank that all others wait for, never one that is only slow; ranks agree on a request."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest
import torch

from mgcda_dist.cluster.hang_detector import HangDetector
from mgcda_dist.config.run import ScalingConfig
from mgcda_dist.method.collectives import Collectives, CommStats
from mgcda_dist.training.progress import Progress, Report, StopRequest, agreed
from tests.support.distributed import run_distributed


def _at(step: int, phase: str, moves: int, collective: str = "") -> Report:
    return Report(step, phase, collective, moves)


def test_a_rank_that_does_not_answer_is_named_with_where_it_was() -> None:
    detector = HangDetector(3, timeout_s=10)
    for now in range(6):
        assert detector.update({r: _at(7, "forward", now) for r in range(3)}, now) is None
    waiting = _at(7, "forward", 9, "counts")
    found = [detector.update({0: waiting, 2: waiting}, now) for now in range(6, 18)]
    assert found[:10] == [None] * 10
    hang = found[10]
    assert hang is not None and hang.rank == 1
    assert hang.text == (
        "rank 1 has not answered for 11 s; it was last seen in forward of step 7; meanwhile rank 0, 2 in forward of "
        "step 7, waiting in the collective 'counts'"
    )


def test_a_rank_that_answers_and_does_not_move_is_told_from_those_that_wait_for_it() -> None:
    detector = HangDetector(2, timeout_s=10)
    reports = {0: _at(3, "forward", 40, "counts"), 1: _at(3, "loader", 38)}
    found = [detector.update(reports, now) for now in range(13)]
    assert found[:11] == [None] * 11
    hang = found[11]
    assert hang is not None and hang.rank == 1 and "it is in loader of step 3" in hang.text


def test_a_callback_that_does_not_return_is_named() -> None:
    detector = HangDetector(2, timeout_s=10)
    reports = {0: _at(3, "callback Slow.on_step", 40), 1: _at(4, "forward", 43, "counts")}
    hang = [detector.update(reports, now) for now in range(13)][11]
    assert hang is not None and hang.rank == 0 and "it is in callback Slow.on_step of step 3" in hang.text


def test_no_hang_in_phases_outside_the_loop_or_after_a_pause_of_the_detector() -> None:
    detector = HangDetector(2, timeout_s=10)
    drawing = {0: _at(5, "", 10), 1: _at(5, "checkpoint", 10, "commit")}
    assert [detector.update(drawing, now) for now in range(100)] == [None] * 100
    detector = HangDetector(2, timeout_s=10)
    assert detector.update({0: _at(0, "forward", 1), 1: _at(0, "forward", 1)}, 0) is None
    assert detector.update({}, 3600) is None, "the machine was suspended"


def test_progress_counts_moves_and_collectives() -> None:
    progress, stats = Progress(), CommStats()
    progress.stats = stats
    before = progress.report()
    progress.enter("loader", 4)
    with stats.waits_in("values"):
        seen: list[Report] = []
        reader = threading.Thread(target=lambda: seen.append(progress.report()))
        reader.start()
        reader.join()
    assert seen[0].collective == "values" and seen[0].moves == before.moves + 2
    assert (seen[0].step, seen[0].phase) == (4, "loader")
    assert progress.report().collective == ""


@pytest.mark.parametrize(
    ("requests", "outcome"),
    [
        ([StopRequest.NONE] * 4, StopRequest.NONE),
        ([StopRequest.NONE, StopRequest.LEAVE, StopRequest.NONE, StopRequest.NONE], StopRequest.LEAVE),
        ([StopRequest.LEAVE] * 4, StopRequest.LEAVE),
        ([StopRequest.LEAVE, StopRequest.LEAVE, StopRequest.STOP, StopRequest.NONE], StopRequest.STOP),
        ([StopRequest.STOP] + [StopRequest.LEAVE] * 1023, StopRequest.STOP),
    ],
)
def test_all_ranks_agree_on_the_strongest_request(requests: list[StopRequest], outcome: StopRequest) -> None:
    assert agreed(requests.count(StopRequest.STOP), requests.count(StopRequest.LEAVE)) == outcome


def test_the_first_step_of_a_process_has_a_time_of_its_own() -> None:
    """It compiles, with every rank at the same place for minutes; a later step that stands still is a hang."""
    for step, hangs_after_s in ((5, 100), (6, 10)):
        progress = Progress()
        for seen in range(5, step + 1):
            progress.enter("loader", seen)
            progress.enter("forward", seen)
        detector = HangDetector(2, timeout_s=10, first_step_s=100)
        report = progress.report()
        found = [detector.update({0: report, 1: report}, now) for now in range(110)]
        assert [hang is not None for hang in found].index(True) == hangs_after_s + 1


@pytest.mark.parametrize(
    ("scaling", "compiles", "seconds"),
    [
        ({}, False, 300),
        ({}, True, 1800),
        ({"hang_timeout_s": 4000}, True, 4000),
        ({"first_step_timeout_s": 9}, True, 9),
    ],
)
def test_the_time_of_the_first_step(scaling: dict[str, float], compiles: bool, seconds: float) -> None:
    config = ScalingConfig.model_validate(scaling)
    assert config.first_step_s(compiles=compiles) == seconds
    limit = config.collective_s(compiles=compiles)
    assert limit >= 1800 and limit > seconds + 60, "torch's own limit would end the ranks that wait, and name nobody"


class _OnDevice:
    """A collective as NCCL's: `wait` makes the stream wait and lets the host go on."""

    def __init__(self) -> None:
        self.done = False

    def wait(self) -> bool:
        return True

    def is_completed(self) -> bool:
        return self.done


class _Device:
    """The place of the device of one of two ranks, reached and done; the host never waits for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.works: list[_OnDevice] = []
        self.reached = True
        for name in ("all_reduce", "all_gather_single", "reduce_scatter_single"):
            monkeypatch.setattr(torch.distributed, name, self._start)
        monkeypatch.setattr(Collectives, "size", 2)
        mark = SimpleNamespace(is_reached=lambda: self.reached, ask=lambda question: question())
        monkeypatch.setattr("mgcda_dist.method.collectives._Mark", SimpleNamespace(of=lambda tensor: mark))

    def _start(self, *_: object, async_op: bool = False, **__: object) -> _OnDevice:
        assert async_op, "the host would wait, and could not say in which collective"
        self.works.append(_OnDevice())
        return self.works[-1]


def _every_collective(world: Collectives) -> list[str]:
    """Every kind of collective of a step, forward and backward; the labels in the order of their calls."""
    rows = torch.zeros(2, 3, requires_grad=True)
    total = world.start_sum(torch.ones(1), "counts").wait()
    gathered = world.start_gather(rows, "rows").wait()
    world.sum_with_gradient(gathered.sum() + total, "memory").backward()
    return ["counts", "rows", "memory", "memory_backward", "rows_backward"]


def test_a_collective_that_the_host_has_gone_past_is_still_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL: the host stands in the next read of a value, outside of any collective."""
    device, world, progress = _Device(monkeypatch), Collectives(), Progress()
    progress.stats = world.stats
    progress.enter("forward", 7)
    labels = _every_collective(world)
    assert progress.report() == Report(7, "forward", "counts", 1 + len(labels), 0)
    device.reached = False
    assert str(progress.report()) == "in forward of step 7, its GPU busy before the collective 'counts'"
    for work, label in zip(device.works, labels, strict=True):
        assert progress.report().collective == label
        work.done = True
    assert progress.report() == Report(7, "forward", "", 1 + len(labels), 0)
    for _ in range(100):  # what is done is not kept
        world.start_sum(torch.ones(1), "values").wait()
        device.works[-1].done = True
    assert len(world.stats._open) == 1  # pyright: ignore[reportPrivateUsage]


def test_the_rank_whose_gpu_hangs_is_told_from_those_that_wait_for_it() -> None:
    """All processes stand at the same place; only the devices differ."""
    waiting = [Report(7, "forward", "counts", 40, 0)] * 3
    for culprit in range(3):
        detector = HangDetector(3, timeout_s=10)
        reports = dict(enumerate(waiting)) | {culprit: Report(7, "forward", "counts", 40, 1)}
        hang = [detector.update(reports, now) for now in range(13)][11]
        assert hang is not None and hang.rank == culprit
        assert f"rank {culprit} has not moved for 11 s: it is in forward of step 7, its GPU busy before" in hang.text


def test_nobody_is_blamed_where_no_rank_is_behind() -> None:
    detector = HangDetector(3, timeout_s=10)
    reports = dict.fromkeys(range(3), Report(7, "forward", "counts", 40, 0))
    hang = [detector.update(reports, now) for now in range(13)][11]
    assert hang is not None and hang.text == (
        "no rank has moved for 11 s, and none is behind the others: all are in forward of step 7, waiting in the "
        "collective 'counts'; the network between them, or a GPU"
    )
    detector = HangDetector(1, timeout_s=10)
    hang = [detector.update({0: Report(7, "forward", "", 40)}, now) for now in range(13)][11]
    assert hang is not None and hang.text == "rank 0 has not moved for 11 s: it is in forward of step 7"


def _label_while_waiting() -> str:
    world, seen = Collectives(), [""]
    if world.rank == 1:
        time.sleep(1.0)
    else:
        threading.Timer(0.3, lambda: seen.__setitem__(0, world.stats.waiting)).start()
    assert float(world.start_sum(torch.ones(1), "counts").wait()) == 2
    return seen[0]


def test_comm_stats_name_the_collective_that_a_rank_waits_in() -> None:
    assert run_distributed(_label_while_waiting, 2)[0] == "counts"

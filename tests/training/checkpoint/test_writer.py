"""Checkpoints written while training goes on: one at a time; full disks and deleted folders do not end the run."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mgcda_dist.method.collectives import Collectives
from mgcda_dist.training.checkpoint.snapshot import own_copy, write_state, write_tensors
from mgcda_dist.training.checkpoint.store import CheckpointManifest, CheckpointStore, Files, verify
from mgcda_dist.training.checkpoint.writer import CheckpointWriter
from tests.support.distributed import run_distributed
from tests.support.watched import wait_for


class _Steps:
    """The part of a training loop that a writer needs: a sum over ranks at every step."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.world, self.said = Collectives(), list[str]()
        self.store = CheckpointStore(folder, keep)
        self.writer = CheckpointWriter(self.store, self.world, self.said.append)

    def step(self) -> None:
        signals = torch.tensor(list(self.writer.local_sums().values()), dtype=torch.float64)
        written, failed = self.world.start_sum(signals, "values").wait().tolist()
        self.writer.settle(round(written), round(failed))

    def start(self, step: int, files: Files) -> None:
        self.writer.start(files, CheckpointManifest(step, self.world.size, zero_stage=0))


def _commit_when_all_are_done(folder: str) -> dict[str, object]:
    """On both ranks: rank 1 is slow with step 1, and cannot write step 2; step 3 is written by both."""
    steps, rank = _Steps(Path(folder) / "checkpoints"), Collectives().rank
    gate = Path(folder) / "gate"

    def slow(path: Path) -> None:
        if rank == 1:
            wait_for(gate.exists, "the gate")
        path.write_text("slow")

    def broken(path: Path) -> None:
        if rank == 1:
            raise OSError(5, "Input/output error")
        path.write_text("good")

    steps.start(1, {f"rank-{rank}": slow})
    seen: list[list[int]] = []
    for _ in range(20):  # rank 0 has long written its part
        steps.step()
        seen.append(steps.store.steps())
        time.sleep(0.02)
    if rank == 1:
        gate.touch()
    steps.writer.flush()
    after = steps.store.steps()
    steps.start(2, {f"rank-{rank}": broken})
    flushed = [steps.writer.flush()]
    steps.start(3, {f"rank-{rank}": slow})
    flushed.append(steps.writer.flush())
    return {
        "before": seen,
        "after": after,
        "flushed": flushed,
        "steps": steps.store.steps(),
        "left": sorted(path.name for path in steps.store.folder.iterdir()),
        "said": steps.said,
        "last_good": steps.writer.last_good(),
    }


def _settle(steps: _Steps, step: int) -> None:
    def committed() -> bool:
        steps.step()
        return step in steps.store.steps()

    wait_for(committed, f"step {step} is committed")


def test_steps_go_on_while_it_is_written(tmp_path: Path) -> None:
    steps, gate = _Steps(tmp_path), threading.Event()
    steps.start(1, {"a": lambda path: gate.wait() and path.write_text("a")})
    for _ in range(10):
        steps.step()
    assert steps.store.steps() == []
    gate.set()
    _settle(steps, 1)
    assert verify(steps.store.path(1)).files.keys() == {"a"}
    assert steps.said == []


def test_one_is_written_at_a_time(tmp_path: Path) -> None:
    steps, gate, order = _Steps(tmp_path), threading.Event(), list[str]()

    def first(path: Path) -> None:
        gate.wait()
        path.write_text("1")
        order.append("first")

    steps.start(1, {"a": first})
    threading.Timer(0.3, gate.set).start()
    steps.start(2, {"a": lambda path: order.append("second") or path.write_text("2")})
    assert steps.writer.flush()
    assert order == ["first", "second"]
    assert steps.store.steps() == [1, 2]


@pytest.mark.slow
def test_it_is_committed_when_all_ranks_are_done_and_given_up_when_one_has_failed(tmp_path: Path) -> None:
    first, second = run_distributed(_commit_when_all_are_done, 2, str(tmp_path))
    for found in (first, second):
        assert found["before"] == [[]] * 20
        assert found["after"] == [1] and found["steps"] == [1, 3] and found["flushed"] == [False, True]
        assert found["left"] == ["step-00000001", "step-00000003"]
        assert found["last_good"] == f"The last good checkpoint is {tmp_path}/checkpoints/step-00000003"
    failed, again = first["said"]
    assert "step 2: the checkpoint could not be written" in failed and "Input/output error" in failed
    assert f"the last good one is {tmp_path}/checkpoints/step-00000001" in failed
    assert "step 3: checkpoints are written again, after 1 that were not" in again
    assert second["said"] == []


@pytest.mark.parametrize("write", [write_state, write_tensors])
def test_a_full_disk_is_reported_once_and_the_last_good_checkpoint_stays(
    small_disk: Callable[[str], Path], write: Callable[[dict[str, Tensor], Path], None]
) -> None:
    disk = small_disk("4m")
    steps, num_bytes = _Steps(disk / "checkpoints", keep=1), 2_500_000

    def files() -> Files:
        return {"weights": partial(write, {"x": torch.zeros(num_bytes // 4)}), "b": lambda path: path.write_text("b")}

    steps.start(1, files())
    assert steps.writer.flush() and steps.said == []
    for step in (2, 3):  # there is no room for a second one beside it
        steps.start(step, files())
        assert not steps.writer.flush()
        assert [path.name for path in steps.store.folder.iterdir()] == ["step-00000001"]
        assert verify(steps.store.path(1))
    (said,) = steps.said
    assert f"no space is left for {disk}/checkpoints, a disk of 4 MB" in said and "checkpoint.keep" in said
    assert f"the last good one is {steps.store.path(1)}" in said

    num_bytes = 1_000_000  # now there is room
    steps.start(4, files())
    assert steps.writer.flush()
    assert steps.store.steps() == [4]
    assert "checkpoints are written again, after 2 that were not" in steps.said[1]


def test_a_folder_deleted_during_the_run_is_reported_and_made_again(tmp_path: Path) -> None:
    steps = _Steps(tmp_path / "checkpoints")
    steps.start(1, {"a": lambda path: path.write_text("a")})
    assert steps.writer.flush()
    shutil.rmtree(tmp_path / "checkpoints")
    steps.start(2, {"a": lambda path: path.write_text("a")})
    assert steps.writer.flush()
    assert steps.store.newest() == steps.store.path(2)
    assert steps.said == ["the checkpoints of steps 1 were deleted under the run; the next one is written all the same"]


def test_a_folder_deleted_during_a_write_is_reported(tmp_path: Path) -> None:
    def delete(path: Path) -> None:
        path.write_text("b")
        shutil.rmtree(tmp_path / "checkpoints")

    steps = _Steps(tmp_path / "checkpoints")
    steps.start(1, {"a": lambda path: path.write_text("a"), "b": delete})
    assert not steps.writer.flush()
    (said,) = steps.said
    assert "was deleted while it was written" in said and "there is none yet" in said
    steps.start(2, {"a": lambda path: path.write_text("a")})
    assert steps.writer.flush() and steps.store.steps() == [2]


def test_a_snapshot_does_not_change_with_what_it_was_taken_of() -> None:
    weight, moments = torch.ones(4, 2).T, {"step": torch.tensor(3.0), "betas": (0.9, 0.99)}
    state = {"weight": weight, "again": weight, "moments": [moments], "view": torch.arange(100.0)[:2]}
    copied = own_copy(state)
    weight.zero_()
    moments["step"] += 1
    moments["more"] = 1
    assert copied["weight"].tolist() == [[1.0] * 4] * 2 and copied["again"] is copied["weight"]
    assert copied["moments"] == [{"step": 3.0, "betas": (0.9, 0.99)}]
    assert copied["view"].untyped_storage().nbytes() == 8


def test_a_copy_of_a_state_on_the_host_touches_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker on processors beside GPUs would take memory of one, or fail where it belongs to another process."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: pytest.fail("there is nothing on a GPU"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: pytest.fail("there is nothing on a GPU"))
    assert torch.equal(own_copy({"a": [torch.ones(2)]})["a"][0], torch.ones(2))


def test_a_snapshot_takes_over_the_memory_of_one_before_where_it_fits() -> None:
    tied, other = torch.ones(3), torch.full((3,), 2.0)
    before = own_copy({"a": tied, "b": tied, "c": [torch.zeros(2)], "gone": other})
    after = own_copy({"a": tied + 1, "b": other + 1, "c": [torch.ones(4)], "new": other}, before)
    assert after["a"] is before["a"] and after["b"] is not before["b"]
    assert [after["a"].tolist(), after["b"].tolist(), after["c"][0].tolist()] == [[2.0] * 3, [3.0] * 3, [1.0] * 4]


def test_a_fault_that_was_waited_for_is_still_known_afterwards(tmp_path: Path) -> None:
    """As with `checkpoint.asynchronous: false`, where each is waited for at once."""
    steps = _Steps(tmp_path / "checkpoints")

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    steps.start(1, {"state": full})
    assert [steps.writer.flush() for _ in range(2)] == [False, False]
    steps.start(2, {"state": lambda path: path.write_text("good")})
    assert [steps.writer.flush() for _ in range(2)] == [True, True]

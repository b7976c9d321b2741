"""Checkpoints written while training goes on: one at a time; full disks and deleted folders do not end the run."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mgcda_dist.training.checkpoint.snapshot import own_copy, write_state, write_tensors
from mgcda_dist.training.checkpoint.store import Files, verify
from tests.support.distributed import run_distributed
from tests.support.watched import wait_for
from tests.training.writing import Steps, commit_when_all_are_done


def _settle(steps: Steps, step: int) -> None:
    def committed() -> bool:
        steps.step()
        return step in steps.store.steps()

    wait_for(committed, f"step {step} is committed")


def test_steps_go_on_while_it_is_written(tmp_path: Path) -> None:
    steps, gate = Steps(tmp_path), threading.Event()
    steps.start(1, {"a": lambda path: gate.wait() and path.write_text("a")})
    for _ in range(10):
        steps.step()
    assert steps.store.steps() == []
    gate.set()
    _settle(steps, 1)
    assert verify(steps.store.path(1)).files.keys() == {"a"}
    assert steps.said == []


def test_one_is_written_at_a_time(tmp_path: Path) -> None:
    steps, gate, order = Steps(tmp_path), threading.Event(), list[str]()

    def first(path: Path) -> None:
        gate.wait()
        path.write_text("1")
        order.append("first")

    steps.start(1, {"a": first})
    threading.Timer(0.3, gate.set).start()
    steps.start(2, {"a": lambda path: order.append("second") or path.write_text("2")})
    assert steps.writer.flush()
    assert order == ["first", "second"]
    assert steps.writer.blocked_s > 0.2
    assert steps.store.steps() == [1, 2]


@pytest.mark.slow
def test_it_is_committed_when_all_ranks_are_done_and_given_up_when_one_has_failed(tmp_path: Path) -> None:
    first, second = run_distributed(commit_when_all_are_done, 2, str(tmp_path))
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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small file system here: {mounted.stderr.decode()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("write", [write_state, write_tensors])
def test_a_full_disk_is_said_once_and_the_last_good_one_stays(
    small_disk: Path, write: Callable[[dict[str, Tensor], Path], None]
) -> None:
    steps, num_bytes = Steps(small_disk / "checkpoints", keep=1), 2_500_000

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
    assert f"no space is left for {small_disk}/checkpoints, a disk of 4 MB" in said and "checkpoint.keep" in said
    assert f"the last good one is {steps.store.path(1)}" in said

    num_bytes = 1_000_000  # now there is room
    steps.start(4, files())
    assert steps.writer.flush()
    assert steps.store.steps() == [4]
    assert "checkpoints are written again, after 2 that were not" in steps.said[1]


def test_a_folder_that_is_deleted_under_the_run_is_said_and_made_again(tmp_path: Path) -> None:
    steps = Steps(tmp_path / "checkpoints")
    steps.start(1, {"a": lambda path: path.write_text("a")})
    assert steps.writer.flush()
    shutil.rmtree(tmp_path / "checkpoints")
    steps.start(2, {"a": lambda path: path.write_text("a")})
    assert steps.writer.flush()
    assert steps.store.newest() == steps.store.path(2)
    assert steps.said == ["the checkpoints of steps 1 were deleted under the run; the next one is written all the same"]


def test_a_folder_that_is_deleted_while_it_is_written_to(tmp_path: Path) -> None:
    def delete(path: Path) -> None:
        path.write_text("b")
        shutil.rmtree(tmp_path / "checkpoints")

    steps = Steps(tmp_path / "checkpoints")
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


def test_a_snapshot_takes_over_the_memory_of_one_before_where_it_fits() -> None:
    tied, other = torch.ones(3), torch.full((3,), 2.0)
    before = own_copy({"a": tied, "b": tied, "c": [torch.zeros(2)], "gone": other})
    after = own_copy({"a": tied + 1, "b": other + 1, "c": [torch.ones(4)], "new": other}, before)
    assert after["a"] is before["a"] and after["b"] is not before["b"]
    assert [after["a"].tolist(), after["b"].tolist(), after["c"][0].tolist()] == [[2.0] * 3, [3.0] * 3, [1.0] * 4]

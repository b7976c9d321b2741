"""On a full disk: what a run can do without costs a sentence, what it needs is waited for, up to a bound."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mgcda_dist.errors import CheckpointError
from mgcda_dist.files import write_atomically
from mgcda_dist.runs.room import needed, optional, trouble
from tests.support.disks import Ballast


def test_a_picture_that_cannot_be_drawn_costs_a_sentence() -> None:
    said: list[str] = []

    def fail() -> Path:
        raise RuntimeError("no font")

    assert optional("the preview of step 3", fail, said.append) is None
    assert optional("the preview of step 4", lambda: 4, said.append) == 4
    assert said == ["the preview of step 3: left out (RuntimeError: no font)"]


def test_the_model_is_written_once_there_is_room(small_disk: Callable[[str], Path]) -> None:
    disk, said = small_disk("1m"), list[str]()
    path = disk / "model"
    with Ballast(disk) as ballast:
        threading.Timer(1.5, ballast.remove).start()
        needed("the model", lambda: write_atomically(path, bytes(300_000)), disk, said.append, limit_s=60)
    assert path.stat().st_size == 300_000
    (text,) = said
    assert text.startswith(f"the model cannot be written to {disk} (No space left on device): waiting for room")


def test_waiting_for_room_has_a_bound_and_other_errors_have_no_wait(small_disk: Callable[[str], Path]) -> None:
    disk, said = small_disk("1m"), list[str]()
    with Ballast(disk), pytest.raises(CheckpointError, match=r"within checkpoint\.room_wait_s=0\.1 s") as error:
        needed("the model", lambda: write_atomically(disk / "model", bytes(9999)), disk, said.append, limit_s=0.1)
    assert "make room; the same command goes on" in error.value.remedy and list(disk.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        needed("the model", (disk / "none").read_bytes, disk, said.append, limit_s=60)


def test_a_full_disk_is_noticed_from_outside(small_disk: Callable[[str], Path]) -> None:
    disk = small_disk("1m")
    assert trouble(disk) == ""
    with Ballast(disk):
        assert trouble(disk) == f"no space is left on the disk of {disk}"
    assert "No such file" in trouble(disk / "none")

"""Lines on a full disk: they wait in memory, in order, are whole when they are written, and are counted when lost."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mgcda_dist.lines import LineFile, append_line
from tests.support.disks import Ballast
from tests.support.watched import wait_for


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


class Refusing:
    """`os.write` of a disk that still takes so many bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, left: int) -> None:
        self.left, self._write = left, os.write
        monkeypatch.setattr(os, "write", self)

    def __call__(self, handle: int, data: bytes) -> int:
        if not self.left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = self._write(handle, data[: self.left])
        self.left -= done
        return done


def test_lines_wait_in_order_and_are_written_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    file = LineFile(tmp_path / "new" / "a.jsonl", said.append)
    file.append("first")
    with monkeypatch.context() as patch:
        Refusing(patch, left=0)
        for index in range(20):
            file.append(f"line {index}")
        assert file.num_waiting == 20 and not file.flush()
        assert said == [f"{file.path} cannot be written (No space left on device): its lines wait in memory"]
    wait_for(lambda: not file.num_waiting, "the lines are written without another call", 20)
    assert _lines(file.path) == ["first", *(f"line {index}" for index in range(20))]
    wait_for(lambda: len(said) == 2, "a word that they are", 20)
    assert said[1] == f"{file.path} is written again. Lines that had to wait: 20"


@pytest.mark.parametrize("left", [1, 5, 7, 11])
def test_a_part_of_a_line_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int) -> None:
    file = LineFile(tmp_path / "a.jsonl", lambda text: None)
    file.append("first")
    with monkeypatch.context() as patch:
        Refusing(patch, left)
        file.append("second")
        file.append("third")
        assert _lines(file.path) == ["first", "second"][: 1 + (left >= len("second\n"))]
    wait_for(file.flush, "the rest", 20)
    assert _lines(file.path) == ["first", "second", "third"]


def test_what_another_process_appends_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write = tmp_path / "a.jsonl", os.write
    parts = iter((3,))

    def half(handle: int, data: bytes) -> int:
        for length in parts:
            write(handle, data[:length])
            with path.open("ab") as other:
                other.write(b"|other\n")
            return length
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file = LineFile(path, lambda text: None)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        file.append("second")
    wait_for(file.flush, "the line", 20)
    assert _lines(path) == ["sec|other", "second"]


def test_a_bound_of_memory_is_said_and_the_lost_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    file = LineFile(tmp_path / "a.jsonl", said.append, max_bytes=50)
    with monkeypatch.context() as patch:
        Refusing(patch, left=0)
        for index in range(9):
            file.append(f"line {index:04d}")
    wait_for(lambda: len(said) == 3, "the end", 20)
    assert _lines(file.path) == [f"line {index:04d}" for index in range(5)]
    assert "5e-05 MB of lines wait in memory: further lines are lost" in said[1]
    assert said[2].endswith("Lines that had to wait: 5, lost: 4")


def test_half_a_line_of_a_crash_stays_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'whole\n{"half')
    append_line(path, "next")
    assert path.read_bytes() == b'whole\n{"half\nnext\n'


def test_a_folder_that_is_deleted_is_made_again(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "run" / "a.jsonl", lambda text: None)
    file.append("first")
    file.path.unlink()
    file.path.parent.rmdir()
    file.append("second")
    assert _lines(file.path) == ["second"]


def test_a_preparation_is_done_before_the_first_line(tmp_path: Path) -> None:
    attempts: list[Path] = []

    def prepare() -> None:
        attempts.append(tmp_path)
        if len(attempts) == 1:
            raise OSError(errno.EROFS, "Read-only file system")

    file = LineFile(tmp_path / "a.jsonl", lambda text: None, prepare=prepare)
    file.append("first")
    assert not file.path.exists()
    wait_for(lambda: not file.num_waiting, "the line", 20)
    assert _lines(file.path) == ["first"] and len(attempts) == 2


def test_on_a_disk_that_is_full(small_disk: Callable[[str], Path]) -> None:
    """The real error, with a line of which the disk takes a part."""
    disk = small_disk("256k")
    said: list[str] = []
    file = LineFile(disk / "a.jsonl", said.append)
    lines = [f"{index} " + "x" * 3000 for index in range(40)]
    for line in lines[:4]:
        file.append(line)
    with Ballast(disk):
        for line in lines[4:]:
            file.append(line)
        assert file.num_waiting > 30 and "No space left on device" in said[0]
        assert _lines(file.path) == lines[: 40 - file.num_waiting]
    wait_for(lambda: not file.num_waiting, "the lines", 20)
    assert _lines(file.path) == lines

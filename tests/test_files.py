"""Atomic files and folders: an interrupted write, a full disk or a second writer never leave a part of a file."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from mgcda_dist.errors import MgcdaError
from mgcda_dist.files import (
    PendingFile,
    pending_folder,
    prepare_file,
    prepare_folder,
    remove_leftovers,
    replace_folder,
    write_atomically,
    write_json_atomically,
)


@contextmanager
def full_disk(num_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond this size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("content", ["Öl\n", "Öl\n".encode(), lambda path: path.write_text("Öl\n", encoding="utf-8")])
def test_text_bytes_and_writers(content: object, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.txt"
    for _ in range(2):
        write_atomically(path, content)  # pyright: ignore[reportArgumentType]
        assert path.read_bytes() == b"\xc3\x96l\n"
        assert os.listdir(path.parent) == ["file.txt"]


def test_json_is_readable_and_strict(tmp_path: Path) -> None:
    path = tmp_path / "numbers.json"
    write_json_atomically(path, {"ä": 1.5})
    assert "ä" in path.read_text(encoding="utf-8") and json.loads(path.read_bytes()) == {"ä": 1.5}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json_atomically(path, {"a": float("nan")})
    assert json.loads(path.read_bytes()) == {"ä": 1.5}


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, write)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("content", ["x" * 5000, b"x" * 5000, lambda path: path.write_text("x" * 5000)])
def test_a_full_disk_leaves_the_old_file(content: object, tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with full_disk(1000), pytest.raises(OSError, match="File too large"):
        write_atomically(path, content)  # pyright: ignore[reportArgumentType]
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file.txt"]


def test_a_killed_process_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    code = (
        "import os, signal, sys; from pathlib import Path; from mgcda_dist.files import write_atomically\n"
        "def write(path): path.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_atomically(Path(sys.argv[1]), write)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    remove_leftovers(tmp_path / "file")
    assert len(os.listdir(tmp_path)) == 2
    remove_leftovers(path)
    assert os.listdir(tmp_path) == ["file.txt"]


def test_concurrent_writers_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    contents = [letter * 200_000 for letter in "abcdefgh"]
    with ThreadPoolExecutor(8) as pool:
        writes = [pool.submit(write_atomically, path, content) for content in contents * 5]
        while not all(write.done() for write in writes):
            assert not path.exists() or path.read_text() in contents
    for write in writes:
        write.result()
    assert path.read_text() in contents and os.listdir(tmp_path) == ["file.txt"]


def test_permissions_are_those_of_an_ordinary_file(tmp_path: Path) -> None:
    (tmp_path / "ordinary").write_text("")

    def write_private(temporary: Path) -> None:
        temporary.unlink()
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))

    write_atomically(tmp_path / "ours", write_private)
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "ordinary").stat().st_mode
    (tmp_path / "ours").chmod(0o640)
    write_atomically(tmp_path / "ours", "again")
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == 0o640


def test_a_pending_file_can_be_kept_open(tmp_path: Path) -> None:
    kept, dropped = PendingFile(tmp_path / "film.mp4", ".part.mp4"), PendingFile(tmp_path / "other")
    assert kept.temporary.suffix == ".mp4" and not kept.path.exists()
    kept.temporary.write_text("content")
    kept.commit()
    dropped.discard()
    dropped.discard()
    assert os.listdir(tmp_path) == ["film.mp4"] and kept.path.read_text() == "content"


def test_a_folder_is_swapped_whole(tmp_path: Path) -> None:
    path = tmp_path / "model"
    for names in (["a", "b"], ["c"]):
        with pending_folder(path) as folder:
            for name in names:
                (folder / name).write_text(name)
            assert not (path / names[0]).exists()
        assert sorted(os.listdir(path)) == names and os.listdir(tmp_path) == ["model"]
    with pytest.raises(FileNotFoundError), pending_folder(path) as folder:
        (folder / "d" / "e").write_text("there is no folder d")
    assert os.listdir(path) == ["c"] and os.listdir(tmp_path) == ["model"]


def test_a_folder_that_cannot_be_renamed_brings_the_old_one_back(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").write_text("old")
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / "nowhere", path)
    assert os.listdir(path) == ["old"] and os.listdir(tmp_path) == ["model"]


def test_a_place_for_results_is_made_and_tried_and_nothing_is_left_in_it(tmp_path: Path) -> None:
    prepare_folder(tmp_path / "a/b")
    prepare_file(tmp_path / "a/c/x.png")
    assert sorted(path.name for path in (tmp_path / "a").rglob("*")) == ["b", "c"]
    (tmp_path / "afile").touch()
    long = "x" * 300
    for prepare, place, problem in (
        (prepare_folder, "afile", "afile: is a file\n  → give a folder"),
        (prepare_folder, "afile/b", "cannot be written to .Not a directory"),
        (prepare_folder, long, "cannot be written to .File name too long"),
        (prepare_file, "a", "a: is a folder\n  → give a file"),
        (prepare_file, "afile/x.png", "afile: is a file"),
    ):
        with pytest.raises(MgcdaError, match=problem):
            prepare(tmp_path / place)

"""Faults of storage: they hit what they are meant for, and pass."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from mgcda_dist.chaos.storage import full_disk, obstacle, read_only

_WRITER = """
import sys
for line in sys.stdin:
    try:
        with open("file", "ab", buffering=0) as file:
            file.write(line.encode())
        print("written", flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
"""


def _said(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(text + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def test_a_full_disk_hits_the_given_processes_and_passes(tmp_path: Path) -> None:
    with ExitStack() as running:
        hit, other = (
            running.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", _WRITER],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    cwd=tmp_path,
                )
            )
            for _ in range(2)
        )
        assert _said(hit, "before") == "written"
        with full_disk([hit.pid, 2**22 - 1]) as done:
            assert done == f"no file of processes {hit.pid} grows"
            assert _said(hit, "lost") == "File too large" and _said(other, "other") == "written"
        assert _said(hit, "after") == "written"
    assert (tmp_path / "file").read_text() == "before\nother\nafter\n"


def test_a_read_only_folder_is_one_for_a_while(tmp_path: Path) -> None:
    if reason := obstacle("read-only"):
        pytest.skip(reason)
    folder, script = tmp_path / "run", tmp_path / "script.sh"
    (folder / "below").mkdir(parents=True)
    (folder / "below/old").write_text("old")
    script.write_text(
        "echo x >> run/below/old; mkdir run/new; mv run/below/old run/moved; echo y > run/below/new; true"
    )
    with read_only(folder) as done:
        assert done == f"{folder} is read-only"
        found = subprocess.run(["sh", str(script)], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert found.stderr.count("\n") >= 4
    assert (folder / "below/old").read_text() == "old" and len(list(folder.rglob("*"))) == 2
    (folder / "below/old").write_text("new")
    assert not os.path.ismount(folder)

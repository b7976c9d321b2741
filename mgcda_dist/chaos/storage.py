"""Faults of storage: for a while nothing can be written, and then it can be again.

A full disk is a limit on the files of the run's processes (RLIMIT_FSIZE): no file grows, whether Python, torch or
SQLite write it, in whichever folder. A small file system for one folder would need the rights to mount it, could not
hold the database beside the run, and would fill memory; filling the own disk would hit others. The error is EFBIG
in the place of ENOSPC; that one, on a small file system, is tested in tests/cluster/test_full_disk.py.
"""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mgcda_dist.errors import MgcdaError

__all__ = ["full_disk", "obstacle", "read_only"]

_NO_WRITING = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


@contextmanager
def full_disk(processes: Sequence[int]) -> Iterator[str]:
    """No file that these processes write grows while the block runs; gives a description."""
    before: dict[int, tuple[int, int]] = {}
    try:
        for process in processes:
            with suppress(ProcessLookupError):
                limits = resource.prlimit(process, resource.RLIMIT_FSIZE)
                resource.prlimit(process, resource.RLIMIT_FSIZE, (0, limits[1]))
                before[process] = limits
        yield f"no file of processes {', '.join(map(str, before))} grows"
    finally:
        for process, limits in before.items():
            with suppress(ProcessLookupError):
                resource.prlimit(process, resource.RLIMIT_FSIZE, limits)


@contextmanager
def read_only(folder: Path) -> Iterator[str]:
    """Nothing below a folder can be written, made or renamed while the block runs; gives a description.

    Root, whom modes do not bind, mounts the folder over itself.

    Raises:
        MgcdaError: root who may not mount, as in many containers.
    """
    with _mounted_read_only(folder) if os.geteuid() == 0 else _without_write_modes(folder):
        yield f"{folder} is read-only"


def obstacle(kind: str) -> str:
    """The reason a fault of this kind is impossible here; empty: it is possible."""
    if kind != "read-only":
        return ""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with read_only(Path(folder)):
                return ""
        except MgcdaError as error:
            return error.problem


@contextmanager
def _mounted_read_only(folder: Path) -> Iterator[None]:
    _mount("mount", "--bind", str(folder), str(folder))
    try:
        # Files that are open stay writable, as they were opened below.
        _mount("mount", "-o", "remount,bind,ro", str(folder))
        yield
    finally:
        _mount("umount", "--lazy", str(folder))


def _mount(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        said = f"{command[0]}: {error.strerror}"
    if said:
        raise MgcdaError("read-only", f"root may not mount here ({said})", "use an account without root's rights")


@contextmanager
def _without_write_modes(folder: Path) -> Iterator[None]:
    modes = {path: path.stat().st_mode for path in [folder, *folder.rglob("*")] if not path.is_symlink()}
    try:
        for path, mode in modes.items():
            path.chmod(mode & ~_NO_WRITING)
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)

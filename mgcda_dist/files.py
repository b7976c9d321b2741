"""Files and folders that appear whole or not at all: written beside their path, flushed to disk, then renamed."""

from __future__ import annotations

import glob
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from mgcda_dist.errors import MgcdaError

__all__ = [
    "PendingFile",
    "flush_to_disk",
    "pending_folder",
    "prepare_file",
    "prepare_folder",
    "remove_leftovers",
    "replace_folder",
    "write_atomically",
    "write_json_atomically",
]

_TOKEN_LENGTH = 8


class PendingFile:
    """A file that is written under a temporary name of its own and then takes the place of `path`.

    As a context it gives the temporary path, commits at the end of the block, and discards after an exception.

    Args:
        path: where the file will be; its folder is made.
        suffix: end of the temporary name, for writers that choose their format by it.

    Attributes:
        temporary: an empty file beside `path`, which nothing else writes to.
    """

    def __init__(self, path: Path, suffix: str = ".part") -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.temporary = path, _beside(path, suffix)
        self.temporary.touch()
        # What opening the path itself would give; some writers make files that their owner alone can read.
        self._mode = (path if path.exists() else self.temporary).stat().st_mode

    def __enter__(self) -> Path:
        return self.temporary

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is None:
            self.commit()
        else:
            self.discard()

    def commit(self) -> None:
        """Put the file in its place; what was there is replaced.

        Raises:
            OSError: what was there stays, and the temporary file is gone.
        """
        try:
            if self.temporary.stat().st_mode != self._mode:
                self.temporary.chmod(self._mode)
            flush_to_disk(self.temporary)
            os.replace(self.temporary, self.path)
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove the temporary file, if it is there."""
        self.temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes | Callable[[Path], object]) -> None:
    """Write a file: the path has its former content, or the new one, and never a part of it.

    Args:
        path: the file; its folder is made.
        content: text (as UTF-8), bytes, or what writes a file to the path it is given.

    Raises:
        OSError: a full disk, a folder that cannot be written to; the former content stays.
    """
    with PendingFile(path) as temporary:
        if isinstance(content, str):
            temporary.write_bytes(content.encode())
        elif isinstance(content, bytes):
            temporary.write_bytes(content)
        else:
            content(temporary)


def write_json_atomically(path: Path, content: Any, *, indent: int = 1) -> None:
    """Write a file of JSON with `write_atomically`.

    Raises:
        ValueError: a number that JSON does not have (NaN, infinity).
        OSError: as `write_atomically`.
    """
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
    # A file name of another encoding holds surrogates: `\udce9` is how JSON writes one.
    write_atomically(path, text.encode("utf-8", "backslashreplace"))


def prepare_folder(folder: Path) -> None:
    """Make a folder for results and try to write into it, before time is spent on them.

    Raises:
        MgcdaError: it is a file, or cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        PendingFile(folder / "probe").discard()
    except OSError as error:
        problem = "is a file" if os.path.isfile(folder) else f"cannot be written to ({error.strerror})"
        raise MgcdaError(str(folder), problem, "give a folder that can be written to") from None


def prepare_file(path: Path) -> None:
    """Make the folder of a file that will be written and try to write there, before time is spent on its content.

    Raises:
        MgcdaError: the path is a folder, or cannot be written.
    """
    if os.path.isdir(path):  # unlike Path.is_dir, also for names that are too long
        raise MgcdaError(str(path), "is a folder", "give a file")
    prepare_folder(path.parent)


@contextmanager
def pending_folder(path: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `path` at the end of the block, and is removed after an exception."""
    temporary = _beside(path, ".part")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in [*temporary.rglob("*"), temporary]:
            flush_to_disk(file)
        replace_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(folder: Path, path: Path) -> None:
    """Rename a folder to `path`; one that is there is removed after that, and stays if the renaming fails."""
    former = _beside(path, ".old")
    if path.exists():
        os.rename(path, former)
    try:
        os.rename(folder, path)
    except BaseException:
        if former.exists():
            os.rename(former, path)
        raise
    flush_to_disk(path.parent)
    shutil.rmtree(former, ignore_errors=True)


def remove_leftovers(path: Path) -> None:
    """Remove temporary files of `path` that killed processes have left; for a caller who knows that nobody writes."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.{'?' * _TOKEN_LENGTH}.part"):
        left.unlink(missing_ok=True)


def flush_to_disk(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, would survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:_TOKEN_LENGTH]}{suffix}")

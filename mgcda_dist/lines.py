"""Lines appended to a file: what a full disk does not take waits in memory, in order, and goes first when there is.

A line is in the file whole or not at all: a part of it that the disk still took is taken back.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

__all__ = ["LineFile", "append_line"]

_TRY_AGAIN_S = 0.5
_MAX_WAITING_BYTES = 64 * 2**20


class LineFile:
    """A file of lines that raises no OSError; for all threads of a process, beside other processes that append, too.

    While lines wait, a thread tries to write them twice a second.

    Args:
        path: its folder is made, and made again if it is deleted.
        tell: receives a sentence when lines begin to wait, when the bound is reached, and when all are written.
        max_bytes: bound of the lines that wait; a line that comes when it is reached is lost, and counted.
        prepare: done before the first line is written, again until it raises no OSError.
    """

    def __init__(
        self,
        path: Path,
        tell: Callable[[str], None],
        *,
        max_bytes: int = _MAX_WAITING_BYTES,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        self.path, self._tell, self._max_bytes, self._prepare = path, tell, max_bytes, prepare
        self._lines: deque[bytes] = deque()
        self._is_failing, self._num_late, self._num_lost = False, 0, 0
        self._lock = threading.RLock()
        self._retrying: threading.Thread | None = None

    @property
    def num_waiting(self) -> int:
        """Lines that are not in the file yet."""
        return len(self._lines)

    def append(self, line: str) -> None:
        """Append a line, given without its end."""
        data = _encoded(line)
        with self._lock:
            if self._is_failing and sum(map(len, self._lines)) + len(data) > self._max_bytes:
                self._lose()
            else:
                self._lines.append(data)
            self.flush()

    def flush(self) -> bool:
        """Write what waits; True if nothing waits any more."""
        with self._lock:
            before = len(self._lines)
            try:
                if self._prepare is not None:
                    self._prepare()
                    self._prepare = None
                _move(self._lines, self.path)
            except OSError as error:
                self._fail(error)
            self._num_late += (before - len(self._lines)) * self._is_failing
            if self._is_failing and not self._lines and self._prepare is None:
                lost = f", lost: {self._num_lost}" if self._num_lost else ""
                self._tell(f"{self.path} is written again. Lines that had to wait: {self._num_late}{lost}")
                self._is_failing, self._num_late, self._num_lost = False, 0, 0
            return not self._lines

    def _fail(self, error: OSError) -> None:
        if not self._is_failing:
            self._is_failing = True
            self._tell(f"{self.path} cannot be written ({error.strerror or error}): its lines wait in memory")
        if self._retrying is None:
            self._retrying = threading.Thread(target=self._try_again, name="lines", daemon=True)
            self._retrying.start()

    def _lose(self) -> None:
        self._num_lost += 1
        if self._num_lost == 1:
            bound = f"{self._max_bytes / 1e6:.3g} MB of lines"
            self._tell(f"{self.path} cannot be written, and {bound} wait in memory: further lines are lost")

    def _try_again(self) -> None:
        while True:
            time.sleep(_TRY_AGAIN_S)
            with self._lock:
                self.flush()
                if not self._is_failing:
                    self._retrying = None
                    return


def append_line(path: Path, line: str) -> None:
    """Append a line to a file.

    Raises:
        OSError: a full disk, a folder that cannot be written to; the file is as it was.
    """
    _move(deque([_encoded(line)]), path)


def _encoded(line: str) -> bytes:
    return line.encode() + b"\n"


def _move(lines: deque[bytes], path: Path) -> None:
    """Append the lines to the file; each that is written leaves the queue."""
    if not lines:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, written = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666), 0
    try:
        for line in lines:
            _append(handle, line)
            written += 1
    finally:
        os.close(handle)  # of a network file system this may say that nothing was kept
        for _ in range(written):
            lines.popleft()


def _append(handle: int, line: bytes) -> None:
    end = os.lseek(handle, 0, os.SEEK_END)
    if end and os.pread(handle, 1, end - 1) != b"\n":
        line = b"\n" + line  # a crash has left half a line, which must not merge with this one
    done = 0
    try:
        while done < len(line):
            done += os.write(handle, line[done:])
    except OSError:
        if done and os.fstat(handle).st_size == end + done:  # no other process has appended since
            with suppress(OSError):
                os.ftruncate(handle, end)
        raise

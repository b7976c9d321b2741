"""Writing on a disk that may be full: what a run can do without is left out, what it needs is waited for."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mgcda_dist.errors import CheckpointError

__all__ = ["needed", "optional", "trouble"]

_T = TypeVar("_T")
_LOG = logging.getLogger(__name__)
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
_TRY_AGAIN_S = 1.0
_LEAST_BYTES = 2**16


def optional(what: str, write: Callable[[], _T], say: Callable[[str], None]) -> _T | None:
    """The result of `write`; None after a failure of any kind, which is said: training goes on without it."""
    try:
        return write()
    except Exception as error:
        _LOG.exception("without %s", what)
        say(f"{what}: left out ({_reason(error)})")
        return None


def needed(what: str, write: Callable[[], _T], folder: Path, say: Callable[[str], None], limit_s: float) -> _T:
    """The result of `write`, tried again while there is no room for it.

    Args:
        what: for the user, `the model`.
        folder: where it is written.
        limit_s: `checkpoint.room_wait_s`.

    Raises:
        CheckpointError: there was no room for so long.
        OSError: another error of the file system.
    """
    begun, said = time.monotonic(), False
    while True:
        try:
            return write()
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            if time.monotonic() - begun > limit_s:
                raise CheckpointError(
                    str(folder),
                    f"{what} could not be written within checkpoint.room_wait_s={limit_s:g} s ({_reason(error)})",
                    "make room; the same command goes on from the last checkpoint",
                ) from error
            if not said:
                said = True
                say(
                    f"{what} cannot be written to {folder} ({_reason(error)}): waiting for room, at most "
                    f"{limit_s:g} s (checkpoint.room_wait_s)"
                )
            time.sleep(_TRY_AGAIN_S)


def trouble(folder: Path) -> str:
    """The reason nothing can be written below a folder, in words; empty: it can be."""
    try:
        disk = os.statvfs(folder)
    except OSError as error:
        return f"{folder}: {error.strerror}"
    if disk.f_flag & os.ST_RDONLY:
        return f"the file system of {folder} is read-only"
    free = disk.f_bfree if os.geteuid() == 0 else disk.f_bavail
    return f"no space is left on the disk of {folder}" if free * disk.f_frsize < _LEAST_BYTES else ""


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"

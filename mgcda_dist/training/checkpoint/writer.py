"""Writes checkpoints while training goes on: one at a time, sealed when every rank says that its files are whole.

Nothing here adds a collective to a step. Each rank's state (`written` or `failed`) travels as signals in the step's sum
of values, so that all ranks learn at the same step that all are done; rank 0 then seals. Only `start`, of a checkpoint
whose predecessor is still being written, and `flush` wait.
"""

from __future__ import annotations

import errno
import logging
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mgcda_dist.method.collectives import Collectives
from mgcda_dist.training.checkpoint.store import CheckpointStore, Files

__all__ = ["SIGNALS", "CheckpointWriter"]

_LOG = logging.getLogger(__name__)

SIGNALS = ("written", "failed")
"""Names of the numbers whose sums over ranks `settle` needs."""


class CheckpointWriter:
    """One rank's part in the checkpoints of one attempt. Construct it on every rank: rank 0 clears and chooses a token.

    Args:
        store: the checkpoints; only rank 0's view of them counts.
        world: the ranks.
        say: receives sentences for the user; called on rank 0.
    """

    def __init__(self, store: CheckpointStore, world: Collectives, say: Callable[[str], None]) -> None:
        self._store, self._world, self._say = store, world, say
        if world.rank == 0:
            store.clear()
        self._token = world.gather_objects(uuid.uuid4().hex[:8], "checkpoint")[0]
        self._pending: _Pending | None = None
        self._sealing: _Task | None = None
        self._last_failure = ""
        self._num_failures = 0
        self._sealed: set[int] = set(store.steps()) if world.rank == 0 else set()
        self.blocked_s = 0.0

    def start(self, files: Files, facts: Mapping[str, Any]) -> None:
        """Begin to write the checkpoint of `facts["step"]` and return; a collective when one is being written still.

        Args:
            files: what this rank writes; nobody else may change what they hold.
            facts: for checkpoint.json; those of rank 0 count.
        """
        start = time.perf_counter()
        self.wait()
        if self._world.rank == 0:
            self._notice_deletion()
        place = self._store.place(facts["step"], self._token)
        task = _Task(lambda: self._store.write(place, files, self._world.rank))
        self._pending = _Pending(place, facts, task)
        self.blocked_s += time.perf_counter() - start

    def wait(self) -> None:
        """Wait until what is being written is sealed or given up; a collective when there is something."""
        if self._pending is not None:
            self.flush()
        if self._sealing is not None:
            self._sealing.wait()

    def signals(self) -> dict[str, float]:
        """State of the pending checkpoint on this rank."""
        done = self._pending is not None and self._pending.task.is_done
        failed = done and self._pending is not None and self._pending.task.error is not None
        return {"written": float(done and not failed), "failed": float(failed)}

    def settle(self, written: int, failed: int) -> None:
        """Seal or discard once all ranks are done.

        Args:
            written, failed: sums over ranks of `signals`, equal on every rank.
        """
        if self._pending is not None and written + failed == self._world.size:
            self._close(self._world.gather_objects(self._reason(), "checkpoint") if failed else [])

    def flush(self) -> bool:
        """Wait until what is being written is sealed; a collective.

        Returns:
            False when it could not be written or sealed, on every rank; the user was told.
        """
        if self._pending is not None:
            self._pending.task.wait()
            self._close(self._world.gather_objects(self._reason(), "checkpoint"))
        good = True
        if self._sealing is not None:
            self._sealing.wait()
            good = self._sealing.error is None
            self._sealing = None
        return self._world.gather_objects(good, "checkpoint")[0]

    def last_good(self) -> str:
        """Description of the checkpoint to return to, after committing the pending one; a collective."""
        self.flush()
        newest = self._store.newest() if self._world.rank == 0 else None
        text = f"The last good checkpoint is {newest}" if newest else "There is no checkpoint yet"
        return self._world.gather_objects(text, "checkpoint")[0]

    def _reason(self) -> str:
        error = None if self._pending is None else self._pending.task.error
        return "" if error is None else _in_words(error, self._store.folder)

    def _close(self, reasons: list[str]) -> None:
        """All ranks have finished writing: seal, or say why not, on rank 0 and beside the steps."""
        pending, self._pending = self._pending, None
        assert pending is not None
        if self._world.rank != 0:
            return
        reason = next((reason for reason in reasons if reason), "")
        self._sealing = _Task(lambda: self._seal(pending, reason))

    def _seal(self, pending: _Pending, reason: str) -> None:
        step = pending.facts["step"]
        try:
            if reason:
                raise _NotWrittenError(reason)
            self._store.seal(pending.place, self._world.size, pending.facts)
        except (OSError, _NotWrittenError) as error:
            self._store.discard(pending.place)
            self._failed(step, str(error) if isinstance(error, _NotWrittenError) else _in_words(error, pending.place))
            raise
        self._sealed = set(self._store.steps())
        if self._num_failures:
            self._say(f"step {step}: checkpoints are written again, after {self._num_failures} that were not")
        self._num_failures, self._last_failure = 0, ""

    def _failed(self, step: int, reason: str) -> None:
        self._num_failures += 1
        if reason == self._last_failure:
            _LOG.warning("the checkpoint of step %d could not be written: %s", step, reason)
            return
        self._last_failure = reason
        newest = self._store.newest()
        self._say(
            f"step {step}: the checkpoint could not be written ({reason}). Training goes on and tries again at the "
            + (f"next one; the last good one is {newest}" if newest else "next one; there is none yet")
        )

    def _notice_deletion(self) -> None:
        """Say it when sealed checkpoints are gone that nobody here has dropped."""
        gone = self._sealed - set(self._store.steps())
        if gone:
            listing = ", ".join(map(str, sorted(gone)))
            self._say(
                f"the checkpoints of steps {listing} were deleted under the run; the next one is written all the same"
            )
            self._sealed -= gone


class _NotWrittenError(Exception):
    """Some rank's files are not whole."""


class _Pending:
    """The checkpoint that is being written: where, what it will say, and this rank's work on it."""

    def __init__(self, place: Path, facts: Mapping[str, Any], task: _Task) -> None:
        self.place, self.facts, self.task = place, facts, task


class _Task:
    """A call in a thread of its own; an exception is kept."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.error: Exception | None = None
        self._call = call
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._call()
        except Exception as error:
            self.error = error
            if not isinstance(error, (OSError, _NotWrittenError)):
                _LOG.exception("writing a checkpoint failed")

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> None:
        self._thread.join()


def _in_words(error: Exception, folder: Path) -> str:
    """Description of a failed write; equal for equal causes, for any file."""
    if not isinstance(error, OSError):
        return f"{type(error).__name__}: {error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = next((each for each in (folder, *folder.parents) if each.exists()), folder)
        total = shutil.disk_usage(place).total / 1e6
        return f"no space is left for {folder}, a disk of {total:.0f} MB; make room, or lower checkpoint.keep"
    if error.errno == errno.ENOENT:
        return f"{folder} or a part of it was deleted while it was written"
    return f"{folder}: {error.strerror or error}"

"""Asynchronous checkpoints: a thread per rank writes while training goes on; rank 0 commits when all have written.

No step has a further collective for it: each rank adds `written` or `failed` to the sum that every step has anyway, so
all ranks learn at the same step that all are done. Only `flush` waits, and `start` while the previous checkpoint is not
committed.
"""

from __future__ import annotations

import errno
import logging
import shutil
import threading
import uuid
from collections import deque
from collections.abc import Callable
from pathlib import Path

from mgcda_dist.method.collectives import Collectives
from mgcda_dist.training.checkpoint.store import CheckpointManifest, CheckpointStore, Files

__all__ = ["CheckpointWriter"]

_LOG = logging.getLogger(__name__)


class CheckpointWriter:
    """Writes the checkpoints of one attempt; constructed on every rank: rank 0 removes leftovers and chooses a token.

    Args:
        store: the checkpoints; rank 0's view of them decides.
        say: receives messages for the user; called on rank 0.
    """

    def __init__(self, store: CheckpointStore, world: Collectives, say: Callable[[str], None]) -> None:
        self._store, self._world, self._say = store, world, say
        if world.rank == 0:
            store.clear()
        self._token = world.gather_objects(uuid.uuid4().hex[:8], "checkpoint")[0]
        self._pending: _Pending | None = None
        self._committing: _Task | None = None
        self._is_whole = True  # the newest checkpoint; rank 0 knows
        self._last_failure = ""
        self._num_failures = 0
        self._committed: set[int] = set(store.steps()) if world.rank == 0 else set()
        self._news: deque[int] = deque()

    def start(self, files: Files, manifest: CheckpointManifest) -> None:
        """Start writing the checkpoint of `manifest.step`; a collective while the previous one is not committed.

        Args:
            files: of this rank; their content must not change any more.
            manifest: without digests; rank 0's is written.
        """
        self.wait()
        if self._world.rank == 0:
            self._notice_deletion()
        folder = self._store.pending_path(manifest.step, self._token)
        task = _Task(lambda: self._store.write(folder, files, self._world.rank))
        self._pending = _Pending(folder, manifest, task)

    def wait(self) -> None:
        """Wait until the checkpoint in work is committed or discarded; a collective if there is one."""
        if self._pending is not None:
            self.flush()
        if self._committing is not None:
            self._committing.wait()

    def local_sums(self) -> dict[str, float]:
        """State of this rank's part of the checkpoint in work, 0 or 1 each."""
        done = self._pending is not None and self._pending.task.is_done
        failed = done and self._pending is not None and self._pending.task.error is not None
        return {"written": float(done and not failed), "failed": float(failed)}

    def settle(self, written: int, failed: int) -> None:
        """Commit or discard once all ranks are done.

        Args:
            written, failed: sums over ranks of `local_sums`, equal on every rank.
        """
        if self._pending is not None and written + failed == self._world.size:
            self._close(self._world.gather_objects(self._reason(), "checkpoint") if failed else [])

    def flush(self) -> bool:
        """Wait for the commit of the newest checkpoint, a collective; False, on every rank, if a fault was reported."""
        if self._pending is not None:
            self._pending.task.wait()
            self._close(self._world.gather_objects(self._reason(), "checkpoint"))
        if self._committing is not None:
            self._committing.wait()
            self._is_whole = self._committing.error is None
            self._committing = None
        return self._world.gather_objects(self._is_whole, "checkpoint")[0]

    def newly_committed(self) -> int | None:
        """The step of a checkpoint that this attempt has committed, each once, on rank 0; None: no further one."""
        return self._news.popleft() if self._news else None

    def last_good(self) -> str:
        """A sentence that names the newest intact checkpoint, after `flush`; a collective."""
        self.flush()
        newest = self._store.newest() if self._world.rank == 0 else None
        text = f"The last good checkpoint is {newest}" if newest else "There is no checkpoint yet"
        return self._world.gather_objects(text, "checkpoint")[0]

    def _reason(self) -> str:
        error = None if self._pending is None else self._pending.task.error
        return "" if error is None else _in_words(error, self._store.folder)

    def _close(self, reasons: list[str]) -> None:
        """Commit, or report the reason against it, on rank 0 and beside the steps; all ranks have finished writing."""
        pending, self._pending = self._pending, None
        assert pending is not None
        if self._world.rank != 0:
            return
        reason = next((reason for reason in reasons if reason), "")
        self._committing = _Task(lambda: self._commit(pending, reason))

    def _commit(self, pending: _Pending, reason: str) -> None:
        step = pending.manifest.step
        try:
            if reason:
                raise _NotWrittenError(reason)
            self._store.commit(pending.folder, self._world.size, pending.manifest)
        except (OSError, _NotWrittenError) as error:
            self._store.discard(pending.folder)
            self._failed(step, str(error) if isinstance(error, _NotWrittenError) else _in_words(error, pending.folder))
            raise
        self._committed = set(self._store.steps())
        self._news.append(step)
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
        """Report committed checkpoints that are gone though no rank has removed them."""
        gone = self._committed - set(self._store.steps())
        if gone:
            listing = ", ".join(map(str, sorted(gone)))
            self._say(
                f"the checkpoints of steps {listing} were deleted under the run; the next one is written all the same"
            )
            self._committed -= gone


class _NotWrittenError(Exception):
    """The files of some rank are incomplete."""


class _Pending:
    """The checkpoint in work: its folder before the commit, its manifest, and this rank's writing thread."""

    def __init__(self, folder: Path, manifest: CheckpointManifest, task: _Task) -> None:
        self.folder, self.manifest, self.task = folder, manifest, task


class _Task:
    """A call in a thread of its own; keeps its exception."""

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
    """The cause of a failed write, in the same words whichever file it was, so that repetitions can be counted."""
    if not isinstance(error, OSError):
        return f"{type(error).__name__}: {error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = next((each for each in (folder, *folder.parents) if each.exists()), folder)
        total = shutil.disk_usage(place).total / 1e6
        return f"no space is left for {folder}, a disk of {total:.0f} MB; make room, or lower checkpoint.keep"
    if error.errno == errno.ENOENT:
        return f"{folder} or a part of it was deleted while it was written"
    return f"{folder}: {error.strerror or error}"

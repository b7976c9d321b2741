"""Batches of frames, and a background thread for writing results, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from mgcda_dist.data.pixels import Pixels

__all__ = ["BackgroundWriter", "batches"]

_T = TypeVar("_T")


def batches(frames: Iterable[tuple[_T, Pixels]], size: int) -> Iterator[list[tuple[_T, Pixels]]]:
    """Batches of at most `size` consecutive frames of equal shape."""
    batch: list[tuple[_T, Pixels]] = []
    for frame in frames:
        if batch and (len(batch) == size or frame[1].shape != batch[0][1].shape):
            yield batch
            batch = []
        batch.append(frame)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


class BackgroundWriter:
    """A thread that runs tasks in order; at most `max_pending` wait. Their errors are raised by `submit` or on exit."""

    def __init__(self, max_pending: int) -> None:
        self._max_pending = max_pending
        self._pool = ThreadPoolExecutor(1, "write")
        self._pending: deque[Future[None]] = deque()

    def __enter__(self) -> BackgroundWriter:
        return self

    def submit(self, task: Callable[[], None]) -> None:
        """Queue a task; waits while the queue is full."""
        while len(self._pending) >= self._max_pending:
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(task))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            while self._pending and kind is None:
                self._pending.popleft().result()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)

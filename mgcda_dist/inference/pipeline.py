"""Results in bounded memory: a few frames seen together, a few written behind."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from mgcda_dist.data.pixels import Pixels

__all__ = ["Behind", "batches"]

_T = TypeVar("_T")


def batches(frames: Iterable[tuple[_T, Pixels]], size: int) -> Iterator[list[tuple[_T, Pixels]]]:
    """Neighbours of one size, at most `size` of them."""
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


class Behind:
    """Does work in a thread, in order, at most `count` pieces late; its errors appear here."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool = ThreadPoolExecutor(1, "write")
        self._pending: deque[Future[None]] = deque()

    def __enter__(self) -> Behind:
        return self

    def do(self, work: Callable[[], None]) -> None:
        """Do it later."""
        while len(self._pending) >= self._count:
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(work))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            while self._pending and kind is None:
                self._pending.popleft().result()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)

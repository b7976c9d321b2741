"""Prefetching in a thread: OpenCV and reads release the interpreter lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

__all__ = ["prefetch"]

_T = TypeVar("_T")
_END: Any = object()


def prefetch(items: Iterator[_T], count: int) -> Iterator[_T]:
    """The same items, with the next `count` computed in a thread."""
    with ThreadPoolExecutor(1, "read") as reader:
        pending = deque(reader.submit(next, items, _END) for _ in range(count))
        try:
            while True:
                item = pending.popleft().result()
                if item is _END:
                    return
                pending.append(reader.submit(next, items, _END))
                yield item
        finally:
            for future in pending:
                future.cancel()

"""Batches on the device of training: those of the next step are copied to a GPU while it computes this one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch

from mgcda_dist.method.batch import Batch

__all__ = ["CopiedAhead"]


class CopiedAhead:
    """An iterator over batches on a device.

    On a GPU `fetch` takes a batch from the loader and starts its copy, on a stream that is for copies alone, so that it
    waits for no kernel and no kernel waits for it; call it before the host waits for a step's work. The batch then
    waits for `next`, which lets the work that follows wait for its copy. On processors `fetch` does nothing.

    Args:
        batches: of a loader; page-locked ones spare the host a copy.
        device: where they go.
    """

    def __init__(self, batches: Iterator[Batch], device: torch.device) -> None:
        self._batches, self._device = batches, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._fetched: deque[Batch | Exception] = deque()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            StopIteration: the loader has no more.
            Exception: what the loader raised in the place of this batch, also where `fetch` met it before.
        """
        if self._stream is None:
            return next(self._batches).to(self._device)
        if not self._fetched:
            self.fetch()
        batch = self._fetched.popleft()
        if isinstance(batch, Exception):
            raise batch
        present = torch.cuda.current_stream(self._device)
        present.wait_stream(self._stream)
        # Its memory is that of the stream of copies, which must not use it again before the present one has read it.
        batch.record_stream(present)
        return batch

    def fetch(self) -> None:
        """Start to copy one more batch to a GPU; the host waits for the loader, and not for the copy."""
        if self._stream is None:
            return
        try:
            batch = next(self._batches)
            with torch.cuda.stream(self._stream):
                self._fetched.append(batch.to(self._device))
        except Exception as error:  # of any kind, and the end: the steps before it are still to be trained
            self._fetched.append(error)

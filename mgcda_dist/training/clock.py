"""Speed of the steps since the last reading, with what the meters of a rank add."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Clock", "Meter"]


class Meter(Protocol):
    """Measures something of this rank's steps."""

    def sample(self) -> None:
        """Called after every step."""

    def read(self, step_s: float) -> dict[str, float]:
        """Metrics since the last reading.

        Args:
            step_s: mean duration of the steps, all of it: data, validation and checkpoints included.
        """
        ...


class Clock:
    """Images per second, the share of time spent waiting for data and what meters measure, since the last reading.

    Args:
        images_per_step: of all ranks.
    """

    def __init__(self, images_per_step: int, meters: Sequence[Meter] = ()) -> None:
        self._images_per_step, self._meters = images_per_step, meters
        self._reset()

    def _reset(self) -> None:
        self._start, self._waited_s, self._steps = time.perf_counter(), 0.0, 0

    @contextmanager
    def waiting(self) -> Generator[None]:
        """Time that is spent inside counts as waiting for data."""
        start = time.perf_counter()
        yield
        self._waited_s += time.perf_counter() - start

    def tick(self) -> None:
        """A step is done."""
        self._steps += 1
        for meter in self._meters:
            meter.sample()

    def read(self) -> dict[str, float]:
        """`time/…` since the last reading, and what the meters give."""
        seconds = max(time.perf_counter() - self._start, 1e-9)
        step_s = seconds / max(self._steps, 1)
        metrics = {
            "time/images_per_s": self._steps * self._images_per_step / seconds,
            "time/step_s": step_s,
            "time/data_wait_share": self._waited_s / seconds,
        }
        for meter in self._meters:
            metrics |= meter.read(step_s)
        self._reset()
        return metrics

"""Number of processors that this process may use."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["usable_processors"]

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_processors(quota: Path = _QUOTA) -> int:
    """Processors of this process: of its affinity, and not more than its container may use in time.

    A thread on each processor of a host of which a container has two (`docker run --cpus 2`) would mostly wait.

    Args:
        quota: microseconds that the container may use, or `max`, and in how many; of cgroup v2.
    """
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        used_us, of_us = quota.read_text(encoding="ascii").split()
        found = min(found, int(used_us) // int(of_us))  # `max` is no number
    return max(found, 1)

"""What the doctor says: one line per thing that was looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Level", "count", "size"]

Level = Literal["ok", "note", "problem"]
"""`note`: worth knowing, the run would not fail of it. `problem`: it would."""


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, and what to do about it."""

    level: Level
    subject: str
    text: str
    remedy: str = ""


def count(number: int, what: str) -> str:
    """`2 nodes`, `1 node`."""
    return f"{number} {what}{'' if number == 1 else 'es' if what.endswith('ch') else 's'}"


def size(num_bytes: int) -> str:
    """In GiB, or MiB where that would be less than one."""
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MiB"

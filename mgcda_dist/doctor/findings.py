"""Findings of the doctor: one line per check, with a level and a remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Level", "size"]

Level = Literal["ok", "note", "problem"]
"""`note`: a doubt that does not stop the run. `problem`: the run would fail."""


@dataclass(frozen=True)
class Finding:
    """Result of one check: its subject, what was found, and a remedy."""

    level: Level
    subject: str
    text: str
    remedy: str = ""


def size(num_bytes: int) -> str:
    """A number of bytes in GiB, or in MiB below one GiB."""
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MiB"

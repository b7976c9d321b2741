"""What the doctor says: one line per thing that was looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Level"]

Level = Literal["ok", "note", "problem"]
"""`note`: worth knowing, the run would not fail of it. `problem`: it would."""


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, and what to do about it."""

    level: Level
    subject: str
    text: str
    remedy: str = ""

"""State of a run besides tensors: everything that a restart needs (law 4)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

__all__ = ["TrainState"]


@dataclass
class TrainState:
    """State of the loop.

    Attributes:
        step: optimiser steps done; the next batch is the global batch of this number.
        skipped_steps: steps that were refused because a loss or gradient was not finite.
        bad_samples: damaged samples, over all ranks, that others stood in for.
        skipped_in_a_row: how many of the newest steps were refused.
        alarms: names of what was said about the run's health, so that a restart does not say it again.
    """

    step: int = 0
    skipped_steps: int = 0
    bad_samples: int = 0
    skipped_in_a_row: int = 0
    alarms: list[str] = field(default_factory=list)

    def count(self, accepted: bool) -> None:
        """One step is done, or was refused."""
        self.step += 1
        self.skipped_in_a_row = 0 if accepted else self.skipped_in_a_row + 1
        self.skipped_steps += not accepted

    def as_json(self) -> str:
        """Content that `load` reads."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def load(cls, path: Path) -> TrainState:
        """Read what `as_json` gave."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

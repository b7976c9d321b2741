"""What a run is, besides tensors: everything that a restart must know (law 4)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["TrainState"]


@dataclass
class TrainState:
    """State of the loop.

    Attributes:
        step: optimiser steps done; the next batch is the global batch of this number.
        bad_samples: damaged samples, over all ranks, that others stood in for.
        skipped_steps: steps that were refused because a loss was not finite.
    """

    step: int = 0
    skipped_steps: int = 0
    bad_samples: int = 0

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> TrainState:
        """Read what `save` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

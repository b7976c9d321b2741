"""State of a run beside its tensors: what a restart needs (law 4)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

__all__ = ["EarlyEnd", "TrainState"]


@dataclass(frozen=True)
class EarlyEnd:
    """The request of a callback to end the training before its last step.

    Attributes:
        callback: its reference in the configuration.
        reason: in words, with the callback's name.
    """

    callback: str
    reason: str


@dataclass
class TrainState:
    """State of the loop.

    Attributes:
        step: optimiser steps done; the next batch is the global batch of this number.
        phase: index of the phase of the training that is going on.
        skipped_steps: steps that were refused because a loss or gradient was not finite.
        bad_samples: damaged samples, over all ranks, that were replaced by others.
        skipped_in_a_row: how many of the newest steps were refused.
        early_end: why the training ended before its last step; None: it did not.
        alarms: names of the health alarms that were raised, so that a restart does not repeat them.
        peak_accuracy: highest accuracy of each stage's discriminator in the phase, by which one is told that has
            learned nothing from one whose features have become alike.
        reach_px: how far a location of each discriminator of the phase sees, measured at its start, where MDAT has wide
            masks: the network that was measured need not be there at a restart.
    """

    step: int = 0
    phase: int = 0
    skipped_steps: int = 0
    bad_samples: int = 0
    skipped_in_a_row: int = 0
    alarms: list[str] = field(default_factory=list)
    peak_accuracy: dict[str, float] = field(default_factory=dict)
    early_end: EarlyEnd | None = None
    reach_px: list[int] | None = None

    def count(self, accepted: bool, *, is_fault: bool = True) -> None:
        """Count a step that was taken or refused; `is_fault`: a refusal that may end the run, if more follow."""
        self.step += 1
        if accepted or is_fault:
            self.skipped_in_a_row = 0 if accepted else self.skipped_in_a_row + 1
        self.skipped_steps += not accepted

    def as_json(self) -> str:
        """The content of the file that `load` reads."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def load(cls, path: Path) -> TrainState:
        """Read a file with the content of `as_json`."""
        content = json.loads(path.read_text(encoding="utf-8"))
        if (early := content.get("early_end")) is not None:
            content["early_end"] = EarlyEnd(**early)
        return cls(**content)

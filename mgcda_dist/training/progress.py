"""Progress of a training process: its phase, and requests for after the step.

`Progress` is written by the training thread and read by another thread of the same process, which answers the hang
detector (`cluster.hang_detector`) outside of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mgcda_dist.method.collectives import CommStats

__all__ = ["PROGRESS", "Progress", "Report", "StopRequest", "agreed", "ask_to_leave", "report"]


class StopRequest(IntEnum):
    """Request for after the step: none; write a checkpoint and restart elsewhere; write a checkpoint and end."""

    NONE = 0
    LEAVE = 1
    STOP = 2


def agreed(stop: float, leave: float) -> StopRequest:
    """The strongest request of all ranks, from the numbers of ranks that were asked to stop and to leave."""
    return StopRequest.STOP if stop > 0 else StopRequest.LEAVE if leave > 0 else StopRequest.NONE


@dataclass(frozen=True)
class Report:
    """Position of a rank.

    Attributes:
        phase: `loader`, `forward`, `callback NAME.on_step`, …; empty: before or after the training loop.
        collective: the one it waits in; empty: none.
        moves: phases entered and collectives waited for so far; ranks in lockstep count alike.
        behind: collectives that its process has gone past and its GPU has not come to.
        is_first: the step is the first of its process and network, which compiles and tries out kernels.
    """

    step: int
    phase: str
    collective: str
    moves: int
    behind: int = 0
    is_first: bool = False

    def __str__(self) -> str:
        place = f"in {self.phase} of step {self.step}" if self.phase else "outside of the training loop"
        if not self.collective:
            return place
        busy = "its GPU busy before" if self.behind else "waiting in"
        return f"{place}, {busy} the collective {self.collective!r}"


class Progress:
    """Position of this process in its training, and requests from outside.

    Attributes:
        stats: of the collectives; None in a process that does not train.
        request: set from other threads and signal handlers; the loop reads it once a step.
        reason: why it should leave; for the user.
    """

    def __init__(self) -> None:
        self.stats: CommStats | None = None
        self.request, self.reason = StopRequest.NONE, ""
        self._step, self._phase, self._entered = 0, "", 0
        self._first_step: int | None = None

    def begin(self) -> None:
        """Begin with another network: its first step is once more a first one."""
        self._first_step = None

    def enter(self, phase: str, step: int) -> None:
        """Enter a phase of a step."""
        self._step, self._phase = step, phase
        self._entered += 1
        if phase == "loader" and self._first_step is None:
            self._first_step = step

    def ask_to_leave(self, reason: str) -> None:
        """Ask for a checkpoint after this step and a start elsewhere; safe in a signal handler."""
        self.reason = self.reason or reason
        self.request = max(self.request, StopRequest.LEAVE)

    def report(self) -> Report:
        """Present position."""
        stats, is_first = self.stats, self._step == self._first_step
        if stats is None:
            return Report(self._step, self._phase, "", self._entered, is_first=is_first)
        return Report(self._step, self._phase, stats.waiting, self._entered + stats.waits, stats.behind, is_first)


PROGRESS = Progress()
"""This process's: a worker process trains one run."""


def report() -> Report:
    """Position of this process; called by the hang detector in a worker."""
    return PROGRESS.report()


def ask_to_leave(reason: str) -> None:
    """Ask this process to leave after its step; called in a worker."""
    PROGRESS.ask_to_leave(reason)

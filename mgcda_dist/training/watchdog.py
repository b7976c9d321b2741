"""Who hangs: every rank says where it is, and a watchdog outside of them names the one that all others wait for.

A rank's `Progress` is written by its training thread and read by another thread of the same process, which answers the
watchdog. A process that is stopped does not answer; one that waits for ever answers, and does not move. `Watchdog` sees
both, and knows neither processes nor Ray.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import IntEnum

from mgcda_dist.collectives import Account

__all__ = ["PROGRESS", "Hang", "Progress", "Report", "Watchdog", "Wish", "agreed", "ask_to_leave", "report"]

TIMED = ("loader", "forward", "backward", "optimizer", "checkpoint")
"""Phases in which a rank must move on within the time allowed; evaluation and start-up may take their time."""
_LONGEST_LOOK_S = 2.0


class Wish(IntEnum):
    """What is wanted of the run after this step: nothing; a checkpoint and a new start; a checkpoint and the end."""

    NONE = 0
    LEAVE = 1
    STOP = 2

    @property
    def signal(self) -> float:
        """As a number that is averaged over ranks: one wish to stop outweighs any number of wishes to leave."""
        return (0.0, 1.0, 2.0**24)[self]


def agreed(signal: float) -> Wish:
    """The strongest wish of all ranks, from the mean of their signals; equal on every rank."""
    return Wish.NONE if signal <= 0 else Wish.LEAVE if signal < 1.5 else Wish.STOP


@dataclass(frozen=True)
class Report:
    """Where a rank is.

    Attributes:
        step: optimiser step.
        phase: `loader`, `forward`, …; empty: before or after the training loop.
        collective: the one it waits in; empty: none.
        moves: phases entered and collectives waited for so far; ranks in lockstep count alike.
        since_s: time since the last move.
    """

    step: int
    phase: str
    collective: str
    moves: int
    since_s: float

    def __str__(self) -> str:
        place = f"in {self.phase} of step {self.step}" if self.phase else "outside of the training loop"
        return f"{place}, waiting in the collective {self.collective!r}" if self.collective else place


class Progress:
    """Where this process is in its training, and what the outside has asked of it.

    Attributes:
        wish: set from other threads and signal handlers; the loop reads it once a step.
        reason: why it should leave; for the user.
    """

    def __init__(self) -> None:
        self.account = Account()
        self.wish, self.reason = Wish.NONE, ""
        self._step, self._phase, self._entered = 0, "", 0
        self._seen, self._moved_at = -1, time.monotonic()

    def enter(self, phase: str, step: int) -> None:
        """Say that a phase of a step begins."""
        self._step, self._phase = step, phase
        self._entered += 1

    def ask_to_leave(self, reason: str) -> None:
        """Ask for a checkpoint after this step and a start elsewhere; safe in a signal handler."""
        self.reason = self.reason or reason
        self.wish = max(self.wish, Wish.LEAVE)

    def report(self) -> Report:
        """Where it is; called from one thread only."""
        moves, now = self._entered + self.account.waits, time.monotonic()
        if moves != self._seen:
            self._seen, self._moved_at = moves, now
        return Report(self._step, self._phase, self.account.waiting, moves, now - self._moved_at)


PROGRESS = Progress()
"""This process's: a worker process trains one run."""


def report() -> Report:
    """Where this process is; what a watchdog calls in a worker."""
    return PROGRESS.report()


def ask_to_leave(reason: str) -> None:
    """Ask this process to leave after its step; what is called in a worker."""
    PROGRESS.ask_to_leave(reason)


@dataclass(frozen=True)
class Hang:
    """A rank that holds up all others, and what is known of it, in words."""

    rank: int
    text: str


@dataclass
class _Seen:
    report: Report | None = None
    silent_s: float = 0.0
    still_s: float = 0.0


@dataclass
class Watchdog:
    """Tells from the ranks' reports whether one of them hangs.

    Args:
        num_ranks: W.
        timeout_s: longest time without an answer, and in a timed phase without a move.
    """

    num_ranks: int
    timeout_s: float
    _seen: list[_Seen] = field(default_factory=list)
    _looked_at: float | None = None

    def __post_init__(self) -> None:
        self._seen = [_Seen() for _ in range(self.num_ranks)]

    def look(self, reports: dict[int, Report], now: float | None = None) -> Hang | None:
        """Take the answers since the last look.

        Args:
            reports: by rank; a rank that has not answered is absent.
            now: monotonic time in s; None: the clock's.

        Returns:
            The rank that hangs; None as long as all is well.
        """
        now = time.monotonic() if now is None else now
        # While the watchdog itself did not run (a suspended machine, a busy controller) nobody could answer.
        passed = 0.0 if self._looked_at is None else min(now - self._looked_at, _LONGEST_LOOK_S)
        self._looked_at = now
        for rank, seen in enumerate(self._seen):
            found = reports.get(rank)
            moved = found is not None and (seen.report is None or found.moves != seen.report.moves)
            seen.silent_s = 0.0 if found is not None else seen.silent_s + passed
            timed = found is None or found.phase in TIMED
            seen.still_s = 0.0 if moved or not timed else seen.still_s + passed
            seen.report = found or seen.report
        return self._silent() or self._still()

    def _silent(self) -> Hang | None:
        silent = [rank for rank, seen in enumerate(self._seen) if seen.silent_s > self.timeout_s]
        if not silent:
            return None
        rank, seen = silent[0], self._seen[silent[0]]
        last = f"; it was last seen {seen.report}" if seen.report else ""
        text = f"rank {rank} has not answered for {seen.silent_s:.0f} s{last}"
        return Hang(rank, text + self._waiting(rank))

    def _still(self) -> Hang | None:
        """Of the ranks that do not move, the one that is furthest behind: the others wait for it."""
        still = {
            rank: seen.report for rank, seen in enumerate(self._seen) if seen.report and seen.still_s > self.timeout_s
        }
        if len(still) < self.num_ranks:
            # As long as some rank moves, it does not wait for the others; it will, soon enough.
            return None
        rank = min(still, key=lambda r: (still[r].moves, bool(still[r].collective), r))
        text = f"rank {rank} has not moved for {self._seen[rank].still_s:.0f} s: it is {still[rank]}"
        return Hang(rank, text + self._waiting(rank))

    def _waiting(self, culprit: int) -> str:
        others: dict[str, list[str]] = {}
        for rank, seen in enumerate(self._seen):
            if rank != culprit and seen.report is not None and seen.report.phase:
                others.setdefault(str(seen.report), []).append(str(rank))
        parts = [
            f"rank {', '.join(ranks[:8])}{' …' if len(ranks) > 8 else ''} {place}" for place, ranks in others.items()
        ]
        return f"; meanwhile {'; '.join(parts[:4])}" if parts else ""

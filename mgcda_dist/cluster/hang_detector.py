"""Hang detection: ranks report their phase and step, and the detector names the rank that all others wait for.

A stopped process does not answer; one that waits without end answers but does not move. The detector finds both from
the reports alone, without processes or Ray.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from mgcda_dist.training.progress import Report

__all__ = ["TIMED", "Hang", "HangDetector"]

TIMED = ("loader", "forward", "backward", "optimizer", "checkpoint", "callback")
"""Phases, by their first word, in which a rank must move on within the time allowed; evaluation and start-up have no
limit."""
_LONGEST_GAP_S = 2.0


@dataclass(frozen=True)
class Hang:
    """A rank that holds up all others, with a description of its state."""

    rank: int
    text: str


@dataclass
class _Seen:
    report: Report | None = None
    silent_s: float = 0.0
    still_s: float = 0.0


@dataclass
class HangDetector:
    """Tells from the ranks' reports whether one of them hangs.

    Args:
        timeout_s: longest time without an answer, and in a timed phase without a move.
        first_step_s: the latter in the first step of a process; None: the same.
    """

    num_ranks: int
    timeout_s: float
    first_step_s: float | None = None
    _seen: list[_Seen] = field(default_factory=list)
    _updated_at: float | None = None

    def __post_init__(self) -> None:
        self._seen = [_Seen() for _ in range(self.num_ranks)]

    def update(self, reports: dict[int, Report], now: float | None = None) -> Hang | None:
        """Take the reports since the last call; returns the rank that hangs, or None.

        Args:
            reports: by rank; a rank that has not answered is absent.
            now: monotonic time in s; None: the clock's.
        """
        now = time.monotonic() if now is None else now
        # While the detector itself did not run (a suspended machine, a busy controller) no rank could answer.
        passed = 0.0 if self._updated_at is None else min(now - self._updated_at, _LONGEST_GAP_S)
        self._updated_at = now
        for rank, seen in enumerate(self._seen):
            found = reports.get(rank)
            moved = found is not None and (seen.report is None or found.moves != seen.report.moves)
            seen.silent_s = 0.0 if found is not None else seen.silent_s + passed
            timed = found is None or found.phase.partition(" ")[0] in TIMED
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
            rank: seen.report
            for rank, seen in enumerate(self._seen)
            if seen.report and seen.still_s > self._patience_s(seen.report)
        }
        if len(still) < self.num_ranks:
            # A rank that still moves will come to wait for the others; until then the culprit is not certain.
            return None
        places = {rank: (each.moves, -each.behind, bool(each.collective)) for rank, each in still.items()}
        rank = min(places, key=lambda rank: (places[rank], rank))
        seconds = f"{self._seen[rank].still_s:.0f} s"
        if self.num_ranks > 1 and len(set(places.values())) == 1:
            # One has to be killed, so that all start again; it may well be another one's network.
            return Hang(
                rank,
                f"no rank has moved for {seconds}, and none is behind the others: all are {still[rank]}; the network "
                "between them, or a GPU",
            )
        return Hang(rank, f"rank {rank} has not moved for {seconds}: it is {still[rank]}{self._waiting(rank)}")

    def _patience_s(self, report: Report) -> float:
        return self.timeout_s if self.first_step_s is None or not report.is_first else self.first_step_s

    def _waiting(self, culprit: int) -> str:
        others: dict[str, list[str]] = {}
        for rank, seen in enumerate(self._seen):
            if rank != culprit and seen.report is not None and seen.report.phase:
                others.setdefault(str(seen.report), []).append(str(rank))
        parts = [
            f"rank {', '.join(ranks[:8])}{' …' if len(ranks) > 8 else ''} {place}" for place, ranks in others.items()
        ]
        return f"; meanwhile {'; '.join(parts[:4])}" if parts else ""

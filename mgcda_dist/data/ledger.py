"""The account of a write or an index: how many samples were taken, and what was passed over and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["LEDGER", "Ledger", "ledger_lines"]

LEDGER = "ledger"
"""Key of a manifest's provenance."""

_NUM_NAMES = 5


class Ledger:
    """The things that were passed over: a count and the first names for each reason."""

    def __init__(self) -> None:
        self._reasons: dict[str, tuple[int, list[str]]] = {}

    def add(self, why: str, name: str, count: int = 1) -> None:
        """Count a file, a member of an archive, or several that the name stands for."""
        number, names = self._reasons.get(why, (0, []))
        if len(names) < _NUM_NAMES:  # names come from elsewhere: what a terminal or JSON cannot hold is escaped
            names = [*names, name if name.isprintable() else ascii(name)[1:-1]]
        self._reasons[why] = number + count, names

    def clear(self) -> None:
        """Forget everything."""
        self._reasons.clear()

    def update(self, other: Ledger) -> None:
        """Add what another ledger counted."""
        for why, (number, names) in other._reasons.items():
            for name in names[:-1]:
                self.add(why, name)
            self.add(why, names[-1], number - len(names) + 1)

    def as_json(self, taken: int) -> dict[str, Any]:
        """For the manifest."""
        reasons = sorted(self._reasons.items())
        listed = [{"why": why, "count": number, "first": names} for why, (number, names) in reasons]
        return {"taken": taken, "passed_over": listed}


def ledger_lines(content: Mapping[str, Any]) -> Iterator[str]:
    """Lines of text: how many were taken and passed over, then one line per reason.

    Args:
        content: from `Ledger.as_json`.
    """
    reasons = content["passed_over"]
    total = sum(each["count"] for each in reasons)
    yield f"{content['taken']} taken, {total} passed over{', because' if reasons else ''}"
    for each in reasons:
        more = ", …" if each["count"] > len(each["first"]) else ""
        yield f"  {each['why']}: {each['count']} ({', '.join(each['first'])}{more})"

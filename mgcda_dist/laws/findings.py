"""Findings about laws: which law, whether it is kept, and the number that says so."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

__all__ = ["Difference", "Finding", "LawsReport", "Verdict", "relative", "worst"]

Verdict = Literal["kept", "broken", "not applicable"]
_TINY = 1e-300


@dataclass(frozen=True)
class Finding:
    """One law, as the subject keeps it.

    Attributes:
        law: its number in CONTRIBUTING.md, or `parts`, `zero` and `sign`.
        title: of it, in a few words.
        verdict: kept, broken, or not applicable.
        number: what was measured, by `said` named; None: nothing was.
        where: place of the number: scene, ranks, tensor; empty: none.
        said: what the number is and, of a broken law, what that looks like.
    """

    law: str
    title: str
    verdict: Verdict
    number: float | None = None
    where: str = ""
    said: str = ""


@dataclass(frozen=True)
class LawsReport:
    """Everything that was found.

    Attributes:
        subject: name of the plug-in or file.
        notes: what was chosen for the subject, and what was left out.
        findings: one per law.
        seconds: that it took.
    """

    subject: str
    notes: tuple[str, ...]
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def broken(self) -> list[Finding]:
        """The laws that are not kept."""
        return [each for each in self.findings if each.verdict == "broken"]


class Difference(NamedTuple):
    """A relative difference and its place; the largest is the one that is told."""

    number: float
    where: str


def relative(found: float | Tensor, expected: float | Tensor) -> float:
    """|found - expected| / |expected|, of vectors by norms; infinite where one is not finite, or only one is 0."""
    found, expected = (torch.as_tensor(x, dtype=torch.float64) for x in (found, expected))
    if found.shape != expected.shape or not bool(found.isfinite().all() and expected.isfinite().all()):
        return math.inf
    distance, size = float((found - expected).norm()), float(expected.norm())
    return 0.0 if distance == 0 else distance / max(size, _TINY) if size > 0 else math.inf


def worst(differences: Iterable[Difference]) -> Difference:
    """The largest; 0 at no place if there is none."""
    return max(differences, key=lambda each: each.number, default=Difference(0.0, ""))

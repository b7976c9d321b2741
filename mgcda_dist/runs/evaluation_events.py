"""Progress of an evaluation on workers: events that rank 0 appends, for commands that follow them."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from mgcda_dist.evaluation.evaluate import EvaluationProgress

__all__ = ["saying"]

_EVERY_S = 10.0


def saying(say: Callable[..., None]) -> EvaluationProgress:
    """Progress of an evaluation as events of kind "progress": one as a set begins, and one every ten seconds.

    Args:
        say: takes the kind, the text, and `done` and `total`, in frames.
    """
    current, said_s = "", 0.0

    def progress(name: str, done: int, total: int) -> None:
        nonlocal current, said_s
        if name == current and monotonic() - said_s < _EVERY_S:
            return
        current, said_s = name, monotonic()
        say("progress", f"evaluating {name}: {done} of {total} frames", done=done, total=total)

    return progress

"""Schedule of the faults of a run: kinds, steps and ranks as a pure function of the seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mgcda_dist.errors import ConfigError
from mgcda_dist.method.randomness import numpy_generator

__all__ = ["KINDS", "STORAGE_KINDS", "PlannedFault", "schedule"]

KINDS = {
    "kill-worker": "SIGKILL to a worker",
    "freeze-worker": "SIGSTOP to a worker, which then hangs",
    "end-worker": "SIGTERM to a worker, as sent by a node that shuts down",
    "kill-loader": "SIGKILL to a loader process",
    "kill-driver": "SIGKILL to the driver, which is then started again",
    "interrupt": "Ctrl-C to the driver, which is then started again",
    "truncate-checkpoint": "half of the largest file of the newest checkpoint is cut off, and a worker is killed",
    "delete-checkpoint": "the newest checkpoint is deleted, and a worker is killed",
    "fill-disk": "for a while no file of the driver and the workers grows",
    "read-only": "for a while nothing can be written in the run's folder",
}
"""Kinds of faults that one machine can have, with descriptions."""
STORAGE_KINDS = ("fill-disk", "read-only")
"""Kinds that pass by themselves, and that no worker may end by."""


@dataclass(frozen=True)
class PlannedFault:
    """One planned fault.

    Attributes:
        kind: of `KINDS`.
        at_step: injected once this step has been logged and the run has recovered from all earlier faults.
        delay_s: additional delay, so that the fault hits anywhere within a step.
        rank: of the target, for faults of a worker.
    """

    kind: str
    at_step: int
    delay_s: float
    rank: int


def schedule(
    seed: int, num_faults: int, num_steps: int, num_workers: int, kinds: Sequence[str] = tuple(KINDS)
) -> list[PlannedFault]:
    """Faults in the order of their steps, from the first tenth of the run to the last eighth.

    Every kind is used once before one is used twice. Equal arguments give equal schedules.

    Raises:
        ConfigError: an unknown kind, or a run too short for that many faults.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError("kinds", f"unknown kind {kind!r}", f"choose from {', '.join(KINDS)}")
    if num_steps < 2 * num_faults:
        raise ConfigError(
            "optim.steps", f"{num_steps} steps are too few for {num_faults} faults", "at least two steps per fault"
        )
    generator = numpy_generator(seed, "chaos", num_faults, num_steps, num_workers)
    chosen: list[str] = []
    while len(chosen) < num_faults:
        chosen += [kinds[int(i)] for i in generator.permutation(len(kinds))]
    # The run is divided into equal parts, with one fault at a random step of each.
    first, last = num_steps // 10, num_steps - max(3, num_steps // 8)
    part = (last - first) / num_faults
    steps = [int(first + part * (i + generator.random())) for i in range(num_faults)]
    return [
        PlannedFault(kind, step, float(generator.uniform(0, 0.3)), int(generator.integers(num_workers)))
        for kind, step in zip(chosen, steps, strict=False)
    ]

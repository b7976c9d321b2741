"""Which faults hit a run, and when: a pure function of the seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mgcda_dist.errors import ConfigError
from mgcda_dist.method.randomness import numpy_generator

__all__ = ["KINDS", "PlannedFault", "schedule"]

KINDS = {
    "kill-worker": "SIGKILL to a worker",
    "freeze-worker": "SIGSTOP to a worker: it stays, and does nothing",
    "end-worker": "SIGTERM to a worker, as a node sends that shuts down",
    "kill-loader": "SIGKILL to a process that loads data",
    "kill-driver": "SIGKILL to the command, and the same command again",
    "interrupt": "Ctrl-C, and the same command again",
    "truncate-checkpoint": "the newest checkpoint loses the end of its largest file, and a worker is killed",
    "delete-checkpoint": "the newest checkpoint is deleted, and a worker is killed",
}
"""Name and meaning of every fault that one machine can have."""


@dataclass(frozen=True)
class PlannedFault:
    """One fault.

    Attributes:
        kind: of `KINDS`.
        at_step: it strikes when this step has been logged and all earlier faults are recovered from.
        delay_s: a little later, anywhere within a step.
        rank: of the worker that is hit, where one is.
    """

    kind: str
    at_step: int
    delay_s: float
    rank: int


def schedule(
    seed: int, num_faults: int, num_steps: int, num_workers: int, kinds: Sequence[str] = tuple(KINDS)
) -> list[PlannedFault]:
    """Faults in the order of their steps, from the first tenth of the run to the last eighth.

    Every kind comes once before one comes twice. Equal arguments give equal schedules.

    Raises:
        ConfigError: a kind that does not exist, or a run too short for so many faults.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError("--kinds", f"no fault is called {kind!r}", f"choose from {', '.join(KINDS)}")
    if num_steps < 2 * num_faults:
        raise ConfigError(
            "optim.steps", f"{num_steps} steps are few for {num_faults} faults", "take two a fault or more"
        )
    generator = numpy_generator(seed, "chaos", num_faults, num_steps, num_workers)
    chosen: list[str] = []
    while len(chosen) < num_faults:
        chosen += [kinds[int(i)] for i in generator.permutation(len(kinds))]
    # One fault in each equal part of the run, somewhere in it.
    first, last = num_steps // 10, num_steps - max(3, num_steps // 8)
    part = (last - first) / num_faults
    steps = [int(first + part * (i + generator.random())) for i in range(num_faults)]
    return [
        PlannedFault(kind, step, float(generator.uniform(0, 0.3)), int(generator.integers(num_workers)))
        for kind, step in zip(chosen, steps, strict=False)
    ]

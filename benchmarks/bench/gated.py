"""Whole workers of a run that stand at a gate: they take steps when they are told to, and say how long that took."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.bench.setting import Setting, Spent, join
from mgcda_dist.method import Batch

__all__ = ["Crew", "Taken", "crew"]

_END_S = 10.0
_STEPS = 10**5


class _EndError(Exception):
    """The gate was closed for good."""


@dataclass(frozen=True)
class Taken:
    """Seconds per step of one worker.

    Attributes:
        wall: of its loop, with all that it waits for.
        process: of all its threads; its loader processes not included.
        operators: with a profile, ms of a step in each kind of operator.
    """

    wall: float
    process: float
    operators: Mapping[str, float]


class _Gate:
    """Batches of a loader, behind a gate that another process opens for a number of steps."""

    def __init__(self, batches: Any, gate: Connection) -> None:
        self._batches, self._gate = iter(batches), gate
        self._left = self._steps = 0
        self._began = Spent.now()
        self._profiler: Any = None

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._left == 0:
            self._wait()
        self._left -= 1
        return next(self._batches)

    def _wait(self) -> None:
        spent = Spent.now().since(self._began)
        operators: dict[str, float] = {}
        if self._profiler is not None:
            self._profiler.stop()
            for each in self._profiler.key_averages():
                operators[each.key] = each.self_cpu_time_total / 1e3 / self._steps
            self._profiler = None
        steps = max(self._steps, 1)
        self._gate.send(Taken(spent.wall / steps, spent.process / steps, operators))
        self._steps, threads, profiled = self._gate.recv()
        if self._steps == 0:
            raise _EndError
        torch.set_num_threads(threads)
        self._left = self._steps
        if profiled:
            from torch.profiler import ProfilerActivity, profile

            self._profiler = profile(activities=[ProfilerActivity.CPU])
            self._profiler.start()
        self._began = Spent.now()


def _work(config: Any, store: Path, rank: int, gate: Connection) -> None:
    from mgcda_dist import build
    from mgcda_dist.training import worker

    join(store, rank, config.scaling.workers)
    training_stream = build.training_stream
    with patch.object(
        build, "training_stream", lambda *given, **options: _Gate(training_stream(*given, **options), gate)
    ):
        with suppress(_EndError):
            worker.train(config)


class Crew:
    """The workers of one run, in processes of their own."""

    def __init__(self, processes: Sequence[Any], gates: Sequence[Connection]) -> None:
        self._processes, self._gates = processes, gates

    def ready(self) -> None:
        """Wait until all stand at the gate."""
        self._answers()

    def begin(self, steps: int, *, threads: int = 1, profiled: bool = False) -> None:
        """Let all take so many steps."""
        for gate in self._gates:
            gate.send((steps, threads, profiled))

    def taken(self) -> list[Taken]:
        """The seconds of each rank, once all are done."""
        return self._answers()

    def end(self) -> None:
        """End the processes."""
        for gate in self._gates:
            with suppress(OSError):
                gate.send((0, 1, False))
        for process in self._processes:
            process.join(_END_S)
            if process.is_alive():
                process.kill()
                process.join()

    def _answers(self) -> list[Taken]:
        # Without a time limit of its own: that of the section ends all of its processes.
        found = list[Taken]()
        for rank, gate in enumerate(self._gates):
            try:
                found.append(gate.recv())
            except EOFError:
                raise RuntimeError(f"rank {rank} ended; what it said is above") from None
        return found


def crew(setting: Setting, name: str, *, workers: int, images: int) -> Crew:
    """Start the workers of a run.

    Args:
        images: of the global batch.
    """
    from mgcda_dist import build
    from mgcda_dist.runs.folder import RunFolder

    # Each with a database of its own, as the only run of a machine would have it.
    folder = setting.folder / "runs" / name
    config = setting.config(
        name, f"scaling.workers={workers}", f"optim.steps={_STEPS}", f"runs={folder}",
        f"checkpoint.every_steps={_STEPS}", "tracking.system_metrics=false", images=images,
    )  # fmt: skip
    RunFolder(config).prepare(config, build.run_inputs(config))
    store = setting.folder / f"store-{name}-{uuid.uuid4().hex}"
    context = get_context("fork")
    processes, gates = list[Any](), list[Connection]()
    for rank in range(workers):
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(config, store, rank, theirs))
        process.start()
        theirs.close()
        processes.append(process)
        gates.append(ours)
    return Crew(processes, gates)

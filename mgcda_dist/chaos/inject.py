"""Injection of one fault: a signal, a deleted or a truncated checkpoint. Only processes of the given run are hit."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import psutil

from mgcda_dist.chaos.schedule import PlannedFault
from mgcda_dist.choices import RunFile

__all__ = ["inject", "loader_processes"]


def inject(fault: PlannedFault, driver: subprocess.Popen[str], workers: list[int], checkpoints: Path) -> str:
    """Inject a fault; returns a description of the action, empty where it had no target (e.g. no loader process).

    Args:
        driver: `mgcda train`, leader of its process group.
        workers: process id of each rank.
    """
    rank = fault.rank % len(workers)
    match fault.kind:
        case "kill-worker":
            return _send(signal.SIGKILL, workers[rank], f"rank {rank}")
        case "freeze-worker":
            return _send(signal.SIGSTOP, workers[rank], f"rank {rank}")
        case "end-worker":
            return _send(signal.SIGTERM, workers[rank], f"rank {rank}")
        case "kill-loader":
            found = loader_processes(workers[rank])
            return _send(signal.SIGKILL, found[0], f"a loader process of rank {rank}") if found else ""
        case "kill-driver":
            return _send(signal.SIGKILL, driver.pid, "the driver")
        case "interrupt":
            os.killpg(driver.pid, signal.SIGINT)  # as a terminal does
            return "Ctrl-C"
        case "truncate-checkpoint" | "delete-checkpoint":
            committed = sorted(path.parent for path in checkpoints.glob(RunFile.COMMITTED))
            if not committed:
                return ""
            done = _delete(committed[-1]) if fault.kind == "delete-checkpoint" else _truncate(committed[-1])
            return f"{done}; {_send(signal.SIGKILL, workers[rank], f'rank {rank}')}"
        case _:
            raise AssertionError(fault.kind)


def loader_processes(worker: int) -> list[int]:
    """Process ids of the loader processes that a worker has forked, oldest first."""
    try:
        parent = psutil.Process(worker)
        children = parent.children()
        # A forked process keeps its parent's command line; helpers that were started anew do not.
        found = [child for child in children if child.cmdline() == parent.cmdline()]
        return [child.pid for child in sorted(found, key=lambda child: child.create_time())]
    except psutil.NoSuchProcess:
        return []


def _send(signal_number: signal.Signals, process: int, target: str) -> str:
    try:
        os.kill(process, signal_number)
    except ProcessLookupError:
        return ""
    return f"{signal_number.name} to {target} (process {process})"


def _truncate(checkpoint: Path) -> str:
    largest = max((path for path in checkpoint.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    return f"{checkpoint.name}/{largest.relative_to(checkpoint)} cut to half"


def _delete(checkpoint: Path) -> str:
    shutil.rmtree(checkpoint)
    return f"{checkpoint.name} deleted"

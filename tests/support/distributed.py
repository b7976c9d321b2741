"""Run a function in several real processes over gloo, and bring back what each returned or raised."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

__all__ = ["DistributedError", "run_distributed"]

_PRELOADED = ["deepspeed", "mgcda_dist.training.worker"]
_GRACE_S = 2.0  # how long the others may take to report, once one process has failed


class DistributedError(RuntimeError):
    """One or several ranks failed.

    Attributes:
        failures: rank → traceback, or what became of the process.
    """

    def __init__(self, failures: dict[int, str]) -> None:
        self.failures = failures
        super().__init__("\n".join(f"rank {rank}:\n{text}" for rank, text in sorted(failures.items())))


def run_distributed(fn: Callable[..., Any], world_size: int, *args: Any, timeout_s: float = 120.0) -> list[Any]:
    """`fn(*args)` in `world_size` processes that share a gloo group; the results in rank order.

    They are forked from a process that has imported the libraries and done nothing else, which saves seconds each.

    Args:
        fn: a function of an importable module; it asks torch.distributed for its rank.
        world_size: number of processes.
        args: picklable.
        timeout_s: of the whole, process start included.

    Raises:
        DistributedError: a rank raised, died, or the time was over; no process is left behind in any case.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    processes: dict[int, Any] = {}
    readers: dict[int, Connection] = {}
    with tempfile.TemporaryDirectory(prefix="gloo-") as folder:
        try:
            for rank in range(world_size):
                reader, writer = context.Pipe(duplex=False)
                task = (writer, rank, world_size, str(Path(folder) / "store"), timeout_s, dict(os.environ), fn, args)
                process = context.Process(target=_child, args=task, daemon=True)
                process.start()
                writer.close()
                processes[rank], readers[rank] = process, reader
            return _collect(readers, processes, timeout_s)
        finally:
            for process in processes.values():
                process.join(timeout=1.0)
                if process.is_alive():
                    process.kill()
                process.join()
                process.close()
            for reader in readers.values():
                reader.close()


def _collect(readers: dict[int, Connection], processes: dict[int, Any], timeout_s: float) -> list[Any]:
    """Results in rank order, as they arrive; the first failure shortens the wait for the others."""
    results: dict[int, Any] = {}
    failures: dict[int, str] = {}
    deadline = time.monotonic() + timeout_s
    pending = dict(readers)
    while pending:
        ready = wait(list(pending.values()), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            break
        for rank in [rank for rank, reader in pending.items() if reader in ready]:
            try:
                found = pending.pop(rank).recv()
            except EOFError:
                processes[rank].join(timeout=1.0)
                found = f"died without a word, exit code {processes[rank].exitcode}"
            if isinstance(found, bytes):
                results[rank] = pickle.loads(found)
            else:
                failures[rank] = found
                deadline = min(deadline, time.monotonic() + _GRACE_S)
    if failures:
        raise DistributedError(failures)
    if pending:
        raise DistributedError(dict.fromkeys(pending, f"no result after {timeout_s:g} s"))
    return [results[rank] for rank in range(len(readers))]


def _child(
    writer: Connection,
    rank: int,
    world_size: int,
    store: str,
    timeout_s: float,
    environment: dict[str, str],
    fn: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    os.environ.clear()  # the one that was forked has that of the first call
    os.environ.update(environment)
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["LOCAL_RANK"] = str(rank)  # set by Ray Train and by DeepSpeed's own launcher
    # Deprecations of the libraries; the suite's filters do not reach these processes.
    warnings.simplefilter("ignore")
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{store}",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=timeout_s),
        )
        # Pickled here and not by the pipe: torch would otherwise pass tensors as shared memory that dies with us.
        result = pickle.dumps(fn(*args))
        dist.barrier()  # nobody closes its sockets while another still reads from them
        writer.send(result)
    except BaseException:
        writer.send(traceback.format_exc())
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        writer.close()

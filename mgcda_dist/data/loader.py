"""Loader processes: the batches of a stream in order, and what is said when a process dies or is stuck."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from mgcda_dist.choices import LoaderDefaults
from mgcda_dist.data.stream import TrainingStream
from mgcda_dist.errors import MgcdaError, TransientError
from mgcda_dist.method.batch import Batch
from mgcda_dist.method.randomness import torch_generator

__all__ = ["StreamLoader", "make_loader"]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def make_loader(
    stream: TrainingStream,
    workers: int = 0,
    prefetch_steps: int = LoaderDefaults.prefetch_steps,
    pin_memory: bool = False,
    timeout_s: float = LoaderDefaults.timeout_s,
    start_method: Literal["fork", "spawn", "forkserver"] | None = None,
) -> StreamLoader:
    """A loader over the stream's micro-batches, in order.

    Args:
        stream: what to load.
        workers: loader processes; 0: load in this process.
        prefetch_steps: micro-batches that each process prepares ahead.
        pin_memory: deliver page-locked tensors; ignored where there is no accelerator.
        timeout_s: longest wait for a batch before the loader process is reported as stuck.
        start_method: how processes start; None: the platform's default.
    """
    # A process forked while OpenCV holds a thread pool hangs in its first resize; loader processes need none anyway.
    cv2.setNumThreads(0)
    loader: DataLoader[_Delivery] = DataLoader(
        _Deliveries(stream),  # pyright: ignore[reportArgumentType]
        batch_size=None,
        shuffle=False,
        num_workers=workers,
        collate_fn=_as_is,
        pin_memory=pin_memory and torch.accelerator.is_available(),
        timeout=timeout_s if workers else 0,
        worker_init_fn=_start_worker,
        multiprocessing_context=start_method if workers else None,
        # DataLoader draws a seed for its workers; ours use none, and the global generator stays untouched.
        generator=torch_generator(stream.plan.seed, "loader"),
        prefetch_factor=prefetch_steps if workers else None,
    )
    return StreamLoader(loader, stream, timeout_s)


class StreamLoader:
    """Iterates over the batches of a stream; each iteration starts at the stream's first batch, with new processes.

    Raises (while iterating):
        ShardError: an error of a loader process, as if it had happened here.
        TransientError: a loader process died, or delivered nothing in time; the message names it.
    """

    def __init__(self, loader: DataLoader[_Delivery], stream: TrainingStream, timeout_s: float) -> None:
        self.stream, self.timeout_s = stream, timeout_s
        self._loader = loader

    def __len__(self) -> int:
        return len(self.stream)

    def __iter__(self) -> Iterator[Batch]:
        pids: dict[int, int] = {}
        index, deliveries = 0, None
        try:
            deliveries = iter(self._loader)
            for index in range(len(self)):
                delivery = self._next(deliveries, index, pids)
                pids[delivery.worker] = delivery.pid
                if delivery.error is not None:
                    raise delivery.error
                yield delivery.unpacked()
        except RuntimeError as error:
            # In a main thread PyTorch raises this from a signal handler: at any point, not only in `next`.
            if not str(error).startswith("DataLoader worker"):
                raise
            raise self._lost(index, pids, str(error)) from None
        finally:
            # An iterator that a traceback keeps alive would keep its processes, and would raise an error in every
            # process forked meanwhile.
            try:
                getattr(deliveries, "_shutdown_workers", lambda: None)()
            except RuntimeError as error:
                # The same signal again, while the other processes are joined; it must not hide the first error.
                if not str(error).startswith("DataLoader worker"):
                    raise

    def _next(self, deliveries: Iterator[_Delivery], index: int, pids: dict[int, int]) -> _Delivery:
        try:
            return next(deliveries)
        except (RuntimeError, OSError, EOFError) as error:
            # "Caught …": an unexpected exception of a loader process, with its traceback.
            if self._loader.num_workers == 0 or str(error).startswith("Caught "):
                raise
            raise self._lost(index, pids, str(error)) from None

    def _lost(self, index: int, pids: dict[int, int], message: str) -> TransientError:
        # DataLoader gives item i to process i mod workers.
        worker = index % self._loader.num_workers
        named = {int(pid) for pid in re.findall(r"\d+", message)}
        worker = next((w for w, pid in pids.items() if pid in named), worker)
        step, micro = self.stream.where(index)
        process = f"loader process {worker} of {self._loader.num_workers} (pid {pids.get(worker, 'unknown')})"
        if "timed out" in message:
            problem = f"delivered nothing for {self.timeout_s:g} s while step {step}, micro-batch {micro}, was due"
            return TransientError(
                process, problem, "storage that does not answer is the usual cause; see what the process waits for"
            )
        problem = f"died while step {step}, micro-batch {micro}, was due: {message}"
        return TransientError(
            process, problem, "memory is the usual cause: lower data.prefetch_steps or data.loader_workers"
        )


@dataclass(frozen=True)
class _Delivery:
    """A message of a loader process: its number and pid, with a batch or an error, which DataLoader cannot rebuild."""

    worker: int
    pid: int
    batch: Batch | None = None
    error: MgcdaError | None = None

    def pin_memory(self) -> _Delivery:
        """Called by DataLoader's pinning thread."""
        return replace(self, batch=None if self.batch is None else self.batch.pin_memory())

    def unpacked(self) -> Batch:
        if self.batch is None:
            raise RuntimeError("a delivery without batch and error")
        return self.batch


class _Deliveries(Dataset[_Delivery]):
    """The stream as a data set of deliveries."""

    def __init__(self, stream: TrainingStream) -> None:
        self.stream = stream

    def __len__(self) -> int:
        return len(self.stream)

    def __getitem__(self, index: int) -> _Delivery:
        info = torch.utils.data.get_worker_info()
        worker = 0 if info is None else info.id
        try:
            return _Delivery(worker, os.getpid(), batch=self.stream[index])
        except MgcdaError as error:
            return _Delivery(worker, os.getpid(), error=error)


def _as_is(delivery: Any) -> Any:
    return delivery


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)
    # Ctrl-C reaches the whole process group; the trainer decides when its loader processes end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        # It has inherited the trainer's sockets: while it lives, other ranks do not notice that the trainer has ended.
        # PyTorch itself checks every five seconds; Linux can end a process with the thread that started it.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

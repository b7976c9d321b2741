"""Worker monitor in Ray Train's controller: kills a worker that hangs, and asks workers on a doomed node to leave."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray import ActorID
from ray._private.state import state
from ray._private.worker import global_worker
from ray.exceptions import RayError
from ray.train.v2._internal.execution.callback import WorkerGroupCallback

from mgcda_dist.cluster.hang_detector import HangDetector
from mgcda_dist.training.progress import ask_to_leave, report

__all__ = ["Say", "WorkerMonitor", "request_leave"]

_CHECK_EVERY_S = 1.0
_START_S = 60.0
Say = Callable[..., None]
"""Records an event for the user: (kind, text, **fields), the fields as JSON; see `runs.events.append_event`."""


class WorkerMonitor(WorkerGroupCallback):
    """Kills the worker that hangs, and asks the workers to leave before a node is taken away.

    Args:
        hang_timeout_s, first_step_s: of `HangDetector`.
    """

    def __init__(self, hang_timeout_s: float, first_step_s: float, say: Say) -> None:
        self._hang_timeout_s, self._first_step_s, self._say = hang_timeout_s, first_step_s, say
        self._workers: Sequence[Any] = ()
        self._started: threading.Event | None = None  # cannot be pickled, and is made in the controller
        self._asked: dict[Any, int] = {}
        self._checked_at, self._warned = 0.0, False

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        """Watch the start from a thread: the controller itself waits for the group without a limit."""
        del worker_group_context
        self._stop_watching_start()
        self._started = threading.Event()
        threading.Thread(target=self._watch_start, args=(self._started,), name="worker-monitor", daemon=True).start()

    def after_worker_group_training_start(self, worker_group: Any) -> None:
        """Stop watching the start."""
        del worker_group
        self._stop_watching_start()

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Monitor a new group."""
        self._workers = worker_group.get_workers()
        self._detector = HangDetector(len(self._workers), self._hang_timeout_s, self._first_step_s)
        self._asked, self._warned = {}, False

    def before_worker_group_shutdown(self, worker_group: Any) -> None:
        """Stop monitoring the group."""
        del worker_group
        self._workers, self._asked = (), {}

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        """Check for preemption and hangs; the controller calls this several times a second."""
        preemption = worker_group_status.get_preemption_info()
        if preemption is not None and not self._warned:
            self._warned = True
            self._warn(preemption)
        if worker_group_status.errors or time.monotonic() - self._checked_at < _CHECK_EVERY_S:
            return
        self._checked_at = time.monotonic()
        hang = self._detector.update(self._answers())
        if hang is not None:
            worker = self._workers[hang.rank]
            where = f"{worker.metadata.hostname}, process {worker.metadata.pid}"
            self._say("hang", f"{hang.text}. Killing rank {hang.rank} ({where})", rank=hang.rank)
            ray.kill(worker.actor)

    def _answers(self) -> dict[int, Any]:
        """Reports that have arrived since the last call, by rank; ranks that have answered are asked again."""
        done, _ = ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0) if self._asked else ([], [])
        answers: dict[int, Any] = {}
        for reference in done:
            rank = self._asked.pop(reference)
            try:
                answers[rank] = ray.get(reference)
            except RayError:
                continue  # the worker is dead, which the controller notices
        pending = set(self._asked.values())
        for rank, worker in enumerate(self._workers):
            if rank not in pending:
                self._asked[worker.execute_async(report)] = rank
        return answers

    def _stop_watching_start(self) -> None:
        if self._started is not None:
            self._started.set()

    def _watch_start(self, started: threading.Event) -> None:
        """Kill the workers of a group that does not start in time: one of them holds up the others."""
        seen: dict[str, float] = {}
        patience_s = _START_S + self._hang_timeout_s  # imports take long, the more so over a network
        while not started.wait(_CHECK_EVERY_S):
            seen = {actor: seen.get(actor, time.monotonic()) for actor in _living_workers()}
            if not seen or time.monotonic() - min(seen.values()) < patience_s:
                continue
            self._say("hang", f"the workers have not joined for {patience_s:g} s: killing them all")
            for actor in seen:
                core: Any = global_worker
                core.core_worker.kill_actor(ActorID.from_hex(actor), True)
            return

    def _warn(self, preemption: Any) -> None:
        ranks = ", ".join(map(str, preemption.preempted_ranks))
        until = preemption.deadline_ms
        left = f" in {max(0.0, until / 1000 - time.time()):.0f} s" if until else ""
        reason = f"the node of rank {ranks} is taken away{left}"
        self._say("preemption", f"{reason}: a checkpoint, then on with other nodes", ranks=preemption.preempted_ranks)
        request_leave(self._workers, reason)


def request_leave(workers: Sequence[Any], reason: str) -> None:
    """Ask workers to write a checkpoint after the step they are in, and to end."""
    for worker in workers:
        worker.execute_async(ask_to_leave, reason)


def _living_workers() -> list[str]:
    """Ids of the living workers of this job, which trains one run at a time."""
    job = ray.get_runtime_context().get_job_id()
    table: dict[str, Any] = state.actor_table(None, ray.JobID.from_hex(job), "ALIVE")
    return [actor for actor, entry in table.items() if entry["ActorClassName"] == "RayTrainWorker"]

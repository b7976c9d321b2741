"""Looks after the workers of Ray Train, from its controller: who hangs is killed, who must leave is told in time."""

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

__all__ = ["Lookout", "Say", "let_leave"]

_LOOK_EVERY_S = 1.0
_START_S = 60.0
Say = Callable[..., None]
"""(kind, text, **facts): an event for the user."""


class Lookout(WorkerGroupCallback):
    """Looks after the workers: kills the one that hangs, and lets them leave a node that is taken away.

    Args:
        hang_timeout_s: of the hang detector.
        say: tells the user.
    """

    def __init__(self, hang_timeout_s: float, say: Say) -> None:
        self._hang_timeout_s, self._say = hang_timeout_s, say
        self._workers: Sequence[Any] = ()
        self._started: threading.Event | None = None  # it could not travel to the controller
        self._asked: dict[Any, int] = {}
        self._looked_at, self._warned = 0.0, False

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        """While a group starts, the controller itself waits for it, and for ever: somebody else must look."""
        del worker_group_context
        self._stop_looking_at_start()
        self._started = threading.Event()
        threading.Thread(target=self._look_at_start, args=(self._started,), name="lookout", daemon=True).start()

    def after_worker_group_training_start(self, worker_group: Any) -> None:
        """It has started."""
        del worker_group
        self._stop_looking_at_start()

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Look after a new group."""
        self._workers = worker_group.get_workers()
        self._detector = HangDetector(len(self._workers), self._hang_timeout_s)
        self._asked, self._warned = {}, False

    def before_worker_group_shutdown(self, worker_group: Any) -> None:
        """Look away."""
        del worker_group
        self._workers, self._asked = (), {}

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        """Called by the controller several times a second."""
        preemption = worker_group_status.get_preemption_info()
        if preemption is not None and not self._warned:
            self._warned = True
            self._warn(preemption)
        if worker_group_status.errors or time.monotonic() - self._looked_at < _LOOK_EVERY_S:
            return
        self._looked_at = time.monotonic()
        hang = self._detector.look(self._answers())
        if hang is not None:
            worker = self._workers[hang.rank]
            where = f"{worker.metadata.hostname}, process {worker.metadata.pid}"
            self._say("hang", f"{hang.text}. Killing rank {hang.rank} ({where})", rank=hang.rank)
            ray.kill(worker.actor)

    def _answers(self) -> dict[int, Any]:
        """Reports that have arrived since the last look; asks again whoever has answered."""
        done, _ = ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0) if self._asked else ([], [])
        answers: dict[int, Any] = {}
        for reference in done:
            rank = self._asked.pop(reference)
            try:
                answers[rank] = ray.get(reference)
            except RayError:
                continue  # it is dead: the controller finds that out by itself
        pending = set(self._asked.values())
        for rank, worker in enumerate(self._workers):
            if rank not in pending:
                self._asked[worker.execute_async(report)] = rank
        return answers

    def _stop_looking_at_start(self) -> None:
        if self._started is not None:
            self._started.set()

    def _look_at_start(self, started: threading.Event) -> None:
        """Kill workers that have lived for too long without training: one of them holds up the others."""
        seen: dict[str, float] = {}
        patience_s = _START_S + self._hang_timeout_s  # they import much, and may do so over a network
        while not started.wait(_LOOK_EVERY_S):
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
        let_leave(self._workers, reason)


def let_leave(workers: Sequence[Any], reason: str) -> None:
    """Ask workers to write a checkpoint after the step they are in, and to end."""
    for worker in workers:
        worker.execute_async(ask_to_leave, reason)


def _living_workers() -> list[str]:
    """Ids of the workers of this job that live: a job trains one run at a time."""
    job = ray.get_runtime_context().get_job_id()
    table: dict[str, Any] = state.actor_table(None, ray.JobID.from_hex(job), "ALIVE")
    return [actor for actor, facts in table.items() if facts["ActorClassName"] == "RayTrainWorker"]

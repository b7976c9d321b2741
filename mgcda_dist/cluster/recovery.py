"""Recovery on Ray Train: policies for the number of workers of the next attempt, and for what counts as a failure.

Ray Train restarts and resizes the group of workers by these policies, which run in its controller beside the driver.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray._private.state import state
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.train import ScalingConfig
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision, ScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import ControllerError, PreemptionError, WorkerGroupError

from mgcda_dist.cluster.scaling import NodeResources, WorkerNeeds
from mgcda_dist.cluster.worker_monitor import Say, request_leave
from mgcda_dist.errors import LeavingError, MgcdaError, NodesLostError, StoppedError, TransientError, counted

__all__ = [
    "FittingScalingPolicy",
    "PatientFailurePolicy",
    "RecoveringTrainer",
    "describe_failure",
    "lacked_memory",
    "living_nodes",
]

_WATCHES_NODES = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"


def living_nodes() -> list[NodeResources]:
    """The nodes that Ray may place workers on: alive and not draining."""
    return [_amounts(resources) for resources in _living().values()]


def _living() -> dict[str, Mapping[str, float]]:
    leaving = state.get_draining_nodes()
    return {n["NodeID"]: n["Resources"] for n in ray.nodes() if n["Alive"] and n["NodeID"] not in leaving}


def _amounts(resources: Mapping[str, float]) -> NodeResources:
    return NodeResources(resources.get("CPU", 0.0), int(resources.get("GPU", 0)))


class RecoveringTrainer(DataParallelTrainer):
    """Ray's trainer with our scaling and failure policies.

    Args:
        ends_with_ray: the run has a Ray of its own, in which nothing is left to clean up after it.
    """

    def __init__(
        self,
        *args: Any,
        scaling_policy: ScalingPolicy,
        failure_policy: DefaultFailurePolicy,
        ends_with_ray: bool,
        **kw: Any,
    ) -> None:
        super().__init__(*args, **kw)
        self._policies = {"scaling_policy": scaling_policy, "failure_policy": failure_policy}
        self._ends_with_ray = ends_with_ray

    def _create_default_callbacks(self) -> list[Any]:
        # Each of these starts a process beside the workers: the first for Ray Data, which the stream does not use.
        needless = (DatasetsCallback, PlacementGroupCleanerCallback) if self._ends_with_ray else DatasetsCallback
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, needless)]

    def _initialize_and_run_controller(self, **controller_init_kwargs: Any) -> Any:
        # Its one node is not drained, so that nothing has to watch for that.
        is_needless = self._ends_with_ray and _WATCHES_NODES not in os.environ
        if is_needless:
            os.environ[_WATCHES_NODES] = "0"
        try:
            return super()._initialize_and_run_controller(**(controller_init_kwargs | self._policies))
        finally:
            if is_needless:
                del os.environ[_WATCHES_NODES]


class FittingScalingPolicy(ScalingPolicy):
    """The largest possible number of workers that the nodes have room for; waits where there is room for none.

    Ray's own elastic policy takes any number between the bounds, and resizes by killing. Here the number shares the
    global batch evenly, and the workers are asked to leave with a checkpoint, so that no step is lost.

    Args:
        scaling_config: Ray's, with the bounds.
        needs: the possible numbers of workers, and the resources of one.
        node_wait_s: how long to wait for nodes that were lost.
        every_s: how often to look whether more workers find a place.
        stop_file: exists once the run was asked to stop.
        may_grow: nodes can be added for the run: Ray's autoscaler is told what it needs.
    """

    def __init__(
        self,
        scaling_config: ScalingConfig,
        needs: WorkerNeeds,
        *,
        node_wait_s: float,
        every_s: float,
        stop_file: Path,
        may_grow: bool,
        say: Say,
    ) -> None:
        super().__init__(scaling_config)
        self._stop_file, self._may_grow = stop_file, may_grow
        self._needs, self._node_wait_s, self._every_s, self._say = needs, node_wait_s, every_s, say
        self._has_run, self._asked, self._announced = False, False, False
        self._starting, self._failed_starts, self._said = 0, Counter[int](), set[str]()
        self._waiting_since: float | None = None
        self._checked_at = time.monotonic()

    def after_controller_start(self, train_run_context: Any) -> None:
        """Begin to tell Ray's autoscaler, through a process of its own."""
        if self._may_grow:
            super().after_controller_start(train_run_context)

    def _maybe_send_resource_request(self) -> None:
        if self._may_grow:
            super()._maybe_send_resource_request()

    def _get_num_workers_for_resource_request(self) -> int:
        return self._needs.numbers[-1]

    def make_decision_for_non_running_worker_group(self) -> NoopDecision | ResizeDecision:
        """The largest possible number that there is room for.

        Raises:
            NodesLostError: there is room for none, for longer than the run may wait for lost nodes.
            StoppedError: the run was asked to stop while it has no worker.
        """
        if self._stop_file.exists():
            raise StoppedError("the run", "was asked to stop while no worker was running")
        self._maybe_send_resource_request()
        now = time.monotonic()
        nodes = living_nodes()
        found = self._needs.largest(nodes)
        self._waiting_since = self._waiting_since or now
        waited = now - self._waiting_since
        if found and self._starting:
            found = self._after_failed_start(found)
        if found:
            self._has_run, self._asked, self._announced, self._waiting_since = True, False, False, None
            self._checked_at, self._starting = now, found
            return ResizeDecision(num_workers=found, resources_per_worker=self._resources())
        if self._has_run and waited > self._node_wait_s:
            raise NodesLostError(
                "the cluster",
                f"{self._needs.in_words(nodes)}, and nothing better came within scaling.node_wait_s="
                f"{self._node_wait_s:g} s",
                "the same command goes on from the last checkpoint when there are nodes; with scaling.elastic a run "
                "goes on with fewer",
            )
        if self._has_run and not self._announced:
            self._announced = True
            self._say("note", f"waiting for nodes: {self._needs.in_words(nodes)}")
        time.sleep(0.5)  # Ray asks again at once
        return NoopDecision()

    def make_decision_for_running_worker_group(self, worker_group_state: Any, worker_group_status: Any) -> NoopDecision:
        """Never resize at once; where there is room for more workers, ask the present ones to leave."""
        del worker_group_status
        self._starting = 0
        self._failed_starts.clear()
        self._said.clear()
        self._maybe_send_resource_request()
        now, current = time.monotonic(), worker_group_state.num_workers
        if len(self._needs.numbers) == 1 or self._asked or now - self._checked_at < self._every_s:
            return NoopDecision()
        self._checked_at = now
        possible = self._needs.fitting(self._free_places(worker_group_state.workers))
        if possible > current:
            self._asked = True
            reason = f"{possible} workers find a place now instead of {current}"
            self._say("note", f"{reason}: a checkpoint, then on with {possible}")
            request_leave(worker_group_state.workers, reason)
        return NoopDecision()

    def _resources(self) -> dict[str, float]:
        resources: Any = self.scaling_config._resources_per_worker_not_none
        return {name: float(amount) for name, amount in resources.items()}

    def _after_failed_start(self, most: int) -> int:
        """A number up to `most` for the attempt after one that did not start.

        A node is gone that Ray still counts, or other jobs use it. What is free says how many workers fit, now that
        the last ones hold nothing. A number that has failed twice nevertheless makes way for the next smaller one.
        """
        tried, free = self._starting, self._free_places()
        self._failed_starts[tried] += 1
        room = self._needs.fitting(min(most, free)) or most
        untried = [number for number in self._needs.numbers if number <= room and self._failed_starts[number] < 2]
        if not untried:
            self._failed_starts.clear()
        found = max(untried, default=room)
        text = f"{counted(tried, 'worker')} did not start; at this moment {free or 'none'} would find a place"
        self._say_once(f"{text}: trying {found}")
        return found

    def _say_once(self, text: str) -> None:
        """Once until workers run: an attempt takes seconds, and another job may hold the nodes for hours."""
        if text not in self._said:
            self._said.add(text)
            self._say("note", text)

    def _free_places(self, workers: Sequence[Any] = ()) -> int:
        """Number of workers that find a place once these have left: on each node what is free, and what they hold."""
        held, needs = Counter(worker.metadata.node_id for worker in workers), self._needs
        reported: Mapping[str, Mapping[str, float]] = state.available_resources_per_node()
        room: list[NodeResources] = []
        for node, resources in _living().items():
            whole, free = _amounts(resources), _amounts(reported.get(node, {}))
            # A report may be older than the workers.
            cpus = min(free.cpus + held[node] * needs.cpus, whole.cpus)
            room.append(NodeResources(cpus, min(free.gpus + held[node] * needs.gpus, whole.gpus)))
        return needs.places(room)


class PatientFailurePolicy(DefaultFailurePolicy):
    """Counts failures in a row; a new checkpoint between two of them resets the count.

    Args:
        failure_config: Ray's; `max_failures` is the bound.
        newest_step: step of the newest checkpoint; -1: none.
        is_fatal: true once an error of ours has ended the run, which a restart would repeat.
    """

    def __init__(
        self, failure_config: Any, *, newest_step: Callable[[], int], is_fatal: Callable[[], bool], say: Say
    ) -> None:
        super().__init__(failure_config)
        self._newest_step, self._is_fatal, self._say = newest_step, is_fatal, say
        self._step_at_failure = -1

    def make_decision(self, training_failed_error: Any) -> FailureDecision:
        """Restart or give up."""
        error = training_failed_error
        cause = getattr(error, "controller_failure", error)
        if self._is_fatal() or (isinstance(cause, MgcdaError) and not isinstance(cause, LeavingError)):
            return FailureDecision.RAISE
        failures = getattr(error, "worker_failures", {})
        if any(isinstance(e, MgcdaError) and not isinstance(e, TransientError) for e in failures.values()):
            return FailureDecision.RAISE  # no room for the file that says so
        left = next((failure for failure in failures.values() if isinstance(failure, LeavingError)), None)
        if left is not None:
            self._say("restart", f"{left.problem}: the workers leave, and start again", reason="leave")
            return FailureDecision.RETRY
        newest = self._newest_step()
        if newest > self._step_at_failure:
            self._step_at_failure, self._worker_group_failures = newest, 0
        if isinstance(error, ControllerError) and not self._is_retryable_error(error):
            # E.g. a worker was lost while the others joined the process group.
            error = WorkerGroupError(str(cause), {})
        decision = super().make_decision(error)
        if isinstance(error, WorkerGroupError | PreemptionError):
            allowed = self.failure_config.max_failures
            bound = "" if allowed < 0 else f" ({self._worker_group_failures} of {allowed} without a new checkpoint)"
            then = f"starting again{bound}" if decision == FailureDecision.RETRY else f"giving up{bound}"
            self._say("restart", f"{describe_failure(error, failures)}: {then}", reason="fault")
        return decision


def lacked_memory(error: Exception) -> bool:
    """Tell whether Ray ended a process since its node had no memory left; the words are Ray's."""
    return isinstance(error, OutOfMemoryError) or "low on memory" in str(error)


def describe_failure(error: Exception, failures: dict[int, Exception]) -> str:
    """The cause in one line: the ranks that died, else an error of ours, else the first error."""
    if not failures:
        if lacked_memory(error):
            return "its node ran out of memory, and Ray ended the process that leads the run"
        return str(error).strip().splitlines()[-1]
    causes = {rank: getattr(failure, "health_check_failure", failure) for rank, failure in failures.items()}
    dead = [str(rank) for rank, cause in sorted(causes.items()) if isinstance(cause, RayActorError | OutOfMemoryError)]
    if dead:
        low = any(map(lacked_memory, causes.values()))
        return f"rank {', '.join(dead)} died" + (" because its node ran out of memory" if low else "")
    ours = [cause for cause in causes.values() if isinstance(cause, TransientError)]
    rank, first = next(iter(causes.items()))
    return f"{ours[0].where}: {ours[0].problem}" if ours else f"rank {rank} ended with {type(first).__name__}: {first}"

"""Failures and restarts: the policies for Ray's own errors, without a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.train import FailureConfig, ScalingConfig
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2._internal.execution.scaling_policy import ResizeDecision
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from mgcda_dist.cluster.recovery import FittingScalingPolicy, PatientFailurePolicy, describe_failure
from mgcda_dist.cluster.scaling import WorkerNeeds
from mgcda_dist.cluster.trainer import _first_error
from mgcda_dist.errors import CheckpointError, LeavingError, MgcdaError, NodesLostError, StoppedError, TransientError

ROOM = "mgcda_dist.cluster.recovery"
DIED = WorkerHealthCheckFailedError("no answer", ActorDiedError())


class _Run:
    def __init__(self, max_failures: int = 2) -> None:
        self.newest, self.fatal, self.said = -1, False, list[str]()
        self.policy = PatientFailurePolicy(
            FailureConfig(max_failures=max_failures),
            newest_step=lambda: self.newest,
            is_fatal=lambda: self.fatal,
            say=lambda kind, text, **facts: self.said.append(text),
        )

    def fails(self, **failures: Exception) -> bool:
        """Whether it starts again after this."""
        by_rank: Any = {int(rank[1:]): failure for rank, failure in failures.items()}
        return self.policy.make_decision(WorkerGroupError("…", by_rank)) == FailureDecision.RETRY


def test_failures_in_a_row_are_bounded_and_a_checkpoint_between_them_starts_the_count_anew() -> None:
    run = _Run()
    assert [run.fails(r0=DIED) for _ in range(3)] == [True, True, False]
    assert "giving up (3 of 2 without a new checkpoint)" in run.said[-1]
    run = _Run()
    for step in range(0, 100, 10):
        run.newest = step
        assert run.fails(r1=DIED) and run.fails(r1=DIED)
    assert not run.fails(r1=DIED)
    assert run.said[0] == "rank 1 died: starting again (1 of 2 without a new checkpoint)"


def test_leaving_is_no_failure() -> None:
    run = _Run(max_failures=0)
    leaving = LeavingError("step 7", "the node of rank 1 is taken away in 30 s")
    assert all(run.fails(r0=leaving, r1=leaving) for _ in range(5))
    assert "is taken away in 30 s: the workers leave, and start again" in run.said[0]
    assert not run.fails(r0=DIED)


def test_a_repeatable_error_ends_the_run() -> None:
    run = _Run()
    run.fatal = True
    assert not run.fails(
        r0=RuntimeError("connection closed by peer"), r1=MgcdaError("step 3", "the loss is not finite")
    )
    # Without room for the file that makes it fatal, the error itself does.
    full = CheckpointError("runs/r/model", "could not be written")
    assert not _Run().fails(r0=full, r1=DIED) and _Run().fails(r0=TransientError("rank 0", "lost its node"))
    lost: Any = ControllerError(NodesLostError("the cluster", "no room"))
    assert _Run().policy.make_decision(lost) == FailureDecision.RAISE


def test_a_stop_request_ends_a_run_without_workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cluster = _Cluster(monkeypatch, tmp_path)
    (tmp_path / "stop").touch()
    with pytest.raises(StoppedError, match="asked to stop while no worker was running"):
        cluster.policy.make_decision_for_non_running_worker_group()
    stopped: Any = ControllerError(StoppedError("the run", "…"))
    assert _Run().policy.make_decision(stopped) == FailureDecision.RAISE


def test_a_worker_that_is_lost_while_the_others_join_is_a_failure_like_others() -> None:
    run = _Run()
    broken: Any = ControllerError(RuntimeError("gloo: connection refused"))
    decisions = [run.policy.make_decision(broken) == FailureDecision.RETRY for _ in range(3)]
    assert decisions == [True, True, False]


@pytest.mark.parametrize(
    ("failures", "words"),
    [
        ({0: RuntimeError("gloo"), 1: DIED}, "rank 1 died"),
        ({0: RuntimeError("gloo"), 1: TransientError("loader process 0", "died")}, "loader process 0: died"),
        ({2: RuntimeError("gloo")}, "rank 2 ended with RuntimeError: gloo"),
        ({0: RuntimeError("3 workers were killed due to the node running low on memory"), 1: DIED},
         "rank 1 died because its node ran out of memory"),
    ],
)  # fmt: skip
def test_the_cause_of_a_failure_is_one_line(failures: dict[int, Exception], words: str) -> None:
    assert describe_failure(RuntimeError("…"), failures) == words


def test_a_run_whose_leading_process_lacked_memory_says_so_and_what_helps(tmp_path: Path) -> None:
    """Ray's own text ends with the names of its variables."""
    low = "Task was killed due to the node running low on memory.\nRefer to … RAY_memory_monitor_refresh_ms to zero."
    for error in (OutOfMemoryError(low), RuntimeError(low)):
        found = _first_error(error, tmp_path)
        assert found.problem == "its node ran out of memory, and Ray ended the process that leads the run"
        assert "goes on from the newest checkpoint" in found.remedy
    worker: Any = RuntimeError("the workers failed")
    worker.worker_failures = {1: WorkerHealthCheckFailedError("no answer", OutOfMemoryError(low))}
    found = _first_error(worker, tmp_path)
    assert found.problem == "rank 1 died because its node ran out of memory" and "newest checkpoint" in found.remedy
    other = _first_error(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), tmp_path)
    assert other.problem.startswith("CUDA out of memory") and "logs" in other.remedy


class _Cluster:
    """Nodes as Ray tells of them, and an elastic run on them for 2, 3, 4 or 6 workers.

    Args:
        cpus: of each node.
        free: processors of each that are not in use at this moment.
        draining: indices of nodes that are about to go.
        each: processors of a worker.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        folder: Path,
        cpus: Sequence[float] = (),
        free: Sequence[float] = (),
        *,
        draining: Sequence[int] = (),
        each: float = 1.0,
        numbers: tuple[int, ...] = (2, 3, 4, 6),
        placement: str = "PACK",
    ) -> None:
        self.free, self.said, self.asked = list(free), list[str](), list[str]()
        self.policy = FittingScalingPolicy(
            ScalingConfig(num_workers=(2, 6), resources_per_worker={"CPU": each}),
            WorkerNeeds(numbers, each, 0, placement),
            node_wait_s=1.0,
            every_s=0.0,
            may_grow=True,
            stop_file=folder / "stop",
            say=lambda kind, text, **facts: self.said.append(text),
        )
        nodes = [{"NodeID": f"n{i}", "Alive": True, "Resources": {"CPU": n} if n else {}} for i, n in enumerate(cpus)]
        dead = {"NodeID": "dead", "Alive": False, "Resources": {"CPU": 64.0}}
        monkeypatch.setattr(f"{ROOM}.ray.nodes", lambda: [*nodes, dead])
        monkeypatch.setattr(f"{ROOM}.state", self)
        monkeypatch.setattr(f"{ROOM}.request_leave", lambda workers, reason: self.asked.append(reason))
        monkeypatch.setattr(self.policy, "_maybe_send_resource_request", lambda: None)
        self._draining = {f"n{index}": 0 for index in draining}

    def get_draining_nodes(self) -> dict[str, int]:
        return self._draining

    def available_resources_per_node(self) -> dict[str, dict[str, float]]:
        # Ray leaves out what is used up, and a node whose report has not come; it may still tell of one that is gone.
        return {f"n{i}": {"CPU": n} if n else {} for i, n in enumerate(self.free)} | {"gone": {"CPU": 64.0}}

    def starts(self) -> int:
        """Number of workers of the next attempt."""
        decision = self.policy.make_decision_for_non_running_worker_group()
        assert isinstance(decision, ResizeDecision)
        return decision.num_workers

    def runs_on(self, *nodes: int) -> list[str]:
        """The run has a worker on each of these nodes; reasons for which they are asked to leave."""
        workers = [SimpleNamespace(metadata=SimpleNamespace(node_id=f"n{index}")) for index in nodes]
        group: Any = SimpleNamespace(workers=workers, num_workers=len(workers))
        self.policy.make_decision_for_running_worker_group(group, None)
        return self.asked


def test_resources_of_a_failed_attempt_count_as_free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ray asks for the next number of workers before it lets go of the last attempt's processors."""
    cluster = _Cluster(monkeypatch, tmp_path, cpus=[3, 2], free=[0, 0])
    assert cluster.policy.make_decision_for_non_running_worker_group() == ResizeDecision(4, {"CPU": 1.0})


def test_an_attempt_that_found_no_place_is_made_smaller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A node that is gone without Ray knowing, or another run on the cluster."""
    cluster = _Cluster(monkeypatch, tmp_path, cpus=[3, 3], free=[1, 2])
    assert [cluster.starts(), cluster.starts()] == [6, 3]
    assert cluster.said == ["6 workers did not start; at this moment 3 would find a place: trying 3"]


def test_parts_of_workers_on_several_nodes_are_no_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another job holds two of eight processors on each node: 2 and 2 are left, and no worker has room in them."""
    cluster = _Cluster(monkeypatch, tmp_path, cpus=[8, 8], free=[2, 2], each=4)
    assert cluster.runs_on(0, 1) == []
    cluster.free = [6.0, 6.0]  # as the workers leave, or die
    assert [cluster.starts(), cluster.starts()] == [4, 2]


def test_workers_leave_for_more_only_where_all_of_them_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cluster = _Cluster(monkeypatch, tmp_path, cpus=[8, 8], free=[4, 2], each=4)
    assert cluster.runs_on(0, 1) == ["3 workers find a place now instead of 2"]
    whole: dict[str, Any] = {"cpus": [4, 4, 4], "free": [2, 2, 4], "each": 2}
    assert _Cluster(monkeypatch, tmp_path, **whole).runs_on(0, 1) == ["6 workers find a place now instead of 2"]
    assert _Cluster(monkeypatch, tmp_path, **whole, draining=[2]).runs_on(0, 1) == [
        "4 workers find a place now instead of 2"
    ]
    spread = _Cluster(monkeypatch, tmp_path, **whole, placement="STRICT_SPREAD")
    assert spread.runs_on(0, 1) == ["3 workers find a place now instead of 2"]
    packed = _Cluster(monkeypatch, tmp_path, [4, 4, 4], [0, 4, 4], each=2, placement="STRICT_PACK")
    assert packed.runs_on(0, 0) == []


def test_a_number_that_fails_twice_makes_way_for_the_next(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ray may count as free what is not to be had; after the smallest number it begins with the largest again."""
    cluster = _Cluster(monkeypatch, tmp_path, cpus=[4], free=[4])
    assert [cluster.starts() for _ in range(8)] == [4, 4, 3, 3, 2, 2, 4, 4]
    assert cluster.said[:2] == [
        "4 workers did not start; at this moment 4 would find a place: trying 4",
        "4 workers did not start; at this moment 4 would find a place: trying 3",
    ]
    assert cluster.runs_on(0, 0, 0, 0) == [] and cluster.starts() == 4, "an attempt that began to run is none"


def test_it_is_said_once_why_nothing_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cluster = _Cluster(monkeypatch, tmp_path, cpus=[4], free=[0], numbers=(4,))
    assert [cluster.starts() for _ in range(5)] == [4] * 5
    assert cluster.said == ["4 workers did not start; at this moment none would find a place: trying 4"]

"""Failures and restarts: the policies for Ray's own errors, without a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError
from ray.train import FailureConfig, ScalingConfig
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2._internal.execution.scaling_policy import ResizeDecision
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from mgcda_dist.cluster.recovery import FittingScalingPolicy, PatientFailurePolicy, describe_failure
from mgcda_dist.cluster.scaling import NodeResources, WorkerNeeds
from mgcda_dist.errors import CheckpointError, LeavingError, MgcdaError, NodesLostError, StoppedError, TransientError

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
    policy = _elastic(monkeypatch, tmp_path, cpus=[], free=0)
    (tmp_path / "stop").touch()
    with pytest.raises(StoppedError, match="asked to stop while no worker was running"):
        policy.make_decision_for_non_running_worker_group()
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


def _elastic(monkeypatch: pytest.MonkeyPatch, folder: Path, *, cpus: list[float], free: int) -> FittingScalingPolicy:
    """For 2, 3, 4 or 6 workers, on nodes with these processors, of which `free` are not in use at this moment."""
    policy = FittingScalingPolicy(
        ScalingConfig(num_workers=(2, 6), resources_per_worker={"CPU": 1}),
        WorkerNeeds((2, 3, 4, 6), 1.0, 0, "PACK"),
        node_wait_s=1.0,
        every_s=0.0,
        may_grow=True,
        stop_file=folder / "stop",
        say=lambda *words, **facts: None,
    )
    nodes = [NodeResources(number, 0) for number in cpus]
    monkeypatch.setattr("mgcda_dist.cluster.recovery.living_nodes", lambda: nodes)
    monkeypatch.setattr(policy, "_free_places", lambda: free)
    monkeypatch.setattr(policy, "_maybe_send_resource_request", lambda: None)
    return policy


def test_resources_of_a_failed_attempt_count_as_free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ray asks for the next number of workers before it lets go of the last attempt's processors."""
    policy = _elastic(monkeypatch, tmp_path, cpus=[3, 2], free=0)
    assert policy.make_decision_for_non_running_worker_group() == ResizeDecision(4, {"CPU": 1.0})


def test_an_attempt_that_found_no_place_is_made_smaller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A node that is gone without Ray knowing, or another run on the cluster."""
    policy = _elastic(monkeypatch, tmp_path, cpus=[3, 3], free=3)
    decisions = [policy.make_decision_for_non_running_worker_group() for _ in range(2)]
    assert decisions == [ResizeDecision(6, {"CPU": 1.0}), ResizeDecision(3, {"CPU": 1.0})]

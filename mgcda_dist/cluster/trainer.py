"""Ray Train: starts the workers of a run; `cluster.recovery` starts them again after a fault."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from mgcda_dist.choices import RunFile
from mgcda_dist.cluster.connect import is_connected, prepare_environment, start_ray
from mgcda_dist.cluster.local import private_folder
from mgcda_dist.cluster.scaling import WorkerNeeds
from mgcda_dist.config.run import ScalingConfig
from mgcda_dist.errors import MgcdaError, TransientError
from mgcda_dist.extras import TRAINING, need
from mgcda_dist.files import write_json_atomically
from mgcda_dist.runs.events import EVENTS, append_event
from mgcda_dist.training.checkpoint.store import CheckpointStore

__all__ = ["launch"]


def launch(
    scaling: ScalingConfig,
    numbers: Sequence[int],
    run_root: Path,
    task: str,
    arguments: dict[str, Any],
    *,
    compiles: bool = False,
) -> None:
    """Run a task of `training.worker` on every Ray Train worker and wait for its end.

    Connects to the cluster of `RAY_ADDRESS` (set inside `ray job submit`), else starts a one-node Ray on this machine:
    Ray's own local mode keeps no barriers.

    Args:
        scaling: resources of a worker, placement, and how long to wait for nodes; numbers, where it may say `auto`.
        numbers: of workers that may do the task, ascending; one number unless the task is elastic.
        run_root: folder for Ray Train's own records and the events, on storage that all nodes see.
        task: name of a function in `training.worker`.
        arguments: of that function, picklable; a dict, since each task has its own.
        compiles: the first step of a worker compiles a network, for which it has more time.

    Raises:
        NodesLostError: the remaining nodes have no room for the workers.
        StoppedError: it was asked to stop while no worker was running.
        MgcdaError: the error of a worker, or of Ray; or a package of the training is not installed.
    """
    need("training" if task == "train" else "workers", *(TRAINING if task == "train" else ("ray", "psutil")))
    prepare_environment()
    from ray.train import FailureConfig, RunConfig
    from ray.train import ScalingConfig as RayScalingConfig

    from mgcda_dist.cluster.process_group import ProcessGroup
    from mgcda_dist.cluster.recovery import FittingScalingPolicy, PatientFailurePolicy, RecoveringTrainer
    from mgcda_dist.cluster.worker_monitor import WorkerMonitor

    needs = WorkerNeeds(tuple(numbers), scaling.num_cpus, scaling.num_gpus, scaling.placement)
    run_root.mkdir(parents=True, exist_ok=True)
    say = partial(append_event, run_root / EVENTS)
    first_step_s = scaling.first_step_s(compiles=compiles)
    fatal = run_root / "logs" / "fatal.json"
    fatal.unlink(missing_ok=True)
    alone = not is_connected() and not os.environ.get("RAY_ADDRESS")
    if not is_connected():
        start_ray(scaling)
    scaling_config = RayScalingConfig(
        num_workers=(needs.numbers[0], needs.numbers[-1]) if scaling.elastic else needs.numbers[0],
        use_gpu=needs.gpus > 0,
        resources_per_worker={"CPU": needs.cpus} | ({"GPU": needs.gpus} if needs.gpus else {}),
        placement_strategy=needs.placement,
    )
    failure_config = FailureConfig(max_failures=scaling.max_failures)
    trainer = RecoveringTrainer(
        _on_worker,
        train_loop_config={"task": task, "arguments": arguments, "fatal": str(fatal)},
        scaling_config=scaling_config,
        run_config=RunConfig(
            # A fresh name each time: Ray would silently resume its own records, and checkpoints are ours.
            name=f"launch-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}",
            storage_path=str(run_root / "ray"),
            failure_config=failure_config,
            callbacks=[WorkerMonitor(scaling.hang_timeout_s, first_step_s, say)],  # pyright: ignore[reportArgumentType]
        ),
        backend_config=ProcessGroup(
            "nccl" if needs.gpus else "gloo",
            scaling.interface,
            None if os.environ.get("RAY_ADDRESS") else private_folder(),
            math.ceil(scaling.collective_s(compiles=compiles)),
        ),
        scaling_policy=FittingScalingPolicy(
            scaling_config,
            needs,
            node_wait_s=scaling.node_wait_s,
            every_s=scaling.elastic.every_s if scaling.elastic else float("inf"),
            stop_file=run_root / "stop",
            may_grow=not alone,
            say=say,
        ),
        ends_with_ray=alone,
        failure_policy=PatientFailurePolicy(
            failure_config,
            newest_step=partial(_newest_step, run_root / RunFile.CHECKPOINTS),
            is_fatal=fatal.is_file,
            say=say,
        ),
    )
    try:
        trainer.fit()
    except Exception as error:
        raise _fatal_error(fatal) or _first_error(error, run_root) from error
    # Workers that found the file have returned without an error.
    if found := _fatal_error(fatal):
        raise found


def _fatal_error(fatal: Path) -> MgcdaError | None:
    """The error of ours that has ended the run; errors of other ranks are its consequences."""
    return MgcdaError(*json.loads(fatal.read_text(encoding="utf-8"))) if fatal.is_file() else None


def _newest_step(checkpoints: Path) -> int:
    return max(CheckpointStore(checkpoints, keep=1).steps(), default=-1)


def _on_worker(arguments: dict[str, Any]) -> None:
    """Entry of every worker process."""
    from mgcda_dist.training import worker

    fatal = Path(arguments["fatal"])
    if fatal.is_file():
        # Ray restarts the group after any error. One of ours would be repeated: all ranks return, and `launch` raises.
        return
    _take_gpu()
    try:
        getattr(worker, arguments["task"])(**arguments["arguments"])
    except TransientError:
        raise
    except MgcdaError as error:
        with suppress(OSError):  # a full disk: the failure policy sees the error itself
            write_json_atomically(fatal, [error.where, error.problem, error.remedy])
        raise


def _take_gpu() -> None:
    """Make the GPU that Ray gives this worker the current one of its thread; none for a worker that asked for none.

    Ray shows a worker the GPUs of all its workers on the node, in an order that need not be that of their ranks.
    """
    import ray

    if ray.get_gpu_ids():
        import torch
        from ray.train.torch import get_device

        torch.cuda.set_device(get_device())


def _first_error(error: Exception, run_root: Path) -> MgcdaError:
    """The first error of ours that a worker raised, else Ray's with the folder of the logs."""
    if isinstance(failure := getattr(error, "controller_failure", None), MgcdaError):
        return failure
    failures = getattr(error, "worker_failures", None) or {}
    for failure in failures.values():
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, MgcdaError):
                return cause
            cause = getattr(cause, "cause", None) or cause.__cause__
    from mgcda_dist.cluster.recovery import describe_failure, lacked_memory

    remedy = f"read the logs in {run_root}/logs"
    if any(map(lacked_memory, [error, *failures.values()])):
        remedy = "the same command goes on from the newest checkpoint: leave it more memory (other programs, runs side "
        remedy += "by side, data.loader_workers, evaluation.sets of large frames)"
    return MgcdaError("training", describe_failure(error, failures), remedy)

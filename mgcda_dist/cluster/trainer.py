"""Ray Train: starts the workers of a run; `cluster.recovery` starts them again after a fault."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from mgcda_dist.cluster.connect import prepare_environment, start_ray
from mgcda_dist.cluster.network_interface import choose_interface
from mgcda_dist.cluster.scaling import worker_needs
from mgcda_dist.config.schema import Config
from mgcda_dist.errors import MgcdaError, TransientError
from mgcda_dist.files import write_json_atomically
from mgcda_dist.runs.folder import EVENTS, append_event
from mgcda_dist.training.checkpoint.store import CheckpointStore
from mgcda_dist.training.progress import PROGRESS

__all__ = ["launch"]


def launch(config: Config, run_root: Path, task: str, arguments: dict[str, Any] | None = None) -> None:
    """Run a task of `training.worker` on every Ray Train worker and wait for its end.

    Connects to the cluster of `RAY_ADDRESS` (set inside `ray job submit`), else starts a one-node Ray on this machine:
    Ray's own local mode keeps no barriers.

    Args:
        config: the configuration; its `scaling` section says how many workers, and how long to wait for nodes.
        run_root: folder for Ray Train's own records and the events, on storage that all nodes see.
        task: name of a function in `training.worker` with signature (config, **arguments).
        arguments: further arguments of that function, picklable; a dict, since each task has its own.

    Raises:
        NodesLostError: the remaining nodes have no room for the workers.
        StoppedError: it was asked to stop while no worker was running.
        MgcdaError: the error of a worker, or of Ray.
    """
    prepare_environment()
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig

    from mgcda_dist.cluster.recovery import FittingScalingPolicy, PatientFailurePolicy, RecoveringTrainer
    from mgcda_dist.cluster.worker_monitor import WorkerMonitor

    scaling, needs = config.scaling, worker_needs(config)
    run_root.mkdir(parents=True, exist_ok=True)
    say = partial(append_event, run_root / EVENTS)
    fatal = run_root / "logs" / "fatal.json"
    fatal.unlink(missing_ok=True)
    if not ray.is_initialized():
        start_ray(config)
    gpus = scaling.num_gpus
    elastic = (needs.numbers[0], needs.numbers[-1])
    scaling_config = ScalingConfig(
        num_workers=elastic if scaling.elastic else scaling.num_workers,
        use_gpu=gpus > 0,
        resources_per_worker={"CPU": scaling.cpus_per_worker, **({"GPU": gpus} if gpus else {})},
        placement_strategy=scaling.placement,
    )
    failure_config = FailureConfig(max_failures=scaling.max_failures)
    trainer = RecoveringTrainer(
        _on_worker,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "task": task,
            "arguments": arguments or {},
            "fatal": str(fatal),
        },
        scaling_config=scaling_config,
        run_config=RunConfig(
            # A fresh name each time: Ray would silently resume its own records, and checkpoints are ours.
            name=f"launch-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}",
            storage_path=str(run_root / "ray"),
            failure_config=failure_config,
            callbacks=[WorkerMonitor(scaling.hang_timeout_s, say)],  # pyright: ignore[reportArgumentType]
        ),
        torch_config=_torch_config("nccl" if gpus else "gloo", scaling.interface),
        scaling_policy=FittingScalingPolicy(
            scaling_config,
            needs,
            node_wait_s=scaling.node_wait_s,
            every_s=scaling.elastic.every_s if scaling.elastic else float("inf"),
            stop_file=run_root / "stop",
            say=say,
        ),
        failure_policy=PatientFailurePolicy(
            failure_config,
            newest_step=partial(_newest_step, run_root / "checkpoints"),
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


def _torch_config(backend: str, interface: str | None) -> Any:
    """Ray's set-up of the process group, after each worker has chosen its network interface."""
    from ray.train.torch import TorchConfig

    class Config(TorchConfig):
        @property
        def backend_cls(self) -> type:
            class Backend(super().backend_cls):
                def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
                    worker_group.execute(_prepare_worker, interface)
                    super().on_start(worker_group, backend_config)

                def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
                    # The processes end next; Ray's own shutdown would wait without end for a lost rank.
                    del worker_group, backend_config

            return Backend

    return Config(backend=backend)


def _prepare_worker(interface: str | None) -> None:
    import ray

    choose_interface(interface, ray.util.get_node_ip_address())
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(signum: int, frame: Any) -> None:
    """Leave with a checkpoint where a scheduler, or a node that shuts down, ends the worker."""
    del signum, frame
    PROGRESS.ask_to_leave("a worker was sent SIGTERM")


def _newest_step(checkpoints: Path) -> int:
    return max(CheckpointStore(checkpoints, keep=1).steps(), default=-1)


def _on_worker(arguments: dict[str, Any]) -> None:
    """Entry of every worker process."""
    from mgcda_dist.training import worker

    fatal = Path(arguments["fatal"])
    if fatal.is_file():
        # Ray restarts the group after any error. One of ours would be repeated: all ranks return, and `launch` raises.
        return
    config = Config.model_validate(arguments["config"])
    try:
        getattr(worker, arguments["task"])(config, **arguments["arguments"])
    except TransientError:
        raise
    except MgcdaError as error:
        write_json_atomically(fatal, [error.where, error.problem, error.remedy])
        raise


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
    from mgcda_dist.cluster.recovery import describe_failure

    return MgcdaError("training", describe_failure(error, failures), f"read the logs in {run_root}/logs")

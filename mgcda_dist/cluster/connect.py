"""Connection to the cluster of `RAY_ADDRESS`, or to a one-node Ray on this machine, and the resources of its nodes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from mgcda_dist.cluster.local import LOOPBACK, QUIET, begin_local, end_local, is_beginning, start_local
from mgcda_dist.cluster.scaling import NodeResources
from mgcda_dist.cluster.sweep import Resources
from mgcda_dist.config.run import ScalingConfig
from mgcda_dist.errors import ConfigError, counted
from mgcda_dist.processors import usable_processors

__all__ = [
    "KEEP_FREED_MEMORY",
    "available_resources",
    "begin_ray",
    "connect",
    "connection",
    "is_connected",
    "node_resources",
    "open_ray",
    "prepare_environment",
    "start_ray",
]

_CONNECT_TIMEOUT_S = 10.0
KEEP_FREED_MEMORY = {
    "MALLOC_ARENA_MAX": "1",  # Ray trains in a thread, whose own arena could not hold a block above 64 MB
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}
"""For glibc, in the processes of a one-node Ray. Otherwise each activation of each step is fresh pages from the system,
to be zeroed one by one: on processors up to half of a step (benchmarks/results/allocator.md)."""


def prepare_environment() -> None:
    """Set Ray's environment variables, before it is imported."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # How long a group waits for its resources before the number of workers is decided anew: a node may be gone.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")
    os.environ.setdefault("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "1")
    # Ray asks for this variable to silence its notice of a changed default about GPU visibility.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not os.environ.get("RAY_ADDRESS"):
        os.environ.setdefault(*LOOPBACK)


def connect(address: str) -> None:
    """Connect to the cluster at `HOST:PORT`, `auto`, `ray://…`.

    Raises:
        ConfigError: no answer from there. Ray itself would try for many minutes.
    """
    import ray

    remedy = "from outside of the cluster: `ray job submit --address http://HEAD:8265 … -- mgcda …`; on a node: auto"
    if address.startswith(("http:", "https:")):
        raise ConfigError("RAY_ADDRESS", f"{address} accepts jobs, not programs", remedy)
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "//" not in host:
        try:
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_TIMEOUT_S).close()
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError("RAY_ADDRESS", f"no answer from {address}: {reason}", remedy) from None
    ray.init(address=address, **QUIET)


def start_ray(scaling: ScalingConfig) -> None:
    """Connect to the cluster of `RAY_ADDRESS` (set inside `ray job submit`), else start a one-node Ray.

    Raises:
        ConfigError: this machine lacks the GPUs that the configuration asks for (Ray would wait without end), or there
            is no answer from the address.
    """
    import torch

    if not os.environ.get("RAY_ADDRESS"):
        wanted, present = scaling.num_workers * scaling.num_gpus, torch.cuda.device_count()
        if wanted > present:
            workers = counted(scaling.num_workers, "worker")
            raise ConfigError(
                "scaling.gpus_per_worker",
                f"{workers} with {scaling.num_gpus} GPU each; this machine has {present}",
                "lower scaling.workers, set scaling.gpus_per_worker=0, or submit to a cluster (RAY_ADDRESS)",
            )
        _keep_freed_memory()
    open_ray(_processors(scaling))


def open_ray(cpus: int) -> None:
    """Connect to the cluster of `RAY_ADDRESS`, else start a one-node Ray with that many processors."""
    if address := os.environ.get("RAY_ADDRESS"):
        connect(address)
    else:
        start_local(cpus)


def begin_ray(scaling: ScalingConfig) -> None:
    """Begin to start the Ray of a run on this machine, whose processes load while this one does; `start_ray` waits.

    Where the run has a cluster, or this process a Ray, nothing.
    """
    prepare_environment()
    import ray

    if os.environ.get("RAY_ADDRESS") or ray.is_initialized():
        return
    _keep_freed_memory()
    begin_local(_processors(scaling))


def is_connected() -> bool:
    """True if this process has a Ray, other than one that `begin_ray` has begun."""
    import ray

    return not is_beginning() and ray.is_initialized()


def _processors(scaling: ScalingConfig) -> int:
    """Those of a one-node Ray: workers may want more than the machine has, but for `auto`, which is what it has."""
    if "auto" in (scaling.workers, scaling.cpus_per_worker):
        return usable_processors()
    return max(usable_processors(), round(scaling.num_workers * scaling.num_cpus))


def _keep_freed_memory() -> None:
    for name, value in KEEP_FREED_MEMORY.items():
        os.environ.setdefault(name, value)


@contextmanager
def connection() -> Iterator[None]:
    """Around work that starts or joins a Ray: one that was not there before is left at the end."""
    prepare_environment()
    is_own = not is_connected()
    try:
        yield
    finally:
        if is_own:
            end_local()


def node_resources() -> list[NodeResources]:
    """Resources of each living node of the cluster of `RAY_ADDRESS`, else of this machine."""
    if not os.environ.get("RAY_ADDRESS"):
        import torch

        return [NodeResources(usable_processors(), torch.cuda.device_count())]
    prepare_environment()
    import ray

    connect(os.environ["RAY_ADDRESS"])
    try:
        found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    finally:
        ray.shutdown()
    return [NodeResources(node.get("CPU", 0.0), int(node.get("GPU", 0))) for node in found]


def available_resources() -> Resources:
    """Resources of the whole cluster of `RAY_ADDRESS`, else of this machine."""
    nodes, local = node_resources(), not os.environ.get("RAY_ADDRESS")
    return Resources(sum(node.cpus for node in nodes), sum(node.gpus for node in nodes), local)

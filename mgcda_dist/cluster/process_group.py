"""The process group of torch in which the workers of a run meet, as a backend of Ray Train.

Ray's own, `ray.train.torch.TorchConfig`, needs torch in the controller, which creates the workers:
they would wait until it is loaded there, too.
"""

from __future__ import annotations

import os
import signal
import threading
import uuid
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend, BackendConfig

from mgcda_dist.cluster.network_interface import choose_interface
from mgcda_dist.training.progress import PROGRESS

__all__ = ["ProcessGroup"]


@dataclass
class ProcessGroup(BackendConfig):
    """The process group of each attempt's workers.

    Attributes:
        backend: "nccl" or "gloo".
        interface: network interface of the workers; None: the one that Ray uses.
        folder: where the workers of one machine meet in a file: torch's TCP store listens on all interfaces, and asks
            nobody for a token. None: workers of several machines meet over TCP.
        timeout_s: how long a collective may take; then torch ends every rank that waits for it.
    """

    backend: str
    interface: str | None
    folder: Path | None
    timeout_s: int

    @property
    def backend_cls(self) -> type[Backend]:
        """The part that Ray calls when the workers have started."""
        return _Meeting


class _Meeting(Backend):
    # Each worker is shown the GPUs of all workers on its node, between which NCCL copies directly.
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Let each worker choose its network interface, then all meet."""
        assert isinstance(backend_config, ProcessGroup)
        group = backend_config
        worker_group.execute(_prepare_worker, group.interface)
        if group.folder is None:
            host, port = worker_group.execute_single(0, get_address_and_port)
            place, store = "env://", {"MASTER_ADDR": host, "MASTER_PORT": str(port)}
        else:
            place, store = (group.folder / uuid.uuid4().hex).as_uri(), {}  # a file that no attempt has used before
        worker_group.execute(_meet, group.backend, place, store, group.timeout_s)

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Nothing: the processes end next, and leaving the group would wait without end for a lost rank."""
        del worker_group, backend_config


def _prepare_worker(interface: str | None) -> None:
    import ray

    choose_interface(interface, ray.util.get_node_ip_address())
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(signum: int, frame: Any) -> None:
    """Leave with a checkpoint where a scheduler, or a node that shuts down, ends the worker."""
    del signum, frame
    PROGRESS.ask_to_leave("a worker was sent SIGTERM")


def _meet(backend: str, place: str, store: dict[str, str], timeout_s: int) -> None:
    """Join the process group.

    Args:
        place: `init_method` of torch.
        store: environment variables with the address of rank 0, where `place` is `env://`.
    """
    import ray.train
    import torch.distributed as dist

    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    ranks = {
        "RANK": rank,
        "WORLD_SIZE": world_size,
        "LOCAL_RANK": context.get_local_rank(),
        "LOCAL_WORLD_SIZE": context.get_local_world_size(),
        "NODE_RANK": context.get_node_rank(),
    }
    os.environ |= store | {name: str(value) for name, value in ranks.items()}
    dist.init_process_group(
        backend, init_method=place, rank=rank, world_size=world_size, timeout=timedelta(seconds=timeout_s)
    )

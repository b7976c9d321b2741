"""Communication benchmark: latency and bandwidth of all-reduce over the backend and interface that training uses."""

from __future__ import annotations

import os
import re
import shutil
import socket
import statistics
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from mgcda_dist.cluster.network_interface import choose_interface

__all__ = ["BenchmarkWorker", "transports_in"]

_LARGE_BYTES = 16 * 2**20
_JOIN_S = 60


def transports_in(log: str) -> list[str]:
    """Transports of the channels in a log of NCCL, such as `P2P/CUMEM`, `SHM`, `NET/IB/GDRDMA`, `NET/Socket`.

    A channel's line is `Channel 00/0 : 0[0] -> 1[0] [send] via NET/IB/0/GDRDMA`: the number of the device is left out.
    """
    found = re.findall(r"Channel \S+ : .* via (\S+)", log)
    return sorted({re.sub(r"(NET/[^/]+)/\d+(\([^)]*\))?", r"\1", name) for name in found})


class BenchmarkWorker:
    """One worker of the benchmark; all workers get the same calls in the same order.

    Args:
        address: IP address of the node, as Ray has it.
        interface: network interface of gloo and NCCL, from the configuration; None: the node's default.
    """

    def __init__(self, address: str, interface: str | None) -> None:
        self.address = address
        choose_interface(interface, address)
        # NCCL says nowhere else which transport it takes. Files of one process each: %p is its id.
        self._log = Path(tempfile.mkdtemp(prefix="mgcda-doctor-"))
        os.environ |= {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_SUBSYS": "INIT,NET", "NCCL_DEBUG_FILE": f"{self._log}/%p"}

    def rendezvous_url(self) -> str:
        """URL of this worker, for the init_method of the process group."""
        with socket.socket() as free:
            free.bind((self.address, 0))
            return f"tcp://{self.address}:{free.getsockname()[1]}"

    def join(self, rank: int, num_workers: int, url: str, backend: str) -> tuple[str, int]:
        """Join the process group; returns the network interface used and the number of threads of torch."""
        import torch
        import torch.distributed as dist

        dist.init_process_group(
            backend, init_method=url, rank=rank, world_size=num_workers, timeout=timedelta(seconds=_JOIN_S)
        )
        return os.environ.get("GLOO_SOCKET_IFNAME", "the default interface"), torch.get_num_threads()

    def measure(self, seconds: float) -> tuple[float, float]:
        """Latency of 4 bytes in seconds and bus bandwidth of 16 MiB in bytes per second, half of the time for each."""
        latency_s = self._all_reduce(1, seconds / 2)
        duration_s = self._all_reduce(_LARGE_BYTES // 4, seconds / 2)
        import torch.distributed as dist

        # Bus bandwidth: a ring all-reduce sends every byte 2(W-1)/W times over each link.
        sends_per_byte = 2 * (dist.get_world_size() - 1) / dist.get_world_size()
        dist.destroy_process_group()
        return latency_s, sends_per_byte * _LARGE_BYTES / duration_s

    def transports(self) -> list[str]:
        """Transports of NCCL to the other workers, as its log has named them until now; none with gloo."""
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in self._log.iterdir()]
        shutil.rmtree(self._log, ignore_errors=True)
        return transports_in("\n".join(texts))

    def _all_reduce(self, num_elements: int, seconds: float) -> float:
        """Median time of one all-reduce, in seconds."""
        import torch
        import torch.distributed as dist

        device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
        values, times = torch.zeros(num_elements, device=device), []
        more, start = torch.ones(1, device=device), time.perf_counter()
        while more.item():
            begin = time.perf_counter()
            dist.all_reduce(values)
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
            # Rank 0 decides when to stop, so that every rank makes as many calls.
            more.fill_(float(time.perf_counter() - start < seconds))
            dist.broadcast(more, src=0)
        return statistics.median(times[1:] or times)

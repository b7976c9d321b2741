"""Ray actors of the doctor: a `Node` on every node of the cluster, and benchmark workers placed like training's."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mgcda_dist.cluster import network_interface as interface
from mgcda_dist.cluster.connect import open_ray, prepare_environment
from mgcda_dist.cluster.scaling import NodeResources
from mgcda_dist.doctor import benchmark, node
from mgcda_dist.doctor.findings import Finding
from mgcda_dist.errors import MgcdaError
from mgcda_dist.processors import usable_processors

__all__ = ["Cluster", "CommBenchmark", "connected"]

_ANSWER_S = 180.0
"""Includes the time in which a node unpacks the code and starts Python."""


@dataclass(frozen=True)
class CommBenchmark:
    """Result of the communication benchmark.

    Attributes:
        latency_s: of an all-reduce of 4 bytes.
        bandwidth_bytes_per_s: bus bandwidth of an all-reduce of 16 MiB.
        interfaces: network interfaces used.
        threads: threads of torch per worker.
        num_nodes: nodes that the workers ran on.
        transports: of NCCL between any two of them; none with gloo.
    """

    latency_s: float
    bandwidth_bytes_per_s: float
    interfaces: list[str]
    threads: int
    num_nodes: int
    transports: list[str]


class Cluster:
    """The living nodes of a cluster that this process is connected to, with a `Node` actor on each.

    Args:
        address: of the cluster; None: a Ray on this machine alone.
    """

    def __init__(self, address: str | None) -> None:
        import ray
        from ray import cloudpickle
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # Pickled by value, so that nodes with an older version of the package, or without it, can be examined.
        for module in (node, benchmark, interface):
            cloudpickle.register_pickle_by_value(module)
        own = ray.util.get_node_ip_address()
        # This node first: the others are compared with it.
        alive = sorted(
            (entry for entry in ray.nodes() if entry["Alive"]),
            key=lambda entry: (entry["NodeManagerAddress"] != own, entry["NodeManagerAddress"]),
        )
        self.resources = [
            NodeResources(entry["Resources"].get("CPU", 0.0), int(entry["Resources"].get("GPU", 0))) for entry in alive
        ]
        self.address = address
        self.silent: dict[str, str] = {}
        """Nodes that did not answer, with the reason; they get no further calls."""
        examine: Any = ray.remote(num_cpus=0, max_restarts=0)(node.Node)
        self._nodes: dict[str, Any] = {
            entry["NodeManagerAddress"]: examine.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(entry["NodeID"], soft=False)
            ).remote(entry["NodeManagerAddress"])
            for entry in alive
        }

    @property
    def addresses(self) -> list[str]:
        """Addresses of the nodes that answer, this one first."""
        return list(self._nodes)

    def ask(self, method: str, *arguments: Any) -> dict[str, Any]:
        """Call a method of `Node` on all nodes at once; results by address.

        Nodes that fail or do not answer move to `silent`. The type of the results is that of the method.
        """
        pending = {address: getattr(asked, method).remote(*arguments) for address, asked in self._nodes.items()}
        answers, deadline = {}, time.monotonic() + _ANSWER_S
        for address, answer in pending.items():
            try:
                answers[address] = _get(answer, max(deadline - time.monotonic(), 0.1))
            except RuntimeError as error:
                self.silent[address] = str(error)
                del self._nodes[address]
        return answers

    def clock_offsets_s(self) -> dict[str, float]:
        """Offset of each node's clock from this one's: of three measurements the one with the shortest round trip."""
        best: dict[str, tuple[float, float]] = {}
        for _ in range(3):
            for address, asked in list(self._nodes.items()):
                before = time.time()
                try:
                    theirs = _get(asked.now.remote())
                except RuntimeError as error:
                    self.silent[address] = str(error)
                    del self._nodes[address]
                    continue
                after = time.time()
                found = (after - before, theirs - (before + after) / 2)
                best[address] = min(best.get(address, found), found)
        return {address: offset for address, (_, offset) in best.items()}

    def measure(
        self, num_workers: int, cpus: float, gpus: int, placement: str, interface: str | None, seconds: float
    ) -> CommBenchmark:
        """Benchmark `num_workers` workers, placed as training would place them.

        Raises:
            RuntimeError: no room for the workers, or they cannot communicate.
        """
        import ray
        from ray.util.placement_group import placement_group, remove_placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        bundle = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
        group = placement_group([bundle] * num_workers, strategy=placement)
        try:
            if not group.wait(30):
                raise RuntimeError(f"no room for {num_workers} workers with {bundle} each within 30 s, {placement}")
            start: Any = ray.remote(num_cpus=cpus, num_gpus=gpus)(_BenchmarkActor)
            workers = [
                start.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group, index)).remote(interface)
                for index in range(num_workers)
            ]
            url = _get(workers[0].call.remote("rendezvous_url"))
            backend = "nccl" if gpus else "gloo"
            joined = _get([w.call.remote("join", i, num_workers, url, backend) for i, w in enumerate(workers)])
            latency_s, bandwidth = _get([w.call.remote("measure", seconds) for w in workers])[0]
            return CommBenchmark(
                latency_s,
                bandwidth,
                sorted({name for name, _ in joined}),
                min(threads for _, threads in joined),
                len(set(_get([w.address.remote() for w in workers]))),
                sorted({name for names in _get([w.call.remote("transports") for w in workers]) for name in names}),
            )
        finally:
            remove_placement_group(group)


class _BenchmarkActor:
    """A benchmark worker as a Ray actor, on whichever node Ray places it."""

    def __init__(self, interface: str | None) -> None:
        import ray

        self._worker = benchmark.BenchmarkWorker(ray.util.get_node_ip_address(), interface)

    def address(self) -> str:
        return self._worker.address

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self._worker, method)(*arguments)


@contextmanager
def connected(cpus: float) -> Iterator[Cluster | Finding]:
    """The cluster of `RAY_ADDRESS`, else a one-node Ray with at least `cpus` processors; a finding if there is none."""
    prepare_environment()
    import ray

    address = os.environ.get("RAY_ADDRESS")
    try:
        open_ray(max(usable_processors(), round(cpus)))
    except MgcdaError as error:
        yield Finding("problem", "ray", error.problem, error.remedy)
        return
    except Exception as error:
        yield _connection_problem(address or "this machine", error)
        return
    try:
        yield Cluster(address)
    finally:
        ray.shutdown()


def _connection_problem(address: str, error: Exception) -> Finding:
    texts, cause = [], error
    while cause is not None:
        texts.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    whole = "\n".join(texts)
    if "InvalidAuthToken" in whole or "AuthenticationError" in whole or "authentication token" in whole.lower():
        return Finding(
            "problem",
            "ray",
            f"{address} refuses the token, which is wrong or missing",
            "export RAY_AUTH_MODE=token and the cluster's own RAY_AUTH_TOKEN; `ray get-auth-token` shows what is sent",
        )
    if "ersion mismatch" in whole:
        lines = [line for line in whole.splitlines() if line.strip()]
        return Finding("problem", "ray", f"{address}: {' '.join(lines[:3])}", "use the cluster's image or environment")
    reason = next((line for line in texts[0].splitlines() if line.strip()), type(error).__name__)
    return Finding(
        "problem",
        "ray",
        f"{address} cannot be reached: {reason}",
        "from outside: `ray job submit --address http://HEAD:8265 … -- mgcda doctor CONFIG`; there: RAY_ADDRESS=auto",
    )


def _get(pending: Any, timeout_s: float = _ANSWER_S) -> Any:
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    try:
        return ray.get(pending, timeout=timeout_s)
    except GetTimeoutError:
        raise RuntimeError(f"no answer within {_ANSWER_S:g} s") from None
    except RayError as error:
        lines = [line for line in str(error).strip().splitlines() if line.strip()]
        raise RuntimeError(lines[-1] if lines else repr(error)) from None

"""Sends a `Node` to every node of the Ray cluster, and benchmark workers to where training would run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mgcda_dist.cluster import network_interface as interface
from mgcda_dist.cluster.connect import QUIET, connect, prepare_environment
from mgcda_dist.cluster.scaling import NodeResources
from mgcda_dist.doctor import benchmark, node
from mgcda_dist.doctor.findings import Finding
from mgcda_dist.errors import MgcdaError

__all__ = ["Cluster", "connected"]

_ANSWER_S = 180.0
"""A node may have to unpack the code and start Python first."""


class Cluster:
    """The living nodes of a cluster that this process is connected to, each with a `Node` on it.

    Args:
        address: what was connected to; None: a Ray of this machine's own.
    """

    def __init__(self, address: str | None) -> None:
        import ray
        from ray import cloudpickle
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # By value: a node with an older version of the package, or without it, can still be asked.
        for module in (node, benchmark, interface):
            cloudpickle.register_pickle_by_value(module)
        own = ray.util.get_node_ip_address()
        # Ours first: it is what the others are compared with.
        alive = sorted(
            (entry for entry in ray.nodes() if entry["Alive"]),
            key=lambda entry: (entry["NodeManagerAddress"] != own, entry["NodeManagerAddress"]),
        )
        self.resources = [
            NodeResources(entry["Resources"].get("CPU", 0.0), int(entry["Resources"].get("GPU", 0))) for entry in alive
        ]
        self.address = address
        self.silent: dict[str, str] = {}
        """Nodes that did not answer, and why; nobody asks them again."""
        examine: Any = ray.remote(num_cpus=0, max_restarts=0)(node.Node)
        self._nodes: dict[str, Any] = {
            entry["NodeManagerAddress"]: examine.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(entry["NodeID"], soft=False)
            ).remote(entry["NodeManagerAddress"])
            for entry in alive
        }

    @property
    def addresses(self) -> list[str]:
        """Of the nodes that answer, ours first."""
        return list(self._nodes)

    def ask(self, method: str, *arguments: Any) -> dict[str, Any]:
        """The answers of all nodes, by address. All are asked at once; who does not answer is asked no more."""
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
        """How far each node's clock is ahead of ours; of three questions the one that took least."""
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
    ) -> dict[str, Any]:
        """Benchmark as many workers, placed as training would place them.

        Returns:
            latency_s, bandwidth_bytes_per_s, interfaces, threads, addresses.

        Raises:
            RuntimeError: the workers found no place, or could not talk to each other.
        """
        import ray
        from ray.util.placement_group import placement_group, remove_placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        bundle = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
        group = placement_group([bundle] * num_workers, strategy=placement)
        try:
            if not group.wait(30):
                raise RuntimeError(f"no place for {num_workers} workers with {bundle} each within 30 s, {placement}")
            start: Any = ray.remote(num_cpus=cpus, num_gpus=gpus)(_AtHome)
            workers = [
                start.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group, index)).remote(interface)
                for index in range(num_workers)
            ]
            url = _get(workers[0].call.remote("meeting_point"))
            backend = "nccl" if gpus else "gloo"
            joined = _get([w.call.remote("join", i, num_workers, url, backend) for i, w in enumerate(workers)])
            latency_s, bandwidth = _get([w.call.remote("measure", seconds) for w in workers])[0]
            return {
                "latency_s": latency_s,
                "bandwidth_bytes_per_s": bandwidth,
                "interfaces": sorted({str(one["interface"]) for one in joined}),
                "threads": sorted({one["threads"] for one in joined}),
                "addresses": sorted(set(_get([w.address.remote() for w in workers]))),
            }
        finally:
            remove_placement_group(group)


class _AtHome:
    """A benchmark worker that asks Ray for its own address."""

    def __init__(self, interface: str | None) -> None:
        import ray

        self._worker = benchmark.BenchmarkWorker(ray.util.get_node_ip_address(), interface)

    def address(self) -> str:
        return self._worker.address

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self._worker, method)(*arguments)


@contextmanager
def connected(cpus: float) -> Iterator[Cluster | Finding]:
    """The cluster of `RAY_ADDRESS`, else a one-node Ray with at least so many processors; or why there is none."""
    prepare_environment()
    import ray

    address = os.environ.get("RAY_ADDRESS")
    try:
        if address:
            connect(address)
        else:
            ray.init(address="local", num_cpus=max(os.cpu_count() or 1, round(cpus)), include_dashboard=False, **QUIET)
    except MgcdaError as error:
        yield Finding("problem", "ray", error.problem, error.remedy)
        return
    except Exception as error:
        yield _why_not(address or "this machine", error)
        return
    try:
        yield Cluster(address)
    finally:
        ray.shutdown()


def _why_not(address: str, error: Exception) -> Finding:
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

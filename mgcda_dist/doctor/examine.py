"""Goes through everything that a run needs, from the Ray address to the collectives, and says one line about each."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mgcda_dist.cluster.scaling import is_open, resolve, wanted
from mgcda_dist.config.schema import Config
from mgcda_dist.doctor import judge
from mgcda_dist.doctor.findings import Finding, count, size
from mgcda_dist.doctor.probes import Cluster, connected
from mgcda_dist.errors import MgcdaError
from mgcda_dist.runs.folder import mlflow_uri

__all__ = ["examine"]

PACKAGES = ["deepspeed", "mlflow", "numpy", "opencv-python-headless", "pillow", "pydantic", "ray", "safetensors",
            "timm", "torch", "torchvision", "webdataset"]  # fmt: skip
"""What decides the numbers, or must agree between nodes."""

_MAX_CLOCK_SKEW_S = 1.0
_FULL_BYTES, _NEARLY_FULL_BYTES = 2**30, 20 * 2**30


def examine(config: Config | None, *, benchmark_s: float = 5.0) -> Iterator[Finding]:
    """Look at the cluster of `RAY_ADDRESS`, or at this machine.

    Args:
        config: the run that is planned; None: what can be said without one.
        benchmark_s: how long the workers send to each other; 0: not at all.

    Yields:
        Findings, as they come.
    """
    cpus = 1.0
    if config is not None and not is_open(config):
        cpus = wanted(config).numbers[0] * config.scaling.cpus_per_worker
    with connected(cpus) as cluster:
        if isinstance(cluster, Finding):
            yield cluster
            return
        facts = list(cluster.ask("facts", PACKAGES).values())
        yield from _silent(cluster)
        if not facts:
            return
        yield from judge.ray(facts, cluster.address)
        yield from judge.versions(facts)
        yield from judge.gpus(facts, config)
        yield from _clocks(cluster)
        yield from judge.memory(facts, config)
        if config is not None:
            yield from _shards(cluster, config)
            yield from _storage(cluster, Path(config.runs))
            yield from _mlflow(cluster, config)
        yield from _silent(cluster)
        yield from _room_and_collectives(cluster, config, benchmark_s)


def _silent(cluster: Cluster) -> Iterator[Finding]:
    for address, reason in cluster.silent.items():
        yield Finding(
            "problem",
            "node",
            f"{address}: {reason}",
            "a mount that hangs, or a process that died: look into /tmp/ray/session_latest/logs there",
        )
    cluster.silent.clear()


def _clocks(cluster: Cluster) -> Iterator[Finding]:
    offsets = cluster.clock_offsets_s()
    late = {address: offset for address, offset in offsets.items() if abs(offset) > _MAX_CLOCK_SKEW_S}
    for address, offset in late.items():
        yield Finding(
            "note", "clocks", f"{address} is {offset:+.1f} s off", "run chrony or ntpd: logs and metrics would not fit"
        )
    if offsets and not late:
        yield Finding("ok", "clocks", f"at most {max(map(abs, offsets.values())) * 1000:.1f} ms apart")


def _shards(cluster: Cluster, config: Config) -> Iterator[Finding]:
    from mgcda_dist.config.load import shard_folders

    folders = {".".join(map(str, path)): folder for path, folder in shard_folders(config)}
    seen: dict[str, tuple[str, dict[str, Any]]] = {}
    problems = 0
    for here, answers in cluster.ask("shards", folders).items():
        for key, found in answers.items():
            if "problem" in found:
                problems += 1
                yield Finding(
                    "problem",
                    "shards",
                    f"{here}: {key}: {found['problem']}",
                    "mount there what the other nodes have, or write the shards: every node reads them",
                )
                continue
            address, first = seen.setdefault(key, (here, found))
            if found["digest"] != first["digest"]:
                problems += 1
                yield Finding(
                    "problem",
                    "shards",
                    f"{here}: {key}: other shards than on {address} in {folders[key]}",
                    "copy them again; `mgcda shards verify` says which are whole",
                )
    if not problems:
        samples = sum(found["num_samples"] for _, found in seen.values())
        yield Finding("ok", "shards", f"{count(len(folders), 'folder')} with {samples} samples, the same on every node")


def _storage(cluster: Cluster, storage: Path) -> Iterator[Finding]:
    prefix = f".mgcda-doctor-{secrets.token_hex(4)}-"
    written = cluster.ask("leave_mark", str(storage), prefix)
    problems = 0
    for address, found in written.items():
        if "problem" in found:
            problems += 1
            yield Finding(
                "problem", "storage", f"{address}: {found['problem']}", "runs=… on storage all nodes write to"
            )
    wrote = {address for address, found in written.items() if "problem" not in found}
    for address, seen in cluster.ask("marks", str(storage), prefix).items():
        hidden = sorted(wrote - set(seen))
        if hidden:
            problems += 1
            yield Finding(
                "problem",
                "storage",
                f"{address} does not see in {storage} what {', '.join(hidden)} wrote there",
                "runs=… must lie on storage that all nodes share: checkpoints are written by all of them",
            )
    cluster.ask("remove_mark", str(storage), prefix)
    free = min((found["free_bytes"] for found in written.values() if "free_bytes" in found), default=0)
    if not problems:
        level = "problem" if free < _FULL_BYTES else "note" if free < _NEARLY_FULL_BYTES else "ok"
        text = f"{storage}: written by every node and seen by all, {size(free)} free"
        yield Finding(level, "storage", text, "" if level == "ok" else "checkpoints need room: free some")


def _mlflow(cluster: Cluster, config: Config) -> Iterator[Finding]:
    uri = mlflow_uri(config)
    if uri is None:
        yield Finding("ok", "mlflow", "switched off; metrics.jsonl has everything")
    elif uri.startswith(("http:", "https:")):
        failed = {address: problem for address, problem in cluster.ask("mlflow", uri).items() if problem}
        for address, problem in failed.items():
            yield Finding(
                "problem",
                "mlflow",
                f"{address}: {uri} {problem}",
                "start it, let its port through, name it in MLFLOW_SERVER_ALLOWED_HOSTS; "
                "a password comes by MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD of the nodes",
            )
        if not failed:
            yield Finding("ok", "mlflow", f"{uri} answers every node")
    elif len(cluster.addresses) > 1:
        yield Finding(
            "note",
            "mlflow",
            f"{uri}: a database file, written by one node and without the system metrics of the others",
            "tracking.mlflow_uri=http://… of a server, see cluster/README.md",
        )
    else:
        yield Finding("ok", "mlflow", uri)


def _room_and_collectives(cluster: Cluster, config: Config | None, benchmark_s: float) -> Iterator[Finding]:
    workers, cpus, gpus, placement, interface = len(cluster.addresses), 1.0, 0, "SPREAD", None
    if config is not None:
        try:
            resolved = resolve(config, cluster.resources)
        except MgcdaError as error:
            yield Finding("problem", "scaling", f"{error.where}: {error.problem}", error.remedy)
            return
        wish, interface = wanted(resolved), config.scaling.interface
        cpus, gpus, placement = wish.cpus, wish.gpus, wish.placement
        room = wish.places(cluster.resources)
        workers = wish.fitting(room)
        each = f"{cpus:g} CPU" + (f" and {gpus} GPU" if gpus else "")
        batch, accumulation = config.data.global_batch, config.engine.accumulation
        if not workers:
            less = next((n for n in range(room, 0, -1) if batch % (n * accumulation) == 0), 0)
            yield Finding(
                "problem",
                "scaling",
                f"{count(wish.numbers[0], 'worker')} with {each} each, {placement}; the nodes that are up have room "
                f"for {room}",
                (f"scaling.workers={less}, " if less else "") + "fewer processors or GPUs for each, or more nodes "
                "(an autoscaler brings them when the job asks)",
            )
            return
        share = count(batch // (workers * accumulation), "image")
        yield Finding(
            "ok",
            "scaling",
            f"{count(workers, 'worker')} with {each} each, {placement}, room for {room}; {batch} images per step = "
            f"{count(workers, 'worker')} × {share} × {count(accumulation, 'micro-batch')}",
        )
    if workers < 2 or not benchmark_s:
        yield Finding("ok", "collectives", "one worker sends nothing" if workers < 2 else "not measured")
        return
    try:
        found = cluster.measure(workers, cpus, gpus, placement, interface, benchmark_s)
    except RuntimeError as error:
        yield Finding(
            "problem",
            "collectives",
            f"{workers} workers cannot talk to each other: {error}",
            "let the nodes' ports through to each other; name the interface with scaling.interface=…",
        )
        return
    yield Finding(
        "ok",
        "collectives",
        f"{workers} workers on {count(len(found['addresses']), 'node')}, {'NCCL' if gpus else 'gloo'} over "
        f"{', '.join(found['interfaces'])}, {count(found['threads'][0], 'thread')} each: all-reduce latency "
        f"{found['latency_s'] * 1e6:.0f} µs, bandwidth {found['bandwidth_bytes_per_s'] / 1e9:.2f} GB/s",
    )

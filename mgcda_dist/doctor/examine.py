"""Examination of a cluster: everything that a run needs, from the Ray address to the collectives, one finding each."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

from mgcda_dist.cluster.scaling import is_open, resolve, worker_needs
from mgcda_dist.config.schema import Config
from mgcda_dist.doctor import node_checks
from mgcda_dist.doctor.findings import Finding, size
from mgcda_dist.doctor.node import NodeReport, ShardsReport
from mgcda_dist.doctor.probes import Cluster, connected
from mgcda_dist.errors import MgcdaError, counted
from mgcda_dist.runs.folder import mlflow_uri

__all__ = ["examine"]

PACKAGES = ["deepspeed", "mlflow", "numpy", "opencv-python-headless", "pillow", "pydantic", "ray", "safetensors",
            "timm", "torch", "torchvision", "webdataset"]  # fmt: skip
"""Packages that decide the numbers of a run, or must agree between nodes."""

_MAX_CLOCK_SKEW_S = 1.0
_FULL_BYTES, _NEARLY_FULL_BYTES = 2**30, 20 * 2**30


def examine(config: Config | None, *, benchmark_s: float = 5.0) -> Iterator[Finding]:
    """Findings about the cluster of `RAY_ADDRESS`, or this machine, as soon as they are known.

    Args:
        config: the planned run; None: only the checks that need none.
        benchmark_s: duration of the communication benchmark; 0: none.
    """
    cpus = 1.0
    if config is not None and not is_open(config):
        cpus = worker_needs(config).numbers[0] * config.scaling.num_cpus
    with connected(cpus) as cluster:
        if isinstance(cluster, Finding):
            yield cluster
            return
        reports = list(cluster.ask("report", PACKAGES).values())
        yield from _silent(cluster)
        if not reports:
            return
        yield from node_checks.ray(reports, cluster.address)
        yield from node_checks.private(reports)
        yield from node_checks.versions(reports)
        yield from node_checks.gpus(reports, config)
        yield from node_checks.fabric(reports)
        yield from node_checks.open_files(reports, _most_workers(cluster, config))
        yield from _clocks(cluster)
        yield from node_checks.memory(reports, config)
        if config is not None:
            yield from _data(cluster, config)
            yield from _storage(cluster, Path(config.runs))
            yield from _mlflow(cluster, config)
        yield from _silent(cluster)
        yield from _scaling_and_collectives(cluster, config, benchmark_s, reports)


def _silent(cluster: Cluster) -> Iterator[Finding]:
    for address, reason in cluster.silent.items():
        yield Finding(
            "problem",
            "node",
            f"{address}: {reason}",
            "a mount that hangs, or a process that died: see /tmp/ray/session_latest/logs on that node",
        )
    cluster.silent.clear()


def _most_workers(cluster: Cluster, config: Config | None) -> int:
    if config is None:
        return len(cluster.addresses)
    if config.scaling.elastic is not None:
        return config.scaling.elastic.max
    try:
        return resolve(config, cluster.resources).scaling.num_workers
    except MgcdaError:
        return 1  # no room for one, which is a finding of its own


def _clocks(cluster: Cluster) -> Iterator[Finding]:
    offsets = cluster.clock_offsets_s()
    skewed = {address: offset for address, offset in offsets.items() if abs(offset) > _MAX_CLOCK_SKEW_S}
    for address, offset in skewed.items():
        remedy = "run chrony or ntpd: the times of logs and metrics would disagree"
        yield Finding("note", "clocks", f"{address} is {offset:+.1f} s off", remedy)
    if offsets and not skewed:
        yield Finding("ok", "clocks", f"at most {max(map(abs, offsets.values())) * 1000:.1f} ms apart")


def _data(cluster: Cluster, config: Config) -> Iterator[Finding]:
    from mgcda_dist.config.load import shard_folders

    folders = {".".join(map(str, path)): folder for path, folder in shard_folders(config)}
    if folders:
        yield from _same_everywhere(
            "shards",
            cluster.ask("shards", folders),
            folders,
            counted(len(folders), "folder"),
            "mount the folder on that node, or write the shards: every node reads them",
            "copy them again; `mgcda shards verify` lists the damaged ones",
        )
    named = {f"data.streams.{i}.dataset": stream.dataset for i, stream in enumerate(config.data.streams)}
    named |= {f"evaluation.sets.{i}.dataset": entry.dataset for i, entry in enumerate(config.evaluation.sets)}
    datasets = {key: reference for key, reference in named.items() if reference is not None}
    if datasets:
        yield from _same_everywhere(
            "items",
            cluster.ask("datasets", config.model_dump(mode="json"), list(datasets)),
            datasets,
            counted(len(datasets), "Dataset"),
            "install its code on that node and mount its data: every node reads them",
            "copy its code and its data again",
        )


def _same_everywhere(
    subject: str,
    answers: dict[str, dict[str, ShardsReport]],
    places: dict[str, str],
    what: str,
    missing: str,
    other: str,
) -> Iterator[Finding]:
    """Findings about data that every node must have, by node and key; `missing` and `other` are remedies."""
    seen: dict[str, tuple[str, ShardsReport]] = {}
    problems = 0
    for here, reports in answers.items():
        for key, found in reports.items():
            if "problem" in found:
                problems += 1
                yield Finding("problem", subject, f"{here}: {key}: {found['problem']}", missing)
                continue
            address, first = seen.setdefault(key, (here, found))
            if found.get("digest") != first.get("digest"):
                problems += 1
                text = f"{here}: {key}: other {subject} than on {address} in {places[key]}"
                yield Finding("problem", subject, text, other)
    if not problems:
        samples = sum(found.get("num_samples", 0) for _, found in seen.values())
        yield Finding("ok", subject, f"{what} with {samples} samples, the same on every node")


def _storage(cluster: Cluster, storage: Path) -> Iterator[Finding]:
    prefix = f".mgcda-doctor-{secrets.token_hex(4)}-"
    written = cluster.ask("write_probe", str(storage), prefix)
    problems = 0
    for address, found in written.items():
        if "problem" in found:
            problems += 1
            yield Finding(
                "problem", "storage", f"{address}: {found['problem']}", "set runs=… to storage that all nodes can write"
            )
    wrote = {address for address, found in written.items() if "problem" not in found}
    for address, seen in cluster.ask("visible_probes", str(storage), prefix).items():
        hidden = sorted(wrote - set(seen))
        if hidden:
            problems += 1
            yield Finding(
                "problem",
                "storage",
                f"{address} does not see the files that {', '.join(hidden)} wrote to {storage}",
                "set runs=… to storage that all nodes share: every node writes checkpoints",
            )
    cluster.ask("remove_probe", str(storage), prefix)
    free = min((found["free_bytes"] for found in written.values() if "free_bytes" in found), default=0)
    if not problems:
        level = "problem" if free < _FULL_BYTES else "note" if free < _NEARLY_FULL_BYTES else "ok"
        text = f"{storage}: written by every node and seen by all, {size(free)} free"
        yield Finding(level, "storage", text, "" if level == "ok" else "free some space for checkpoints")


def _mlflow(cluster: Cluster, config: Config) -> Iterator[Finding]:
    uri = mlflow_uri(config)
    if uri is None:
        yield Finding("ok", "mlflow", "switched off; metrics.jsonl has all metrics")
    elif uri.startswith(("http:", "https:")):
        failed = {address: problem for address, problem in cluster.ask("mlflow", uri).items() if problem}
        for address, problem in failed.items():
            yield Finding(
                "problem",
                "mlflow",
                f"{address}: {uri} {problem}",
                "start it, open its port, add it to MLFLOW_SERVER_ALLOWED_HOSTS; with a password, set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD on the nodes",
            )
        if not failed:
            yield Finding("ok", "mlflow", f"{uri} answers every node")
    elif len(cluster.addresses) > 1:
        yield Finding(
            "note",
            "mlflow",
            f"{uri}: a database file; one node writes it, and the system metrics of the others are missing",
            "set tracking.mlflow_uri=http://… of a server, see cluster/mlflow.md",
        )
    else:
        yield Finding("ok", "mlflow", uri)


def _scaling_and_collectives(
    cluster: Cluster, config: Config | None, benchmark_s: float, reports: list[NodeReport]
) -> Iterator[Finding]:
    workers, cpus, gpus, placement, interface = len(cluster.addresses), 1.0, 0, "SPREAD", None
    if config is not None:
        try:
            resolved = resolve(config, cluster.resources)
        except MgcdaError as error:
            yield Finding("problem", "scaling", f"{error.where}: {error.problem}", error.remedy)
            return
        request, interface = worker_needs(resolved), config.scaling.interface
        cpus, gpus, placement = request.cpus, request.gpus, request.placement
        room = request.places(cluster.resources)
        workers = request.fitting(room)
        each = f"{cpus:g} CPU" + (f" and {gpus} GPU" if gpus else "")
        batch, accumulation = config.data.global_batch, config.engine.accumulation
        if not workers:
            less = next((n for n in range(room, 0, -1) if batch % (n * accumulation) == 0), 0)
            yield Finding(
                "problem",
                "scaling",
                f"{counted(request.numbers[0], 'worker')} with {each} each, {placement}; the nodes that are up have "
                f"room for {room}",
                (f"scaling.workers={less}, " if less else "") + "fewer processors or GPUs for each, or more nodes "
                "(an autoscaler starts them for a submitted job)",
            )
            return
        local_batch = counted(batch // (workers * accumulation), "image")
        yield Finding(
            "ok",
            "scaling",
            f"{counted(workers, 'worker')} with {each} each, {placement}, room for {room}; {batch} images per step = "
            f"{counted(workers, 'worker')} × {local_batch} × {counted(accumulation, 'micro-batch')}",
        )
    if workers < 2 or not benchmark_s:
        yield Finding("ok", "collectives", "not needed by one worker" if workers < 2 else "not measured")
        return
    try:
        found = cluster.measure(workers, cpus, gpus, placement, interface, benchmark_s)
    except RuntimeError as error:
        yield Finding(
            "problem",
            "collectives",
            f"{workers} workers cannot communicate: {error}",
            "open the ports between the nodes; set the network interface with scaling.interface=…",
        )
        return
    backend = f"NCCL by {' and '.join(found.transports) or 'unknown transports'}" if gpus else "gloo"
    yield Finding(
        "ok",
        "collectives",
        f"{workers} workers on {counted(found.num_nodes, 'node')}, {backend} over "
        f"{', '.join(found.interfaces)}, {counted(found.threads, 'thread')} each: all-reduce latency "
        f"{found.latency_s * 1e6:.0f} µs, bandwidth {found.bandwidth_bytes_per_s / 1e9:.2f} GB/s",
    )
    yield from node_checks.transports(found.transports, reports)

"""Goes through everything that a run needs, from the Ray address to the collectives, and says one line about each."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mgcda_dist
from mgcda_dist.config.schema import Config
from mgcda_dist.doctor.findings import Finding
from mgcda_dist.doctor.probes import Cluster, NodeProbe, connected
from mgcda_dist.errors import MgcdaError
from mgcda_dist.training.run_folder import mlflow_uri
from mgcda_dist.training.scaling import places, resolve

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
    if config is not None and config.scaling.workers != "auto":
        cpus = config.scaling.workers * config.scaling.cpus_per_worker
    with connected(cpus) as cluster:
        if isinstance(cluster, Finding):
            yield cluster
            return
        answers: list[tuple[NodeProbe, dict[str, Any]]] = []
        for node in cluster.nodes:
            try:
                answers.append((node, node.ask("facts", PACKAGES)))
            except RuntimeError as error:
                yield Finding("problem", "node", f"{node.address}: {error}", "look at Ray's logs there")
        nodes, facts = [node for node, _ in answers], [fact for _, fact in answers]
        if not nodes:
            return
        yield from _ray(facts)
        yield from _versions(facts)
        yield from _gpus(facts, config)
        yield from _clocks(nodes)
        yield from _memory(facts, config)
        if config is not None:
            yield from _shards(nodes, config)
            yield from _storage(nodes, Path(config.runs))
            yield from _mlflow(nodes, config)
        yield from _room_and_collectives(cluster, config, benchmark_s)


def _ray(facts: list[dict[str, Any]]) -> Iterator[Finding]:
    names = ", ".join(_name(fact) for fact in facts)
    local = all(fact["address"].startswith("127.") for fact in facts)
    open_nodes = [fact for fact in facts if fact["authentication"] == "disabled"]
    if open_nodes and not local:
        yield Finding(
            "note",
            "ray",
            f"{_count(len(facts), 'node')}, WITHOUT authentication: {names}",
            "whoever reaches the head can run code: start Ray with RAY_AUTH_MODE=token and a token on every node",
        )
    else:
        yield Finding("ok", "ray", f"{_count(len(facts), 'node')}: {names}")


def _versions(facts: list[dict[str, Any]]) -> Iterator[Finding]:
    first, problems = facts[0], 0
    for fact in facts[1:]:
        differing = [
            f"{name} {found or 'is not installed'} (on {_name(first)}: {first['packages'][name] or 'not installed'})"
            for name, found in fact["packages"].items()
            if found != first["packages"][name]
        ]
        if fact["python"].split(".")[:2] != first["python"].split(".")[:2]:
            differing.insert(0, f"Python {fact['python']} (on {_name(first)}: {first['python']})")
        if differing:
            problems += 1
            yield Finding(
                "problem", "versions", f"{_name(fact)}: {', '.join(differing)}", "use one image, or one environment"
            )
        if fact["code"] != first["code"]:
            problems += 1
            yield Finding(
                "problem",
                "code",
                f"{_name(fact)}: mgcda_dist {'is not installed' if fact['code'] is None else 'has other code'} than "
                f"on {_name(first)}",
                "submit with `ray job submit --working-dir .`, which brings the code along, or install the same",
            )
    missing = [name for name, found in first["packages"].items() if found is None]
    if missing:
        problems += 1
        yield Finding(
            "problem",
            "versions",
            f"{_name(first)}: {', '.join(missing)} not installed",
            "pip install -c constraints.txt",
        )
    tested = _tested_versions()
    other = [
        f"{name} {found} (tested: {tested[name]})"
        for name, found in first["packages"].items()
        if found is not None and name in tested and found.partition("+")[0] != tested[name]
    ]
    if other:
        yield Finding("note", "versions", f"not the tested ones: {', '.join(other)}", "pip install -c constraints.txt")
    elif not problems:
        shown = f"Python {first['python']}, torch {first['packages']['torch']}, ray {first['packages']['ray']}"
        against = "the tested set" if tested else "no constraints.txt to compare with"
        yield Finding("ok", "versions", f"{shown}, deepspeed {first['packages']['deepspeed']}: {against}, same code")


def _gpus(facts: list[dict[str, Any]], config: Config | None) -> Iterator[Finding]:
    wants = config is not None and config.scaling.gpus_per_worker not in (0, "auto")
    for fact in facts:
        present, usable = len(fact["gpus"]), fact["torch_sees_gpus"]
        if usable is not None and usable < present:
            yield Finding(
                "problem" if wants else "note",
                "gpus",
                f"{_name(fact)}: the driver has {present} GPUs ({fact['gpus'][0]}), torch can use {usable}",
                "CUDA 13 needs driver R580 or newer; in a container, NVIDIA's runtime",
            )
        elif present:
            yield Finding("ok", "gpus", f"{_name(fact)}: {present} × {fact['gpus'][0]}")
    if wants and not any(fact["gpus"] for fact in facts):
        yield Finding("problem", "gpus", "none on any node", "scaling.gpus_per_worker=0, or nodes that have some")
    elif not any(fact["gpus"] for fact in facts):
        yield Finding("ok", "gpus", "none: processors and gloo")


def _clocks(nodes: list[NodeProbe]) -> Iterator[Finding]:
    offsets = {node.address: node.clock_offset_s() for node in nodes}
    late = {address: offset for address, offset in offsets.items() if abs(offset) > _MAX_CLOCK_SKEW_S}
    for address, offset in late.items():
        yield Finding(
            "note", "clocks", f"{address} is {offset:+.1f} s off", "run chrony or ntpd: logs and metrics would not fit"
        )
    if not late:
        yield Finding("ok", "clocks", f"within {max(map(abs, offsets.values())) * 1000:.0f} ms")


def _memory(facts: list[dict[str, Any]], config: Config | None) -> Iterator[Finding]:
    """Shared memory, through which the loader's processes hand their batches on; and disk for Ray's session."""
    needed = _loader_bytes(config) if config is not None else 64 * 2**20
    tight = [fact for fact in facts if fact["shm_free_bytes"] < needed]
    for fact in tight:
        yield Finding(
            "problem",
            "memory",
            f"{_name(fact)}: {_size(fact['shm_free_bytes'])} of shared memory, and the loaders of one worker want "
            f"{_size(needed)}",
            "docker run --shm-size=16g; in Kubernetes an emptyDir with medium: Memory at /dev/shm",
        )
    if not tight:
        least = min(fact["shm_free_bytes"] for fact in facts)
        yield Finding("ok", "memory", f"{_size(least)} of shared memory or more on every node")
    for fact in facts:
        if fact["tmp_free_bytes"] < _FULL_BYTES:
            text = f"{_name(fact)}: {_size(fact['tmp_free_bytes'])} left for Ray's session"
            yield Finding("problem", "disk", text, "free some, or start Ray with --temp-dir on another disk")


def _shards(nodes: list[NodeProbe], config: Config) -> Iterator[Finding]:
    from mgcda_dist.config.load import shard_folders

    folders = {".".join(map(str, path)): folder for path, folder in shard_folders(config)}
    seen: dict[str, tuple[str, dict[str, Any]]] = {}
    problems = 0
    for node in nodes:
        for key, found in node.ask("shards", folders).items():
            if "problem" in found:
                problems += 1
                yield Finding(
                    "problem",
                    "shards",
                    f"{node.address}: {key}: {found['problem']}",
                    "mount there what the other nodes have, or write the shards: every node reads them",
                )
                continue
            address, first = seen.setdefault(key, (node.address, found))
            if found["digest"] != first["digest"]:
                problems += 1
                yield Finding(
                    "problem",
                    "shards",
                    f"{node.address}: {key}: other shards than on {address} in {folders[key]}",
                    "copy them again; `mgcda shards verify` says which are whole",
                )
    if not problems:
        samples = sum(found["num_samples"] for _, found in seen.values())
        yield Finding(
            "ok", "shards", f"{_count(len(folders), 'folder')} with {samples} samples, the same on every node"
        )


def _storage(nodes: list[NodeProbe], storage: Path) -> Iterator[Finding]:
    prefix = f".mgcda-doctor-{secrets.token_hex(4)}-"
    marks = {node.address: f"{prefix}{index}" for index, node in enumerate(nodes)}
    written = {node.address: node.ask("leave_mark", str(storage), marks[node.address]) for node in nodes}
    problems = 0
    for address, found in written.items():
        if "problem" in found:
            problems += 1
            yield Finding(
                "problem", "storage", f"{address}: {found['problem']}", "runs=… on storage all nodes write to"
            )
    for node in nodes:
        seen = node.ask("marks", str(storage), prefix)
        hidden = [other for other, mark in marks.items() if mark not in seen and "problem" not in written[other]]
        if hidden:
            problems += 1
            yield Finding(
                "problem",
                "storage",
                f"{node.address} does not see in {storage} what {', '.join(hidden)} wrote there",
                "runs=… must lie on storage that all nodes share: checkpoints are written by all of them",
            )
    for node in nodes:
        if "problem" not in written[node.address]:
            node.ask("remove_mark", str(storage), marks[node.address])
    free = min((found["free_bytes"] for found in written.values() if "free_bytes" in found), default=0)
    if not problems:
        level = "problem" if free < _FULL_BYTES else "note" if free < _NEARLY_FULL_BYTES else "ok"
        text = f"{storage}: written by every node and seen by all, {_size(free)} free"
        yield Finding(level, "storage", text, "" if level == "ok" else "checkpoints need room: free some")


def _mlflow(nodes: list[NodeProbe], config: Config) -> Iterator[Finding]:
    uri = mlflow_uri(config)
    if uri is None:
        yield Finding("ok", "mlflow", "switched off; metrics.jsonl has everything")
    elif uri.startswith(("http:", "https:")):
        failed = {node.address: problem for node in nodes if (problem := node.ask("mlflow", uri))}
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
    elif len(nodes) > 1:
        yield Finding(
            "note",
            "mlflow",
            f"{uri}: a database file, written by one node and without the system metrics of the others",
            "tracking.mlflow_uri=http://… of a server, see cluster/README.md",
        )
    else:
        yield Finding("ok", "mlflow", uri)


def _room_and_collectives(cluster: Cluster, config: Config | None, benchmark_s: float) -> Iterator[Finding]:
    workers, cpus, gpus, placement, interface = len(cluster.nodes), 1.0, 0, "SPREAD", None
    if config is not None:
        try:
            scaling = resolve(config, cluster.resources).scaling
        except MgcdaError as error:
            yield Finding("problem", "scaling", f"{error.where}: {error.problem}", error.remedy)
            return
        workers, gpus, cpus = scaling.num_workers, scaling.num_gpus, scaling.cpus_per_worker
        placement, interface = scaling.placement, scaling.interface
        room = places(cluster.resources, cpus, gpus, placement)
        each = f"{cpus:g} CPU" + (f" and {gpus} GPU" if gpus else "")
        if workers > room:
            yield Finding(
                "problem",
                "scaling",
                f"{workers} workers with {each} each, {placement}: the nodes that are up have room for {room}",
                f"scaling.workers={max(room, 1)}, fewer processors or GPUs each, or more nodes "
                "(an autoscaler brings them when the job asks)",
            )
            return
        share = config.data.global_batch // (workers * config.engine.accumulation)
        yield Finding(
            "ok",
            "scaling",
            f"{workers} workers with {each} each, {placement}, room for {room}; {config.data.global_batch} images per "
            f"step = {workers} workers × {share} images × {config.engine.accumulation} micro-batches",
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
        f"{workers} workers on {_count(len(found['addresses']), 'node')}, {'NCCL' if gpus else 'gloo'} over "
        f"{', '.join(found['interfaces'])}, {_count(found['threads'][0], 'thread')} each: all-reduce latency "
        f"{found['latency_s'] * 1e6:.0f} µs, bandwidth {found['bandwidth_bytes_per_s'] / 1e9:.2f} GB/s",
    )


def _tested_versions() -> dict[str, str]:
    """From constraints.txt, beside the package in a checkout, in it when installed."""
    package = Path(mgcda_dist.__file__).parent
    for path in (package.parent / "constraints.txt", package / "constraints.txt"):
        if path.is_file():
            return dict(re.findall(r"^([\w.-]+)==(\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE))
    return {}


def _loader_bytes(config: Config) -> int:
    """Batches that the loader processes of one worker hold ready: image and label, one byte per value."""
    scaling, data = config.scaling, config.data
    workers = 1 if scaling.workers == "auto" else scaling.workers
    share = max(1, data.global_batch // (workers * config.engine.accumulation))
    return share * 4 * data.crop_px[0] * data.crop_px[1] * data.loader_workers * data.prefetch_steps


def _name(fact: dict[str, Any]) -> str:
    return f"{fact['address']} ({fact['host']})"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MiB"

"""Checks of the nodes' reports against each other, the tested versions and the configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import mgcda_dist
from mgcda_dist.config.schema import Config
from mgcda_dist.doctor.findings import Finding, size
from mgcda_dist.doctor.node import NodeReport
from mgcda_dist.errors import counted, install_extra

__all__ = ["fabric", "gpus", "memory", "open_files", "private", "ray", "transports", "versions"]

_FULL_BYTES = 2**30
_FILES, _FILES_PER_WORKER = 768, 16
"""Files and sockets of a worker: its own, and those to each other worker, of gloo's and NCCL's groups."""


def ray(reports: list[NodeReport], address: str | None) -> Iterator[Finding]:
    """The nodes of the cluster, and whether Ray asks for a token. `address`: of the cluster; None: this machine."""
    names = ", ".join(_name(report) for report in reports)
    if address is None:
        yield Finding("ok", "ray", f"no RAY_ADDRESS: this machine, {names}")
        return
    # Ray asks for no token where the variable is not set and no token lies in the user's home.
    if any(report["authentication"] != "token" for report in reports):
        yield Finding(
            "note",
            "ray",
            f"{counted(len(reports), 'node')}, WITHOUT authentication: {names}",
            "anyone who reaches the head can run code: start Ray with RAY_AUTH_MODE=token and a token on every node",
        )
    else:
        yield Finding("ok", "ray", f"{counted(len(reports), 'node')}, behind a token: {names}")


def private(reports: list[NodeReport]) -> Iterator[Finding]:
    """Tokens that other users could read, which are closed by now, and sessions of Ray that they may enter."""
    for report in reports:
        for token in report["closed"]:
            yield Finding(
                "note",
                "private",
                f"{_name(report)}: other users could read {token}; now this user alone can (0600)",
                "if others have accounts there, remove it and make another: `ray get-auth-token --generate`, chmod 600",
            )
        if report["open_session"]:
            yield Finding(
                "note",
                "private",
                f"{_name(report)}: other users may enter Ray's {report['open_session']}: logs, sockets",
                "remove it if no Ray runs there; start Ray with --temp-dir in a folder that is yours alone (0700)",
            )


def versions(reports: list[NodeReport]) -> Iterator[Finding]:
    """Packages, Python and this package's code: equal on all nodes (the first is this one), and the tested versions."""
    first, problems = reports[0], 0
    for report in reports[1:]:
        differing = [
            f"{name} {found or 'is not installed'} (on {_name(first)}: {first['packages'][name] or 'not installed'})"
            for name, found in report["packages"].items()
            if found != first["packages"][name]
        ]
        if report["python"].split(".")[:2] != first["python"].split(".")[:2]:
            differing.insert(0, f"Python {report['python']} (on {_name(first)}: {first['python']})")
        if differing:
            problems += 1
            yield Finding(
                "problem", "versions", f"{_name(report)}: {', '.join(differing)}", "use one image, or one environment"
            )
        if report["code"] != first["code"]:
            problems += 1
            yield Finding(
                "problem",
                "code",
                f"{_name(report)}: mgcda_dist {'is not installed' if report['code'] is None else 'has other code'} "
                f"than on {_name(first)}",
                "submit with `ray job submit --working-dir .`, which uploads the code, or install the same version",
            )
    missing = [name for name, found in first["packages"].items() if found is None]
    if missing:
        problems += 1
        yield Finding(
            "problem",
            "versions",
            f"{_name(first)}: {', '.join(missing)} not installed",
            install_extra("train"),
        )
    tested = _tested_versions()
    other = [
        f"{name} {found} (tested: {tested[name]})"
        for name, found in first["packages"].items()
        if found is not None and name in tested and found.partition("+")[0] != tested[name]
    ]
    if other:
        yield Finding("note", "versions", f"not the tested ones: {', '.join(other)}", install_extra("train"))
    elif not problems:
        shown = f"Python {first['python']}, torch {first['packages']['torch']}, ray {first['packages']['ray']}"
        against = "the tested set" if tested else "no constraints.txt to compare with"
        yield Finding("ok", "versions", f"{shown}, deepspeed {first['packages']['deepspeed']}: {against}, same code")


def gpus(reports: list[NodeReport], config: Config | None) -> Iterator[Finding]:
    """The GPUs of the driver, against those that torch can use and the configuration asks for."""
    wanted = config is not None and config.scaling.gpus_per_worker not in (0, "auto")
    for report in reports:
        present, usable = len(report["gpus"]), report["torch_sees_gpus"]
        if usable is not None and usable < present:
            yield Finding(
                "problem" if wanted else "note",
                "gpus",
                f"{_name(report)}: the driver has {present} GPUs ({report['gpus'][0]}), torch can use {usable}",
                "CUDA 13 needs driver R580 or newer; in a container, NVIDIA's runtime",
            )
        elif present:
            yield Finding("ok", "gpus", f"{_name(report)}: {present} × {report['gpus'][0]}")
    if wanted and not any(report["gpus"] for report in reports):
        yield Finding("problem", "gpus", "none on any node", "scaling.gpus_per_worker=0, or nodes that have some")
    elif not any(report["gpus"] for report in reports):
        yield Finding("ok", "gpus", "none: processors and gloo")


def fabric(reports: list[NodeReport]) -> Iterator[Finding]:
    """InfiniBand that the machine has and NCCL cannot use: it falls back to TCP without a word."""
    for report in reports:
        if report["infiniband"] and report["missing_verbs"]:
            yield Finding(
                "problem" if report["gpus"] else "note",
                "network",
                f"{_name(report)}: has {', '.join(report['infiniband'])}, but {report['missing_verbs']}; NCCL would "
                "use TCP",
                "install libibverbs1 and ibverbs-providers, as cluster/Dockerfile does; give the container "
                "/dev/infiniband and IPC_LOCK",
            )
        elif report["infiniband"]:
            yield Finding("ok", "network", f"{_name(report)}: {', '.join(report['infiniband'])}, usable by NCCL")


def transports(found: list[str], reports: list[NodeReport]) -> Iterator[Finding]:
    """A doubt where NCCL took TCP between nodes that have InfiniBand. `found`: of `benchmark.transports_in`."""
    if any("Socket" in each for each in found) and any(report["infiniband"] for report in reports):
        yield Finding(
            "note",
            "collectives",
            f"NCCL took {' and '.join(found)} although there is InfiniBand",
            "see the lines on the network; unset NCCL_IB_DISABLE, name the devices in NCCL_IB_HCA, bring ports up",
        )


def open_files(reports: list[NodeReport], num_workers: int) -> Iterator[Finding]:
    """The limit of open files, against what a worker needs that is connected to each of the others."""
    needed = _FILES + _FILES_PER_WORKER * num_workers
    least = min(report["open_files"] for report in reports)
    for report in reports:
        if report["open_files"] < needed:
            yield Finding(
                "problem",
                "open files",
                f"{_name(report)}: a process may open {report['open_files']}, and one of "
                f"{counted(num_workers, 'worker')} needs about {needed}",
                "start Ray after `ulimit -n 65536`; docker run --ulimit nofile=65536; systemd: LimitNOFILE=65536",
            )
    if least >= needed:
        yield Finding("ok", "open files", f"{least} or more for each process; about {needed} are needed")


def memory(reports: list[NodeReport], config: Config | None) -> Iterator[Finding]:
    """Shared memory for the batches of the loader's processes, and disk space for Ray's session."""
    needed = _loader_bytes(config) if config is not None else 64 * 2**20
    tight = [report for report in reports if report["shm_free_bytes"] < needed]
    for report in tight:
        yield Finding(
            "problem",
            "memory",
            f"{_name(report)}: {size(report['shm_free_bytes'])} of shared memory, and the loaders of one worker need "
            f"{size(needed)}",
            "docker run --shm-size=16g; in Kubernetes an emptyDir with medium: Memory at /dev/shm",
        )
    if not tight:
        least = min(report["shm_free_bytes"] for report in reports)
        yield Finding("ok", "memory", f"{size(least)} of shared memory or more on every node")
    for report in reports:
        if report["tmp_free_bytes"] < _FULL_BYTES:
            text = f"{_name(report)}: {size(report['tmp_free_bytes'])} left for Ray's session"
            yield Finding("problem", "disk", text, "free some, or start Ray with --temp-dir on another disk")


def _tested_versions() -> dict[str, str]:
    """Package → version in constraints.txt, beside the package in a checkout, in it when installed."""
    package = Path(mgcda_dist.__file__).parent
    for path in (package.parent / "constraints.txt", package / "constraints.txt"):
        if path.is_file():
            return dict(re.findall(r"^([\w.-]+)==(\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE))
    return {}


def _loader_bytes(config: Config) -> int:
    """Size of the batches that the loader processes of one worker prefetch, one byte per value.

    Image and label, and for a teacher at most every image once more.
    """
    scaling, data = config.scaling, config.data
    workers = 1 if scaling.workers == "auto" else scaling.workers
    images = max(1, data.global_batch // (workers * config.engine.accumulation))
    channels = 7 if config.teacher.is_asked else 4
    return images * channels * data.crop_px[0] * data.crop_px[1] * data.loader_workers * data.prefetch_steps


def _name(report: NodeReport) -> str:
    return f"{report['address']} ({report['host']})"

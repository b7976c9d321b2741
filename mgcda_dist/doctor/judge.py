"""What the facts that nodes told about themselves mean: findings without a further question."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mgcda_dist
from mgcda_dist.config.schema import Config
from mgcda_dist.doctor.findings import Finding, count, size

__all__ = ["gpus", "memory", "ray", "versions"]

_FULL_BYTES = 2**30


def ray(facts: list[dict[str, Any]], address: str | None) -> Iterator[Finding]:
    """Which nodes there are, and whether anybody may run code on them. `address`: None for this machine alone."""
    names = ", ".join(_name(fact) for fact in facts)
    if address is None:
        yield Finding("ok", "ray", f"no RAY_ADDRESS: this machine, {names}")
        return
    # Ray asks for no token where the variable is not set and no token lies in the user's home.
    if any(fact["authentication"] != "token" for fact in facts):
        yield Finding(
            "note",
            "ray",
            f"{count(len(facts), 'node')}, WITHOUT authentication: {names}",
            "whoever reaches the head can run code: start Ray with RAY_AUTH_MODE=token and a token on every node",
        )
    else:
        yield Finding("ok", "ray", f"{count(len(facts), 'node')}, behind a token: {names}")


def versions(facts: list[dict[str, Any]]) -> Iterator[Finding]:
    """Packages, Python and our code: the same on every node as on the first, which is ours, and as tested."""
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


def gpus(facts: list[dict[str, Any]], config: Config | None) -> Iterator[Finding]:
    """What the driver shows, against what torch can use and the configuration wants."""
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


def memory(facts: list[dict[str, Any]], config: Config | None) -> Iterator[Finding]:
    """Shared memory, through which the loader's processes hand their batches on; and disk for Ray's session."""
    needed = _loader_bytes(config) if config is not None else 64 * 2**20
    tight = [fact for fact in facts if fact["shm_free_bytes"] < needed]
    for fact in tight:
        yield Finding(
            "problem",
            "memory",
            f"{_name(fact)}: {size(fact['shm_free_bytes'])} of shared memory, and the loaders of one worker want "
            f"{size(needed)}",
            "docker run --shm-size=16g; in Kubernetes an emptyDir with medium: Memory at /dev/shm",
        )
    if not tight:
        least = min(fact["shm_free_bytes"] for fact in facts)
        yield Finding("ok", "memory", f"{size(least)} of shared memory or more on every node")
    for fact in facts:
        if fact["tmp_free_bytes"] < _FULL_BYTES:
            text = f"{_name(fact)}: {size(fact['tmp_free_bytes'])} left for Ray's session"
            yield Finding("problem", "disk", text, "free some, or start Ray with --temp-dir on another disk")


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

"""Runs that are disturbed from outside: waiting for what a run folder says, and comparing what two runs left."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mgcda_dist.tracking.jsonl import read_lines

__all__ = ["cost", "events", "groups", "histories", "last_step", "left_behind", "wait_for", "wait_for_lines"]


def events(run: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The events of a run so far, of one kind or of all."""
    file = run / "events.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    found = [json.loads(line) for line in lines]
    return [event for event in found if kind in (None, event["kind"])]


def groups(run: Path) -> list[list[dict[str, Any]]]:
    """The workers of every attempt so far, by rank: host, process, …"""
    return [event["workers"] for event in events(run) if "workers" in event]


def last_step(run: Path) -> int:
    """The last step that was logged; -1: none."""
    return max((step for step, _, _ in read_lines(run / "metrics.jsonl")), default=-1)


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 240.0) -> None:
    """Wait until `condition()`; fail with `what` after a time that is long even on a busy machine."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.1)


def wait_for_lines(file: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Wait until `file` has so many lines; fail with what `process` said if it ends before."""

    def there() -> bool:
        if file.is_file() and file.read_text().count("\n") >= count:
            return True
        assert process.poll() is None, process.communicate()
        return False

    wait_for(there, f"{count} lines of {file}")


def histories(run: Path) -> list[tuple[int, dict[str, float]]]:
    """Every logged step with all that does not depend on the clock."""
    return [
        (step, {k: v for k, v in m.items() if not k.startswith("time/")})
        for step, _, m in read_lines(run / "metrics.jsonl")
    ]


def left_behind(run: Path, step: int) -> dict[str, bytes]:
    """The files of a checkpoint, without those that name the run itself."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    files = {str(f.relative_to(folder)): f for f in sorted(folder.rglob("*")) if f.is_file()}
    return {name: f.read_bytes() for name, f in files.items() if name not in ("checkpoint.json", "model/model.json")}


def cost(run: Path, kind: str, begun: float) -> dict[str, Any]:
    """What a fault at a moment has cost, in the form of `mgcda chaos`: waits until the run has made a step again."""

    def new_attempt() -> dict[str, Any] | None:
        return next((e for e in events(run) if "workers" in e and e["time"] > begun), None)

    def lines(after: float) -> list[tuple[int, float]]:
        return [(step, at) for step, at, _ in read_lines(run / "metrics.jsonl") if at > after]

    wait_for(
        lambda: any(e["kind"] in ("hang", "restart", "preemption") for e in events(run) if e["time"] > begun), kind
    )
    before = last_step(run)
    wait_for(lambda: new_attempt() is not None, f"a new attempt after {kind}")
    started = (new_attempt() or {})["time"]
    wait_for(lambda: bool(lines(started)), f"a step after {kind}")
    step, at = lines(started)[0]
    notices = [e["time"] for e in events(run) if e["kind"] in ("hang", "restart", "preemption") and e["time"] > begun]
    return {
        "kind": kind,
        "detected_s": notices[0] - begun,
        "recovered_s": at - begun,
        "resumed_at": step,
        "repeated": max(0, before + 1 - step),
    }

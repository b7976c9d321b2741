"""Cost of faults: the tables of docs/reliability.md, from what was measured, and a model of larger clusters.

    mgcda chaos CONFIG --seed 1                                   # leaves runs/NAME-chaos-1/chaos.json
    MGCDA_RECORD=FOLDER make test-cluster                         # as root: leaves FOLDER/node_faults.json
    python benchmarks/reliability.py runs/NAME-chaos-1/chaos.json FOLDER/node_faults.json

The model: faults come at a rate that is proportional to the number of GPUs W, λ·W. A checkpoint every τ seconds that
blocks for C, and a recovery R, lose the share C/τ + λ·W·(τ/2 + R) of all time; it is smallest at τ = √(2·C/(λ·W))
(Young, CACM 1974).
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent.parent / "docs" / "reliability.md"
HOUR_S = 3600.0
# Llama 3 (arXiv 2407.21783, section 3.3.4): 419 unexpected interruptions in 54 days on 16 384 GPUs.
HOURS_PER_FAULT_OF_A_GPU = 54 * 24 * 16384 / 419
# Ours, for comparison: every node of eight spot GPUs is taken away once a day.
HOURS_PER_FAULT_OF_A_SPOT_GPU = 24 * 8.0
# A fixed number of seconds between checkpoints, as a fixed number of steps gives it: 200 steps of 0.5 s.
FIXED_INTERVAL_S = 100.0


def lost_share(interval_s: float, blocked_s: float, recovery_s: float, faults_per_s: float) -> float:
    """Share of the time that is spent on checkpoints, on recovery, and on steps that are done again."""
    return blocked_s / interval_s + faults_per_s * (interval_s / 2 + recovery_s)


def best_interval_s(blocked_s: float, faults_per_s: float) -> float:
    """Seconds between checkpoints that lose the least (Young)."""
    return math.sqrt(2 * blocked_s / faults_per_s)


def fault_table(results: Iterable[dict[str, Any]]) -> list[str]:
    """One line per kind of fault: how often, survived, median and range of times and steps, whether ends are equal."""
    by_kind: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        for fault in result["faults"]:
            by_kind[fault["kind"]].append({"equal": result.get("equal")} | fault)
    lines = [
        "| fault | times | survived | detected, s | back at work, s | steps done again | end equal |",
        "|---|---:|---|---:|---:|---:|---|",
    ]
    for kind, faults in by_kind.items():
        survived = all(fault["recovered_s"] is not None for fault in faults)
        times = [_range([f[key] for f in faults if f[key] is not None]) for key in ("detected_s", "recovered_s")]
        steps = _range([float(f["repeated"]) for f in faults if f["repeated"] is not None], digits=0)
        equal = " / ".join(sorted({str(fault["equal"]) for fault in faults}))
        lines.append(
            f"| {kind} | {len(faults)} | {'yes' if survived else 'NO'} | {' | '.join(times)} | {steps} | {equal} |"
        )
    return lines


def model_table(blocked_s: float, recovery_s: float) -> list[str]:
    """Lost time by number of GPUs."""
    lines = [
        "| GPUs | faults | one every | lost, checkpoint every 100 s | best interval | lost then |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    for name, hours in (("as Llama 3", HOURS_PER_FAULT_OF_A_GPU), ("spot nodes", HOURS_PER_FAULT_OF_A_SPOT_GPU)):
        for num_gpus in (8, 32, 128, 512, 1024):
            rate = num_gpus / (hours * HOUR_S)
            best = best_interval_s(blocked_s, rate)
            fixed, least = (lost_share(t, blocked_s, recovery_s, rate) for t in (FIXED_INTERVAL_S, best))
            lines.append(
                f"| {num_gpus} | {name} | {_duration(1 / rate)} | {fixed:.2%} | {_duration(best)} | {least:.2%} |"
            )
    return lines


def _range(values: list[float], digits: int = 1) -> str:
    if not values:
        return "–"
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86400.0), ("h", HOUR_S), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _read(path: Path) -> dict[str, Any]:
    """A result of `mgcda chaos`, or the record of the tests on two nodes."""
    result = json.loads(path.read_text(encoding="utf-8"))
    if "differences" in result:
        result["equal"] = "bytes" if not result["differences"] else "NO"
    return result


def main() -> None:
    """Write the tables into the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("results", nargs="+", type=Path, help="chaos.json, node_faults.json")
    paths = parser.parse_args().results
    results = [_read(path) for path in paths]
    recoveries = [f["recovered_s"] for r in results for f in r["faults"] if f["recovered_s"] is not None]
    runs = [result for result in results if "step_s" in result]
    blocked_s = statistics.median(result["checkpoint_s"] for result in runs)
    step_s = statistics.median(result["step_s"] for result in runs)
    recovery_s = statistics.median(recoveries)
    lines = [
        *fault_table(results),
        "",
        f"A checkpoint makes the step after which it is written {1000 * blocked_s:.0f} ms longer: "
        f"{blocked_s / step_s:.2f} of a step of {1000 * step_s:.0f} ms.",
        "",
        f"The model, with C = {blocked_s:.2f} s and R = {recovery_s:.0f} s (the medians above):",
        "",
        *model_table(blocked_s, recovery_s),
    ]
    tables = "\n".join(lines)
    text = PAGE.read_text(encoding="utf-8")
    text, num_places = re.subn(
        r"(<!-- tables -->\n).*(<!-- end -->)", lambda m: f"{m[1]}\n{tables}\n\n{m[2]}", text, flags=re.DOTALL
    )
    if num_places != 1:
        raise SystemExit(f"{PAGE}: {num_places} places for tables, where one is needed")
    PAGE.write_text(text, encoding="utf-8")
    print(tables)


if __name__ == "__main__":
    main()

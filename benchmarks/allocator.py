"""Cost on processors when glibc gives the memory of each activation back to the system.

    python benchmarks/allocator.py [--rounds 3] [--side-by-side 2]

Forward and backward passes of the small benchmark's network, in a thread as Ray Train has it, in processes with and
without the settings that `mgcda train` gives a one-node Ray; in turns. Prints a table: seconds and system seconds per
step (medians over rounds and processes), page faults per step, peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import threading
import time

import timm
import torch

from mgcda_dist.cluster.connect import KEEP_FREED_MEMORY
from mgcda_dist.tables import Column, Table, markdown

BATCH, STEPS = (8, 3, 256, 256), 8


def main() -> None:
    """Measure in turns, or, as one of its processes, once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side-by-side", type=int, default=2, help="processes at a time, of one thread each")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        thread = threading.Thread(target=_steps)
        thread.start()
        thread.join()
        return
    found: dict[str, list[dict[str, float]]] = {"glibc's default": [], "freed memory is kept": []}
    for _ in range(arguments.rounds):
        for name, settings in zip(found, ({}, KEEP_FREED_MEMORY), strict=True):
            found[name] += _processes(arguments.side_by_side, settings)
    rows: list[list[str]] = []
    seconds: list[float] = []
    for name, ones in found.items():
        s, system_s, faults, peak_gb = (statistics.median(one[key] for one in ones) for key in ones[0])
        rows.append([name, f"{s:.2f}", f"{system_s:.2f}", f"{faults:,.0f}", f"{peak_gb:.1f}"])
        seconds.append(s)
    titles = ("s/step", "system time of it", "page faults/step", "peak, GB")
    print(markdown(Table([Column("memory", align="left"), *map(Column, titles)], rows)))
    before, after = seconds
    print(f"\nRatio {before / after:.2f}, {arguments.side_by_side} side by side, {arguments.rounds} rounds in turns.")


def _processes(count: int, settings: dict[str, str]) -> list[dict[str, float]]:
    environment = {name: value for name, value in os.environ.items() if name not in KEEP_FREED_MEMORY} | settings
    command = [sys.executable, __file__, "--one"]
    started = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    return [json.loads(process.communicate()[0]) for process in started]


def _steps() -> None:
    torch.set_num_threads(1)
    network = timm.create_model("tf_efficientnet_lite0", features_only=True).train()
    images = torch.randn(BATCH)

    def step() -> None:
        network.zero_grad()
        torch.stack([feature.mean() for feature in network(images)]).sum().backward()

    step()  # fills what is kept
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(STEPS):
        step()
    after = resource.getrusage(resource.RUSAGE_SELF)
    numbers = {
        "s": (time.perf_counter() - start) / STEPS,
        "system_s": (after.ru_stime - before.ru_stime) / STEPS,
        "faults": (after.ru_minflt - before.ru_minflt) / STEPS,
        "peak_gb": after.ru_maxrss / 1e6,
    }
    print(json.dumps(numbers))


if __name__ == "__main__":
    main()

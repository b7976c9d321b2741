"""Shards that a node reads in an epoch, with and without groups, against its share; a plan alone, without data.

    python benchmarks/locality.py > result.md

Nodes of 8 GPUs with 4 images each; the shards hold 0.5 to 1.5 times as many samples as they say. *Amplification* is
what all nodes fetch from remote storage in an epoch, if each keeps what it fetches, as a multiple of the data.
"""

from __future__ import annotations

import time

import numpy as np

from mgcda_dist.data.plan import Plan, StreamPlan, slots_of

GPUS, IMAGES = 8, 4


def main() -> None:
    """Print a table in Markdown."""
    print("| GPUs | shards × samples | micro-batches | groups | shards of a node | its share | amplification |", end="")
    print(" shards in a step of a node | plan of a rank's step, µs |\n|" + "---:|" * 9)
    for gpus, shards, samples in ((64, 1000, 500), (1024, 1000, 2000), (1024, 10_000, 1000)):
        nodes = gpus // GPUS
        for accumulation, groups in ((1, 1), (1, nodes // 4), (1, nodes), (2, nodes), (2, 2 * nodes)):
            print(row(gpus, shards, samples, accumulation, groups), flush=True)


def row(gpus: int, shards: int, samples: int, accumulation: int, groups: int) -> str:
    """One node's epoch."""
    sizes = np.random.default_rng(0).integers(samples // 2, samples * 3 // 2, shards)
    first = np.cumsum(sizes) - sizes
    batch, nodes, node = gpus * IMAGES, gpus // GPUS, gpus // GPUS // 2
    plan = Plan([StreamPlan("a", sizes, batch)], 0, 8, groups)
    steps, seen, of_step = int(sizes.sum()) // batch, set[int](), list[int]()
    slots = [slots_of(node, nodes, accumulation, micro, batch) for micro in range(accumulation)]
    begin = time.process_time()
    for t in range(steps):
        found = [ref.sample for part in slots for ref in plan.slots(t, part)]
        touched = set(np.searchsorted(first, found, side="right").tolist())
        of_step.append(len(touched))
        seen |= touched
    took_us = (time.process_time() - begin) / steps / GPUS * 1e6
    cells = [gpus, f"{shards} × {samples}", accumulation, groups, f"{len(seen)} ({len(seen) / shards:.1%})"]
    cells += [f"{1 / nodes:.1%}", f"{len(seen) * nodes / shards:.2f}", f"{np.mean(of_step):.1f}", f"{took_us:.0f}"]
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()

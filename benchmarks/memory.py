"""Cost of the contrastive memory per rank, replicated and sharded: bytes held, CPU time of a step, bytes sent.

    python benchmarks/memory.py [--rows 65536 262144] [--ranks 1 2 4]

One global batch (12 images, up to 1 056 sampled pixels) against Q remembered rows of 128 numbers, all in use, on W
processes over gloo. CPU time (of a process, one thread) and not wall time: four ranks share two cores here. The two
layouts take turns, and medians are compared, so a noisy machine moves both alike.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import time
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F

from mgcda_dist.method.batch import Batch
from mgcda_dist.method.cacl import CACL, Budget, PixelMetadata, Selection
from mgcda_dist.method.cacl.exchange import start_exchange
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.method.randomness import torch_generator
from mgcda_dist.method.reduce import StepCounts
from mgcda_dist.tables import Cell, Column, Table, markdown

CLASSES, DOMAINS, IMAGES, DIM, ROUNDS = 7, 3, 12, 128, 3
LAYOUTS = ("replicated", "sharded")


@dataclass
class Cost:
    """Of one rank: MB of embeddings and of what is known of the rows, CPU s of a step, MB handed to collectives."""

    embeddings_mb: float
    known_mb: float
    cpu_s: float
    sent_mb: float
    loss: float


def fill(cacl: CACL, rows: int) -> None:
    """Random unit rows in every ring."""
    per_ring = rows // (2 * DOMAINS)
    random = torch_generator("benchmark", rows)
    for domain in range(DOMAINS):
        for kind in (0, CLASSES):
            z = F.normalize(torch.randn(per_ring, DIM, generator=random), dim=1)
            known = (torch.full((per_ring,), kind), torch.full((per_ring,), domain))
            cacl.queue.push(PixelMetadata(*known, torch.rand(per_ring, generator=random), torch.arange(per_ring)), z, 0)


def step(cacl: CACL, world: Collectives) -> float:
    """Gather, loss and gradient of one step; the loss over all ranks."""
    images = IMAGES // world.size
    random = torch_generator("sample", 0)
    index = torch.randint(-1, 100, (IMAGES, cacl.budget.rows_per_image), generator=random)
    z = F.normalize(torch.randn(IMAGES, cacl.budget.rows_per_image, DIM, generator=random), dim=2)
    own = slice(world.rank * images, (world.rank + 1) * images)
    z = z[own].flatten(0, 1).requires_grad_()
    slot = torch.arange(IMAGES)[own]
    batch = Batch(torch.empty(images, 0), torch.empty(images, 0), slot % DOMAINS, slot, step=1)
    pending = start_exchange(z, index[own], torch.rand(images, 100, generator=random), batch, world)
    loss = cacl(pending, StepCounts({}, 1, world))[0].local_loss
    loss.backward()
    return world.start_sum(loss / world.size, "loss").wait().item()


def measure(rank: int, size: int, port: int, rows: int, results: mp.SimpleQueue[tuple[str, Cost]]) -> None:
    """One rank."""
    torch.set_num_threads(1)
    if size > 1:
        dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    worlds = {layout: Collectives() for layout in LAYOUTS}
    cacls = {
        layout: CACL(
            16, DOMAINS, Budget(CLASSES, 16, 4, 0.5, True), Selection(32, rows, 0.5, True), projection_dim=DIM,
            queue_rows=rows // (2 * DOMAINS), queue_shard=(rank, size) if layout == "sharded" else None,
        )
        for layout in LAYOUTS
    }  # fmt: skip
    times: dict[str, list[float]] = {layout: [] for layout in LAYOUTS}
    losses = {}
    for cacl in cacls.values():
        fill(cacl, rows)
    for _ in range(ROUNDS):
        for layout in LAYOUTS:
            before = time.process_time()
            losses[layout] = step(cacls[layout], worlds[layout])
            times[layout].append(time.process_time() - before)
    if rank == 0:
        for layout in LAYOUTS:
            queue, sent = cacls[layout].queue, sum(worlds[layout].stats.num_bytes.values()) / ROUNDS
            size_mb = queue.z.numel() * queue.z.element_size() / 1e6
            known = sum(b.numel() * b.element_size() for b in queue.buffers()) / 1e6 - size_mb
            results.put((layout, Cost(size_mb, known, statistics.median(times[layout]), sent / 1e6, losses[layout])))
    if size > 1:
        dist.destroy_process_group()


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[65_536, 262_144])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    arguments = parser.parse_args()
    table: list[list[Cell]] = []
    for rows in arguments.rows:
        alone: dict[str, float] = {}
        for size in arguments.ranks:
            with socket.socket() as found:
                found.bind(("127.0.0.1", 0))
                port = found.getsockname()[1]
            results: mp.SimpleQueue[tuple[str, Cost]] = mp.get_context("spawn").SimpleQueue()
            spawn(measure, (size, port, rows, results), size)
            costs = dict(results.get() for _ in LAYOUTS)
            for layout in LAYOUTS:
                cost = costs[layout]
                alone.setdefault(layout, cost.cpu_s)
                table.append([
                    rows, size, layout, f"{cost.embeddings_mb:.1f}", f"{cost.known_mb:.1f}", f"{cost.cpu_s:.2f}",
                    f"{cost.cpu_s / alone[layout]:.2f}", f"{cost.sent_mb:.2f}", f"{cost.loss:.6f}",
                ])  # fmt: skip
    titles = ("embeddings MB", "known MB", "CPU s", "of W = 1", "to collectives MB", "loss")
    columns = [Column("rows × 128"), Column("W"), Column("layout", align="left"), *map(Column, titles)]
    print(markdown(Table(columns, table)))


if __name__ == "__main__":
    main()

"""Payloads of a training step and their duration from 2 to 1 024 ranks: the α–β model of docs/scale.md.

    python benchmarks/scale.py                # write the tables of docs/scale.md
    python benchmarks/scale.py --measure      # compare the model with gloo on this machine, W = 2 and 4

A message of n bytes costs α (latency, s) + n·β (s per byte). Ring collectives over W ranks (Thakur, Rabenseifner and
Gropp, 2005): all-gather and reduce-scatter of n bytes in total (W-1)·α + n·(W-1)/W·β, all-reduce twice that. NCCL sends
small sums through trees: 2·⌈log₂W⌉·α. It cuts a large message into as many rings as a node has network cards, and every
ring enters and leaves a node once: between nodes β is that of all cards of a node together, or of NVLink if that is
slower.
"""

from __future__ import annotations

import argparse
import math
import re
import socket
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.multiprocessing.spawn import spawn

FLOAT, DOUBLE, HALF = 4, 8, 2
PAGE = Path(__file__).parent.parent / "docs" / "scale.md"


@dataclass(frozen=True)
class Network:
    """Latency and bandwidth, within a node of eight GPUs and between nodes.

    Attributes:
        bytes_per_s_in: per GPU and direction.
        bytes_per_s_card, num_cards: per network card and direction, and cards of a node.
    """

    name: str
    alpha_in_s: float
    alpha_out_s: float
    bytes_per_s_in: float
    bytes_per_s_card: float
    num_cards: int

    def link(self, num_ranks: int) -> tuple[float, float]:
        """(α, β) of a ring over `num_ranks`."""
        if num_ranks <= 8:
            return self.alpha_in_s, 1 / self.bytes_per_s_in
        return self.alpha_out_s, 1 / min(self.bytes_per_s_in, self.num_cards * self.bytes_per_s_card)


# H100 data sheet: NVLink 900 GB/s in both directions together; a card of NDR InfiniBand, 400 Gb/s, for each GPU; one of
# 100 Gb/s Ethernet for a node of eight. Latencies per hop: of the order of NCCL's tuning tables (src/graph/tuning.cc)
# for NVLink and the network; 20 µs for TCP over Ethernet is ours.
INFINIBAND = Network("NVLink + InfiniBand", 1e-6, 5e-6, 450e9, 50e9, 8)
ETHERNET = Network("NVLink + Ethernet", 1e-6, 20e-6, 450e9, 100e9 / 8, 1)


def gather_s(num_bytes: float, num_ranks: int, alpha: float, beta: float) -> float:
    """All-gather, or reduce-scatter, of `num_bytes` in total."""
    return (num_ranks - 1) * alpha + num_bytes * (num_ranks - 1) / num_ranks * beta


def sum_s(num_bytes: float, num_ranks: int, alpha: float, beta: float) -> float:
    """All-reduce: a tree for what is small, a ring for what is large, whichever is faster."""
    tree = 2 * math.ceil(math.log2(num_ranks)) * alpha + 2 * num_bytes * beta
    return min(2 * gather_s(num_bytes, num_ranks, alpha, beta), tree)


@dataclass(frozen=True)
class Method:
    """Parameters of the payloads of MDAT and CACL; defaults as in the configuration, 19 classes."""

    images_per_rank: int = 4
    num_classes: int = 19
    num_domains: int = 3
    num_stages: int = 2
    anomaly_pixels: int = 32
    inlier_pixels: int = 8
    projection_dim: int = 128
    image_aware: bool = True
    sharded: bool = False

    @property
    def rows_per_image(self) -> int:
        """Rows reserved per image."""
        return (self.anomaly_pixels + self.num_classes * self.inlier_pixels) * (2 if self.image_aware else 1)

    def counts_bytes(self, num_ranks: int) -> int:
        """First small sum: pixels per loss group, four counts of cells per stage and domain, difficulties."""
        return DOUBLE * (3 + 4 * self.num_stages * self.num_domains + num_ranks * 4 * self.images_per_rank)

    def values_bytes(self) -> int:
        """Second small sum: terms, anchors, positives, the trainer's numbers; three hits and ε per stage and domain."""
        return DOUBLE * (15 + 4 * self.num_stages * self.num_domains)

    def rows_bytes(self, num_ranks: int) -> int:
        """The gather of CACL, over all ranks: embedding, filled, domain, difficulty."""
        return num_ranks * self.images_per_rank * self.rows_per_image * (self.projection_dim + 3) * FLOAT

    def memory_bytes(self, num_ranks: int) -> int:
        """The sum over ranks of the sharded memory: one number per reserved row."""
        return self.sharded * num_ranks * self.images_per_rank * self.rows_per_image * FLOAT


def terms_s(method: Method, parameters: int, num_ranks: int, network: Network) -> dict[str, float]:
    """Seconds per step and component, as if nothing overlapped; ZeRO 1, gradients and parameters in bf16."""
    alpha, beta = network.link(num_ranks)
    gradient = parameters * HALF
    return {
        # Counted in tests/training/test_engine.py: an all-reduce, and a gather of what each rank has updated.
        "gradients": sum_s(gradient, num_ranks, alpha, beta) + gather_s(gradient, num_ranks, alpha, beta),
        "CACL rows": 2 * gather_s(method.rows_bytes(num_ranks), num_ranks, alpha, beta),
        "memory": 2 * sum_s(method.memory_bytes(num_ranks), num_ranks, alpha, beta) if method.sharded else 0.0,
        "two small sums": sum_s(method.counts_bytes(num_ranks), num_ranks, alpha, beta)
        + sum_s(method.values_bytes(), num_ranks, alpha, beta),
    }


def parameters_of(backbone: str) -> int:
    """Parameters of a timm network, counted without memory for them, and three millions for decoder and heads."""
    import timm

    with torch.device("meta"):
        network = timm.create_model(backbone, num_classes=0)
    return sum(p.numel() for p in network.parameters()) + 3_000_000


def tables() -> str:
    """The tables of docs/scale.md."""
    text = ""
    for title, backbone in (("ResNet-101", "resnet101"), ("Swin-L", "swin_large_patch4_window12_384")):
        parameters = parameters_of(backbone)
        text += f"\n{title} class, {parameters / 1e6:.0f} M parameters, bf16 gradients, ZeRO 1; ms per step:\n\n"
        text += "| GPUs | network | gradients | CACL rows | CACL rows, thrifty | two small sums | sharded memory |\n"
        text += "|---:|---|---:|---:|---:|---:|---:|\n"
        thrifty = Method(anomaly_pixels=8, inlier_pixels=1, projection_dim=64, sharded=True)
        for network in (INFINIBAND, ETHERNET):
            for num_ranks in (8, 32, 128, 512, 1024):
                default = terms_s(Method(sharded=True), parameters, num_ranks, network)
                small = terms_s(thrifty, parameters, num_ranks, network)
                cells = [default["gradients"], default["CACL rows"], small["CACL rows"], default["two small sums"],
                         default["memory"]]  # fmt: skip
                numbers = " | ".join(f"{1e3 * cell:.3g}" for cell in cells)
                text += f"| {num_ranks} | {network.name} | {numbers} |\n"
    return text


# ---------------------------------------------------------------------------------------------- gloo, on this machine


def _timed(call: Callable[[], object]) -> float:
    """Lower quartile, after a warm-up: others use this machine too."""
    times: list[float] = []
    for _ in range(105):
        dist.barrier()
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.quantiles(times[5:], n=4)[0]


def _measure(rank: int, size: int, port: int, results: mp.SimpleQueue[list[tuple[str, float, float]]]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)

    def gather(num_bytes: int) -> float:
        mine = torch.zeros(num_bytes // FLOAT // size)
        everywhere = torch.zeros(len(mine) * size)
        return _timed(lambda: dist.all_gather_single(everywhere, mine))

    def reduce_scatter(num_bytes: int) -> float:
        everywhere = torch.zeros(num_bytes // FLOAT // size * size)
        mine = torch.zeros(len(everywhere) // size)
        return _timed(lambda: dist.reduce_scatter_single(mine, everywhere))

    def add(num_bytes: int) -> float:
        value = torch.zeros(max(num_bytes // FLOAT, 1))
        return _timed(lambda: dist.all_reduce(value))

    # α from a tiny sum, β from the slope between two gathers; other sizes and collectives are predicted.
    alpha = add(1024) / (2 * (size - 1))
    few, many = 2**20, 8 * 2**20
    beta = (gather(many) - gather(few)) / ((many - few) * (size - 1) / size)
    method = Method(images_per_rank=8 // size, num_classes=7)
    counts, rows, gradient = method.counts_bytes(size), method.rows_bytes(size), FLOAT * 4_000_000

    def step() -> None:
        dist.all_reduce(torch.zeros(counts // FLOAT))
        everywhere = torch.zeros(rows // FLOAT // size * size)
        mine = everywhere[: len(everywhere) // size].clone()
        dist.all_gather_single(everywhere, mine)
        dist.all_reduce(torch.zeros(method.values_bytes() // FLOAT))
        dist.reduce_scatter_single(mine, everywhere)
        dist.all_reduce(torch.zeros(gradient // FLOAT))

    predicted = {
        "counts": 2 * gather_s(counts, size, alpha, beta),
        "rows, forward": gather_s(rows, size, alpha, beta),
        "rows, backward": gather_s(rows, size, alpha, beta),
        "gradients of 4 M parameters": 2 * gather_s(gradient, size, alpha, beta),
    }
    predicted["one step, all five"] = sum(predicted.values()) + 2 * gather_s(method.values_bytes(), size, alpha, beta)
    measured = [add(counts), gather(rows), reduce_scatter(rows), add(gradient), _timed(step)]
    found = [("α, µs", alpha * 1e6, math.nan), ("β, ns per KiB", beta * 1024e9, math.nan)]
    found += [(name, m * 1e3, p * 1e3) for m, (name, p) in zip(measured, predicted.items(), strict=True)]
    if rank == 0:
        results.put(found)
    dist.destroy_process_group()


def measure() -> str:
    """Model against gloo, W = 2 and 4, as a table."""
    text = "| W | what | measured ms | predicted ms |\n|---:|---|---:|---:|\n"
    for size in (2, 4):
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        results: mp.SimpleQueue[list[tuple[str, float, float]]] = mp.get_context("spawn").SimpleQueue()
        spawn(_measure, (size, port, results), size)
        for name, measured, predicted in results.get():
            shown = "" if math.isnan(predicted) else f"{predicted:.2f}"
            text += f"| {size} | {name} | {measured:.2f} | {shown} |\n"
    return text


def main() -> None:
    """Write the tables between the markers of the page, or measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true")
    if parser.parse_args().measure:
        print(measure())
        return
    page = PAGE.read_text(encoding="utf-8")
    new = re.sub(
        r"(<!-- tables -->\n).*?(<!-- end -->)", lambda m: m[1] + tables() + "\n" + m[2], page, flags=re.DOTALL
    )
    PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()

"""Time that a step waits for a checkpoint, against the time that writing it takes; two ranks, per ZeRO stage.

    python benchmarks/checkpoint.py [--width 1536] [--turns 5] [--folder FOLDER]

A toy network of 9·width² parameters with AdamW, gloo on processors. Per turn: a step, then the snapshot and `start`,
which is all that a step waits for, then steps until the checkpoint is committed. What is compared lies in one turn; the
page takes medians over the turns. The write is from `start` to the commit: serialised, flushed (fsync), digested,
renamed.
`alone` is a turn in which nothing else runs while it is written.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.multiprocessing.spawn import spawn

from mgcda_dist.method.collectives import Collectives
from mgcda_dist.method.mgcda import MGCDA
from mgcda_dist.models.scores import scorer
from mgcda_dist.models.segmentation_loss import segmentation_loss
from mgcda_dist.tables import Column, Table, markdown
from mgcda_dist.training.checkpoint.snapshot import HostCopy
from mgcda_dist.training.checkpoint.store import CheckpointManifest, CheckpointStore
from mgcda_dist.training.checkpoint.writer import CheckpointWriter
from mgcda_dist.training.deepspeed_start import deepspeed_config
from mgcda_dist.training.engine import DeepSpeedEngine

IMAGES = 4


def _engine(width: int, stage: int, world: Collectives) -> DeepSpeedEngine:
    from examples.single_process import CLASSES, Network

    torch.manual_seed(0)
    model = MGCDA(Network(width), segmentation_loss("energy_hinge", CLASSES), scorer("energy"), collectives=world)
    groups: list[dict[str, Any]] = [{"params": list(model.parameters()), "name": "all", "lr": 1e-4, "base_lr": 1e-4}]
    config = deepspeed_config(
        micro_batch=IMAGES // world.size, accumulation=1, zero_stage=stage, precision="fp32", clip_norm=5.0
    )  # fmt: skip
    return DeepSpeedEngine(model, torch.optim.AdamW(groups), config, torch.device("cpu"))


class _Bench:
    def __init__(self, width: int, stage: int, folder: Path) -> None:
        self.world, self.number = Collectives(), 0
        self.engine = _engine(width, stage, self.world)
        self.store = CheckpointStore(folder / f"zero{stage}", keep=1)
        self.writer = CheckpointWriter(self.store, self.world, print)
        self.earlier: dict[str, HostCopy] = {}

    def step(self) -> float:
        """One training step, in seconds."""
        from examples.single_process import batch

        start = time.perf_counter()
        own = batch(self.number, self.world.rank, self.world.size, images=IMAGES)
        outcome = self.engine.forward(own, 0.5)
        values = self.engine.model.total([outcome], self.writer.local_sums()).scalars()
        self.writer.settle(round(values["written"]), round(values["failed"]))
        self.engine.backward(outcome.loss)
        self.engine.step(1.0)
        self.number += 1
        return time.perf_counter() - start

    def turn(self, *, steps: bool) -> dict[str, float]:
        """A checkpoint, with training steps beside its writing or without."""
        alone = min(self.step() for _ in range(2))
        dist.barrier()
        begin = time.perf_counter()
        self.earlier = self.engine.snapshot(self.earlier)
        self.writer.start(self.earlier, CheckpointManifest(self.number, self.world.size, zero_stage=0))
        blocked, beside = time.perf_counter() - begin, list[float]()
        begin = time.perf_counter()
        saved = self.store.path(self.number)
        while steps:
            beside.append(self.step())
            # The ranks see the new folder at different moments; they leave together.
            if any(self.world.gather_objects(saved.exists(), "seen")):
                break
        self.writer.flush()
        found = {"blocked": blocked, "write": time.perf_counter() - begin, "step": alone}
        return found | ({"beside": statistics.mean(beside)} if beside else {})

    def num_bytes(self) -> int:
        """On disk, of all ranks."""
        newest = self.store.newest()
        assert newest is not None
        return sum(file.stat().st_size for file in newest.rglob("*") if file.is_file())


def _rank(rank: int, folder: str, width: int, turns: int, results: Any) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for stage in (0, 1, 2, 3):
        bench = _Bench(width, stage, Path(folder))
        bench.turn(steps=False)  # the first one allocates
        quiet = [bench.turn(steps=False) for _ in range(turns)]
        busy = [bench.turn(steps=True) for _ in range(turns)]
        if rank == 0:
            results.put((stage, bench.num_bytes(), quiet, busy))
        dist.barrier()
    dist.destroy_process_group()


def _median(turns: list[dict[str, float]], above: str, below: str) -> float:
    return statistics.median(turn[above] / turn[below] for turn in turns if below in turn and above in turn)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to write; default: the folder for temporary files"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        results = mp.get_context("spawn").SimpleQueue()
        spawn(_rank, (folder, options.width, options.turns, results), nprocs=2)
        rows: list[list[str]] = []
        while not results.empty():
            stage, num_bytes, quiet, busy = results.get()
            cells = [_median(quiet, "blocked", "write"), _median(busy, "blocked", "write")]
            shares = [f"{100 * cell:.1f} %" for cell in cells]
            factors = [f"{_median(busy, 'blocked', 'step'):.2f}", f"{_median(busy, 'beside', 'step'):.2f}"]
            rows.append([str(stage), f"{num_bytes / 1e6:.0f}", *shares, *factors])
    titles = ("ZeRO", "MB on disk", "blocked / write, alone", "… beside steps", "blocked / step", "step beside / step")
    print(markdown(Table([*map(Column, titles)], rows)))


if __name__ == "__main__":
    main()

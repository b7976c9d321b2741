"""Checkpoints of two ranks that are written beside the steps: run by every rank."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from mgcda_dist.method.collectives import Collectives
from mgcda_dist.training.checkpoint.store import CheckpointManifest, CheckpointStore, Files
from mgcda_dist.training.checkpoint.writer import CheckpointWriter
from tests.support.watched import wait_for

__all__ = ["Steps", "commit_when_all_are_done"]


class Steps:
    """The part of a training loop that a writer needs: a sum over ranks at every step."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.world, self.said = Collectives(), list[str]()
        self.store = CheckpointStore(folder, keep)
        self.writer = CheckpointWriter(self.store, self.world, self.said.append)

    def step(self) -> None:
        signals = torch.tensor(list(self.writer.local_sums().values()), dtype=torch.float64)
        written, failed = self.world.start_sum(signals, "values").wait().tolist()
        self.writer.settle(round(written), round(failed))

    def start(self, step: int, files: Files) -> None:
        self.writer.start(files, CheckpointManifest(step, self.world.size, zero_stage=0))


def commit_when_all_are_done(folder: str) -> dict[str, object]:
    """Rank 1 is slow with step 1, and cannot write step 2; step 3 is written by both."""
    steps, rank = Steps(Path(folder) / "checkpoints"), Collectives().rank
    gate = Path(folder) / "gate"

    def slow(path: Path) -> None:
        if rank == 1:
            wait_for(gate.exists, "the gate")
        path.write_text("slow")

    def broken(path: Path) -> None:
        if rank == 1:
            raise OSError(5, "Input/output error")
        path.write_text("good")

    steps.start(1, {f"rank-{rank}": slow})
    seen: list[list[int]] = []
    for _ in range(20):  # rank 0 has long written its part
        steps.step()
        seen.append(steps.store.steps())
        time.sleep(0.02)
    if rank == 1:
        gate.touch()
    steps.writer.flush()
    after = steps.store.steps()
    steps.start(2, {f"rank-{rank}": broken})
    flushed = [steps.writer.flush()]
    steps.start(3, {f"rank-{rank}": slow})
    flushed.append(steps.writer.flush())
    return {
        "before": seen,
        "after": after,
        "flushed": flushed,
        "steps": steps.store.steps(),
        "left": sorted(path.name for path in steps.store.folder.iterdir()),
        "said": steps.said,
        "last_good": steps.writer.last_good(),
    }

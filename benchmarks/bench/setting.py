"""The setting of the measurements: generated frames, the demo's configuration, a bare training loop, two clocks."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from torch.nn.utils import clip_grad_norm_

from mgcda_dist.method import MGCDA, Batch
from mgcda_dist.models.pointwise import by_onednn

__all__ = ["BASELINE", "BareLoop", "Setting", "Spent", "apart", "in_blocks", "join"]

ROOT = Path(__file__).parents[2]
BASELINE = ("mdat.enabled=false", "cacl.enabled=false")
"""The same network and outlier loss without both alignments."""
_LEAST_TURNS = 2
_TINY = (
    "model.backbone=test_resnet.r160_in1k",
    "model.weights=none",
    "model.decoder_channels=16",
    "data.crop_px=[64,96]",
)


@dataclass(frozen=True)
class Setting:
    """Extent, and the folder that holds everything that is written.

    Attributes:
        tiny: the smallest network and few turns, for a trial of the benchmark itself.
    """

    tiny: bool
    folder: Path

    def turns(self, number: int, seconds: float) -> Iterator[int]:
        """Numbers of the turns of a section: so many, or those that so many seconds have room for; two of a trial."""
        began = time.perf_counter()
        for turn in range(min(number, _LEAST_TURNS) if self.tiny else number):
            if turn >= _LEAST_TURNS and time.perf_counter() - began > seconds:
                return
            yield turn

    @property
    def shards(self) -> Path:
        """Folder of generated shards, as `make demo` has them."""
        return self.folder / "shards"

    def write_shards(self) -> None:
        """Draw the frames."""
        from mgcda_dist.demo_scenes.demo import write_demo_shards

        frames, size = (8, (64, 128)) if self.tiny else (40, (256, 512))
        write_demo_shards(self.shards, frames_per_domain=frames, image_px=size, label_all=False)

    def file(self) -> Path:
        """configs/demo.yaml on the generated shards."""
        text = (ROOT / "configs" / "demo.yaml").read_text(encoding="utf-8").replace("shards/demo", str(self.shards))
        file = self.folder / "demo.yaml"
        if not file.is_file():
            file.write_text(text, encoding="utf-8")
        return file

    def changes(self, name: str, *changes: str) -> list[str]:
        """`key=value` of a run; those of the trial included."""
        return [f"name={name}", f"runs={self.folder / 'runs'}", *(_TINY if self.tiny else ()), *changes]

    def config(self, name: str, *changes: str, images: int = 8) -> Any:
        """A run of the demo.

        Args:
            images: of the global batch, a multiple of 4: three, three and two of eight are of each domain.
        """
        from mgcda_dist.config.load import load_config

        streams = yaml.safe_load(self.file().read_text(encoding="utf-8"))["data"]["streams"]
        shares = {4: (2, 1, 1), 8: (3, 3, 2), 16: (6, 6, 4)}[images]
        per_step = [f"data.streams.{i}.per_step={share}" for i, share in enumerate(shares)]
        assert len(streams) == len(shares)
        return load_config(self.file(), self.changes(name, *per_step, *changes)).config


@dataclass(frozen=True)
class Spent:
    """Moments of three clocks, or the seconds between two: of the wall, this process, and this thread."""

    wall: float
    process: float
    thread: float

    @classmethod
    def now(cls) -> Spent:
        """The present moment."""
        return cls(time.perf_counter(), time.process_time(), time.thread_time())

    def since(self, earlier: Spent) -> Spent:
        """Seconds since an earlier moment."""
        return Spent(self.wall - earlier.wall, self.process - earlier.process, self.thread - earlier.thread)


class BareLoop:
    """The same model and optimizer in the shortest loop that computes the same: no engine, record or loader.

    Args:
        config: of a run with one worker and one micro-batch.
    """

    def __init__(self, config: Any) -> None:
        from mgcda_dist import build

        self._config = config
        self.model: MGCDA = build.mgcda(config).train()
        by_onednn(self.model, torch.device("cpu"))  # as the engine does
        self._optimizer = build.optimizer(config, self.model)
        self._trained: list[nn.Parameter] = [p for p in self.model.parameters() if p.requires_grad]

    def step(self, batch: Batch, progress: float) -> float:
        """One step; its loss."""
        from mgcda_dist.training.schedule import group_factor

        optim = self._config.optim
        factor = partial(group_factor, progress, optim.schedule, optim.warmup)
        for group in self._optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor(group)
        self._optimizer.zero_grad()
        outcome = self.model(batch, progress)
        outcome.loss.backward()
        clip_grad_norm_(self._trained, optim.clip_norm)
        self._optimizer.step()
        totals = self.model.total([outcome])
        self.model.commit([outcome], totals)
        return totals.scalars()["loss/total"]


def join(store: Path, rank: int, size: int) -> None:
    """Make this process a rank of a group, with one thread, as a worker of a run on this machine is.

    Args:
        store: a file that no group has used before.
    """
    import torch.distributed as dist

    torch.set_num_threads(1)
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "NODE_RANK": 0}
    os.environ |= {name: str(number) for name, number in numbers.items()}
    dist.init_process_group("gloo", init_method=store.as_uri(), rank=rank, world_size=size)


def apart(job: Any, *arguments: Any) -> Any:
    """The answer of a function in a process of its own."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        return pool.submit(job, *arguments).result()


def in_blocks(values: Sequence[float], size: int) -> list[float]:
    """Sums of whole blocks of neighbours."""
    return [sum(values[start : start + size]) for start in range(0, len(values) - size + 1, size)]

"""Some steps of the tiny network at one world size, and the rest at another: run by every rank."""

from __future__ import annotations

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from mgcda_dist.method.collectives import Collectives
from mgcda_dist.training.engine import DeepSpeedEngine, deepspeed_config, to_universal
from tests.support.tiny import QueueLayout, part_of, tiny_batch, tiny_mgcda

__all__ = ["CASES", "STEPS", "begin", "convert", "go_on"]

STEPS, HALF, BATCH = 10, 5, 12  # divides by 1, 2, 3 and 4
CASES: list[tuple[str, int, QueueLayout]] = [
    ("fp32", 0, "replicated"),
    ("fp32", 1, "sharded"),
    ("bf16", 2, "replicated"),
    ("fp32", 2, "sharded"),
    ("fp32", 3, "sharded"),
]
"""(precision, ZeRO stage, layout of the memory); always AdamW."""


def begin(folder: str, whole: bool) -> list[list[float]]:
    """The first half of the steps, and a save; or all of them. The losses of each case."""
    return [_run(case, None if whole else _place(folder, case), None, 0, STEPS if whole else HALF) for case in CASES]


def go_on(folder: str) -> list[list[float]]:
    """The second half, at another world size."""
    return [_run(case, None, loadable(folder, case), HALF, STEPS) for case in CASES]


def loadable(folder: str, case: tuple[str, int, QueueLayout]) -> Path:
    """Where what a case saved can be loaded from at another world size."""
    place = _place(folder, case)
    return place if case[1] == 0 else place.with_name(f"{place.name}-universal")


def convert(folder: str) -> None:
    """Make all cases loadable, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda case: to_universal(_place(folder, case), loadable(folder, case)), CASES[1:]))


def _place(folder: str, case: tuple[Any, ...]) -> Path:
    return Path(folder) / "-".join(map(str, case))


def _run(
    case: tuple[str, int, QueueLayout], save: Path | None, load: Path | None, first: int, last: int
) -> list[float]:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    precision, zero_stage, layout = case
    world = Collectives()
    os.environ["LOCAL_RANK"] = str(world.rank)
    model = tiny_mgcda(dtype=torch.float32, queue_layout=layout, seed=0 if load is None else 1)
    groups: list[dict[str, Any]] = [
        {"params": list(model.segmenter.parameters()), "name": "a", "lr": 1e-2, "base_lr": 1e-2, "weight_decay": 0.1},
        {"params": [p for n, p in model.named_parameters() if not n.startswith("segmenter")], "name": "b", "lr": 5e-3,
         "base_lr": 5e-3, "weight_decay": 0.0},
    ]  # fmt: skip
    optimizer = torch.optim.AdamW(groups)
    config = deepspeed_config(
        micro_batch=BATCH // world.size,
        accumulation=1,
        zero_stage=zero_stage,
        precision=precision,  # pyright: ignore[reportArgumentType]
        clip_norm=5.0,
        load_universal=load is not None and zero_stage > 0,
    )
    engine = DeepSpeedEngine(model, optimizer, config, torch.device("cpu"))
    if load is not None:
        assert engine.model.cacl is not None
        engine.model.cacl.seed = 0
        engine.load(load)
    losses: list[float] = []
    for step in range(first, last):
        outcome = engine.forward(part_of(tiny_batch(step, BATCH), world.rank, world.size), step / STEPS)
        totals = engine.model.total([outcome])
        losses.append(totals.scalars()["loss/total"])
        engine.backward(outcome.loss)
        engine.step(1.0)
        engine.model.commit([outcome], totals)
    if save is not None:
        engine.save(save)
    return losses

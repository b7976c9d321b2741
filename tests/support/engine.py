"""The tiny network in a DeepSpeed engine, and the parts of a global batch that a rank trains on."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import AdamW, Optimizer

from mgcda_dist.data.plan import slots_of
from mgcda_dist.method.batch import Batch
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.method.mgcda import MGCDA
from mgcda_dist.training.deepspeed_start import deepspeed_config
from mgcda_dist.training.engine import DeepSpeedEngine
from tests.support.tiny import tiny_batch

__all__ = ["micro_batches", "one_group", "tiny_engine"]


def tiny_engine(
    model: MGCDA,
    optimizer: Optimizer | None = None,
    *,
    batch: int,
    precision: Any = "fp32",
    zero_stage: int = 0,
    accumulation: int = 1,
    bucket_mb: float | None = None,
    load_universal: bool = False,
    export_masters: bool = False,
) -> DeepSpeedEngine:
    """An engine for `batch` images per step over all ranks; `optimizer`: default AdamW with one group."""
    config = deepspeed_config(
        micro_batch=batch // Collectives().size // accumulation,
        accumulation=accumulation,
        zero_stage=zero_stage,
        precision=precision,
        clip_norm=5.0,
        bucket_mb=bucket_mb,
        load_universal=load_universal,
    )
    optimizer = optimizer or AdamW(one_group(model))
    return DeepSpeedEngine(model, optimizer, config, torch.device("cpu"), export_masters=export_masters)


def one_group(model: MGCDA) -> list[dict[str, Any]]:
    """All parameters in one group of an optimizer, as the loop expects it."""
    return [{"params": list(model.parameters()), "name": "all", "lr": 1e-2, "base_lr": 1e-2}]


def micro_batches(step: int, batch: int, accumulation: int = 1) -> list[Batch]:
    """This rank's micro-batches of a global batch of `batch` images; the keys are d/STEP-SLOT."""
    whole, world, found = tiny_batch(step, batch), Collectives(), list[Batch]()
    for micro in range(accumulation):
        slots = slots_of(world.rank, world.size, accumulation, micro, batch)
        own, keys = slice(slots.start, slots.stop), tuple(f"d/{step}-{slot}" for slot in slots)
        found.append(Batch(whole.image[own], whole.label[own], whole.domain[own], whole.slot[own], step, keys))
    return found

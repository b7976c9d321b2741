"""ZeRO 0 to 3 against plain AdamW: the same losses and parameters after two steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from mgcda_dist.laws.findings import Difference, Finding, relative, worst
from mgcda_dist.laws.scenes import IMAGES, cut, scene_batch
from mgcda_dist.laws.subject import Subject, model_of
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.method.mgcda import MGCDA

__all__ = ["STAGES", "compared", "train_plain", "train_sharded"]

STAGES = (0, 1, 2, 3)
TOLERANCE = 1e-4
"""Of losses and of all parameters as one vector, in float32: that of the tests of the engine with AdamW."""
_STEPS, _RATE = 2, 1e-3

Trained = tuple[list[float], dict[str, Tensor]]
"""Losses of the steps, and the parameters after them."""


def train_plain(subject: Subject, size: tuple[int, int]) -> Trained:
    """Train in this process with torch's AdamW."""
    model = model_of(subject, torch.float32)
    optimizer, losses = _optimizer(model), list[float]()
    for step in range(_STEPS):
        outcome = model(scene_batch("all sides", step, size, subject.num_classes), step / _STEPS)
        losses.append(model.total([outcome]).scalars()["loss/total"])
        outcome.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return losses, _copies(model)


def train_sharded(subject: Subject, stage: int, size: tuple[int, int]) -> Trained:
    """Train on the ranks of the default group with DeepSpeed; on every rank."""
    from mgcda_dist.training.deepspeed_start import deepspeed_config
    from mgcda_dist.training.engine import DeepSpeedEngine

    world = Collectives()
    model = model_of(subject, torch.float32, world)
    config = deepspeed_config(
        micro_batch=IMAGES // world.size, accumulation=1, zero_stage=stage, precision="fp32", clip_norm=0.0
    )
    engine, losses = DeepSpeedEngine(model, _optimizer(model), config, torch.device("cpu")), list[float]()
    for step in range(_STEPS):
        batch = cut(scene_batch("all sides", step, size, subject.num_classes), world.rank, world.size)
        outcome = engine.forward(batch, step / _STEPS)
        totals = engine.model.total([outcome])
        losses.append(totals.scalars()["loss/total"])
        engine.backward(outcome.loss)
        engine.step(1.0)
        engine.commit([outcome], totals)
    with engine.whole_parameters():
        parameters = _copies(engine.model)
    dist.barrier()
    return losses, parameters


def compared(trained: Sequence[Mapping[int, Trained]], plain: Trained) -> Finding:
    """Findings of every rank against those of one process."""
    law, title, everything = "zero", "ZeRO 0 to 3 train as plain AdamW", list[Difference]()
    losses, parameters = plain
    whole = torch.cat([x.flatten() for x in parameters.values()])
    for rank, stages in enumerate(trained):
        for stage, (its_losses, its_parameters) in stages.items():
            where = f"ZeRO {stage}, rank {rank} of {len(trained)}"
            for step, (found, expected) in enumerate(zip(its_losses, losses, strict=True)):
                everything.append(Difference(relative(found, expected), f"loss of step {step}, {where}"))
            vector = torch.cat([its_parameters[name].flatten() for name in parameters])
            everything.append(Difference(relative(vector, whole), f"parameters after {_STEPS} steps, {where}"))
    found = worst(everything)
    kept = found.number <= TOLERANCE
    said = f"largest relative difference; {TOLERANCE:g} is rounding in float32"
    return Finding(law, title, "kept" if kept else "broken", found.number, found.where, said)


def _optimizer(model: MGCDA) -> torch.optim.Optimizer:
    trained = [x for x in model.parameters() if x.requires_grad]
    return torch.optim.AdamW([{"params": trained, "name": "all", "lr": _RATE, "base_lr": _RATE}])


def _copies(model: MGCDA) -> dict[str, Tensor]:
    return {name: x.detach().clone() for name, x in model.named_parameters() if x.requires_grad}

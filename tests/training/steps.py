"""Twenty steps of the tiny network through the engine, and a save and a load in the middle: run by every rank."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mgcda_dist.data.plan import slots_of
from mgcda_dist.method.batch import Batch
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.method.mgcda import Outcome
from mgcda_dist.training.engine import DeepSpeedEngine, deepspeed_config
from tests.support.tiny import QueueLayout, tiny_batch, tiny_mgcda

__all__ = ["CASES", "COMBINATIONS", "STEPS", "Case", "train_cases"]

STEPS = 20
_BATCH = 8
Case = tuple[str, int, int, QueueLayout]
"""(optimiser, ZeRO stage, accumulation, layout of the memory); `bf16` is AdamW with bf16 parameters."""
CASES: list[Case] = [
    ("sgd", 0, 1, "replicated"),
    ("adamw", 0, 2, "sharded"),
    ("sgd", 1, 2, "replicated"),
    ("adamw", 1, 1, "sharded"),
    ("sgd", 2, 1, "sharded"),
    ("adamw", 2, 2, "replicated"),
    ("sgd", 3, 2, "sharded"),
    ("adamw", 3, 1, "replicated"),
    ("bf16", 2, 1, "sharded"),
]
"""Every pair of choices is there; seconds, for every run of the suite."""
COMBINATIONS: list[Case] = [
    (kind, stage, accumulation, layout)
    for kind in ("sgd", "adamw")
    for stage in range(4)
    for accumulation in (1, 2)
    for layout in get_args(QueueLayout)
]
"""All of them; minutes."""


class Sent(TorchDispatchMode):
    """Bytes of the largest tensor of every collective, whoever calls it: {name: [bytes, …]}."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes: dict[str, list[int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            sizes = [x.numel() * x.element_size() for x in tree_leaves(args) if isinstance(x, Tensor)]
            self.num_bytes.setdefault(func._opname.strip("_"), []).append(max(sizes, default=0))
        return func(*args, **(kwargs or {}))


def train_cases(folder: str, cases: Sequence[Case] = CASES) -> list[dict[str, Any]]:
    """What this rank saw in each case: losses and the memory; with half-way a new engine that loads a checkpoint."""
    # DeepSpeed's and torch's own deprecations; the suite's filters do not reach spawned processes.
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(Collectives().rank)  # set by Ray Train and by DeepSpeed's own launcher
    return [_train(*case, folder=Path(folder) / "-".join(map(str, case))) for case in cases]


def _engine(kind: str, zero_stage: int, accumulation: int, layout: QueueLayout) -> DeepSpeedEngine:
    model = tiny_mgcda(dtype=torch.float32, queue_layout=layout)
    groups: list[dict[str, Any]] = [{"params": list(model.parameters()), "name": "all", "lr": 1e-2, "base_lr": 1e-2}]
    optimizer = torch.optim.SGD(groups, momentum=0.9) if kind == "sgd" else torch.optim.AdamW(groups)
    config = deepspeed_config(
        micro_batch=_BATCH // Collectives().size // accumulation,
        accumulation=accumulation,
        zero_stage=zero_stage,
        precision="bf16" if kind == "bf16" else "fp32",
        clip_norm=5.0,
    )
    return DeepSpeedEngine(model, optimizer, config, torch.device("cpu"))


def _train(kind: str, zero_stage: int, accumulation: int, layout: QueueLayout, folder: Path) -> dict[str, Any]:
    world = Collectives()
    engine = _engine(kind, zero_stage, accumulation, layout)
    losses: list[float] = []
    anchors: list[list[int]] = []
    sent = Sent()
    for step in range(STEPS):
        if step == STEPS // 2:
            engine.save(folder)
            engine = _engine(kind, zero_stage, accumulation, layout)
            engine.load(folder)
        whole = tiny_batch(step, _BATCH)
        counted = sent if step == STEPS - 1 else nullcontext()
        batches: list[Batch] = []
        for micro in range(accumulation):
            slots = slots_of(world.rank, world.size, accumulation, micro, _BATCH)
            own = slice(slots.start, slots.stop)
            batches.append(Batch(whole.image[own], whole.label[own], whole.domain[own], whole.slot[own], step))
        with counted:
            counts, outcomes = engine.model.count(batches), list[Outcome]()
            for batch in batches:
                outcomes.append(engine.forward(batch, step / STEPS, counts))
                engine.backward(outcomes[-1].loss)
                engine.step(1.0)
            totals = engine.model.total(outcomes)
            engine.model.commit(outcomes, totals)
        losses.append(totals.scalars()["loss/total"])
        for outcome in outcomes:
            assert outcome.sample is not None
            anchors.append(outcome.sample.metadata.id.tolist())
    assert engine.model.cacl is not None
    queue, stats = engine.model.cacl.queue, engine.model.collectives.stats
    return {
        "losses": losses,
        "anchors": anchors,
        "types": queue.types.tolist(),
        "steps": queue.steps.tolist(),
        "sent": sent.num_bytes,
        "rows": stats.num_bytes["cacl_rows_backward"] // max(stats.calls["cacl_rows_backward"], 1),
        "parameters": sum(getattr(x, "ds_numel", x.numel()) for x in engine.model.parameters()),
    }

"""Law 1 through the engine: one process, two and four train alike, for ZeRO 0 to 3, over a save and a load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mgcda_dist.method.mgcda import Outcome
from mgcda_dist.training.engine import DeepSpeedEngine
from tests.support.distributed import run_distributed
from tests.support.engine import micro_batches, one_group, tiny_engine
from tests.support.tiny import QueueLayout, tiny_mgcda

pytestmark = pytest.mark.slow

# bf16 keeps 8 bits: a gradient that is reduced in another order differs by 2^-8, which moves a parameter by as much,
# and a pixel that is sampled instead of its neighbour moves the contrastive term.
SIZES = (1, 2, 4)
_TOLERANCE = {"sgd": 1e-5, "adamw": 1e-4, "bf16": 2e-2}
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
Seen = Callable[[int], list[list[dict[str, Any]]]]
"""Number of ranks → by rank, what `_train_cases` found."""


class _Sent(TorchDispatchMode):
    """Bytes of the largest tensor of every collective, whoever calls it: {name: [bytes, …]}."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes: dict[str, list[int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            sizes = [x.numel() * x.element_size() for x in tree_leaves(args) if isinstance(x, Tensor)]
            self.num_bytes.setdefault(func._opname.strip("_"), []).append(max(sizes, default=0))
        return func(*args, **(kwargs or {}))


def _train_cases(folder: str, cases: Sequence[Case] = CASES) -> list[dict[str, Any]]:
    """On every rank, per case: losses and the memory; half-way a new engine loads a checkpoint."""
    return [_train(*case, folder=Path(folder) / "-".join(map(str, case))) for case in cases]


def _engine(kind: str, zero_stage: int, accumulation: int, layout: QueueLayout) -> DeepSpeedEngine:
    # Hard: discriminators take two passes, one of them without their parameters.
    model = tiny_mgcda(dtype=torch.float32, queue_layout=layout, target="hard")
    return tiny_engine(
        model,
        torch.optim.SGD(one_group(model), momentum=0.9) if kind == "sgd" else None,
        batch=_BATCH,
        precision="bf16" if kind == "bf16" else "fp32",
        zero_stage=zero_stage,
        accumulation=accumulation,
    )


def _train(kind: str, zero_stage: int, accumulation: int, layout: QueueLayout, folder: Path) -> dict[str, Any]:
    engine = _engine(kind, zero_stage, accumulation, layout)
    losses: list[float] = []
    anchors: list[list[int]] = []
    sent = _Sent()
    for step in range(STEPS):
        if step == STEPS // 2:
            engine.save(folder)
            engine = _engine(kind, zero_stage, accumulation, layout)
            engine.load(folder)
        batches = micro_batches(step, _BATCH, accumulation)
        with sent if step == STEPS - 1 else nullcontext():
            counts, outcomes = engine.model.count(batches), list[Outcome]()
            for batch in batches:
                outcomes.append(engine.forward(batch, step / STEPS, counts))
                engine.backward(outcomes[-1].loss)
                engine.step(1.0)
            totals = engine.model.total(outcomes)
            engine.commit(outcomes, totals)
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


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    folder = tmp_path_factory.mktemp("engine")
    return cache(lambda size: run_distributed(_train_cases, size, str(folder / f"w{size}"), timeout_s=280))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", range(len(CASES)), ids=["-".join(map(str, case)) for case in CASES])
@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.extended)])
def test_more_ranks_train_as_one(seen: Seen, case: int, size: int) -> None:
    kind, *_ = CASES[case]
    alone, first = seen(1)[0][case], seen(size)[0][case]
    assert all(seen(size)[rank][case] == first for rank in range(size))
    assert first["losses"] == pytest.approx(alone["losses"], rel=_TOLERANCE[kind])
    if kind != "bf16":
        assert all(first[name] == alone[name] for name in ("anchors", "types", "steps"))


@pytest.mark.extended
@pytest.mark.timeout(3600)
def test_every_combination_trains_as_one_rank_does(tmp_path: Path) -> None:
    """ZeRO 0 … 3 × accumulation 1, 2 × layout of the memory × SGD, AdamW, on two and on four ranks."""
    alone, *others = (
        run_distributed(_train_cases, size, str(tmp_path / f"w{size}"), COMBINATIONS, timeout_s=1200) for size in SIZES
    )
    for everyone in others:
        for found in everyone:
            for case, here, there in zip(COMBINATIONS, found, alone[0], strict=True):
                assert here["losses"] == pytest.approx(there["losses"], rel=_TOLERANCE[case[0]]), case
                assert all(here[name] == there[name] for name in ("anchors", "types", "steps")), case


@pytest.mark.timeout(600)
def test_the_stage_of_zero_does_not_change_the_numbers(seen: Seen) -> None:
    by_stage = {
        stage: seen(2)[0][i]["losses"] for i, (kind, stage, acc, _) in enumerate(CASES) if (kind, acc) == ("sgd", 1)
    }
    for losses in by_stage.values():
        assert losses == pytest.approx(by_stage[0], rel=1e-5)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", range(len(CASES)), ids=["-".join(map(str, case)) for case in CASES])
def test_the_engine_sends_what_the_page_on_scale_says(seen: Seen, case: int) -> None:
    kind, stage, micros, layout = CASES[case]
    for rank in (0, 1):
        found = seen(2)[rank][case]
        gradient = found["parameters"] * (2 if kind == "bf16" else 4)
        padded = pytest.approx(gradient, abs=64)  # to a multiple of the ranks
        sent: dict[str, list[int]] = {name: list(sizes) for name, sizes in found["sent"].items()}
        reductions = [size for size in sent["allreduce"] if size >= gradient]
        # Besides the gradients: the counts (with the difficulties of one micro-batch) and the values of the step, the
        # difficulties of the other micro-batches, two sums per micro-batch of a sharded memory, and DeepSpeed's norm,
        # which without slices every rank takes of its own.
        small = len(sent["allreduce"]) - len(reductions)
        assert small == 2 + (micros - 1) + micros * (2 if layout == "sharded" else 0) + (
            2 if kind == "bf16" else int(stage > 0)
        )
        # Of the rows of CACL, one gather and one scatter a micro-batch; the others are DeepSpeed's.
        gathers, scatters = (
            [x for x in sent[f"{n}_base"] if x != found["rows"]] for n in ("allgather", "reduce_scatter")
        )
        assert len(sent["allgather_base"]) - len(gathers) == len(sent["reduce_scatter_base"]) - len(scatters) == micros
        if stage == 3:
            assert reductions == []
            assert scatters == [padded] * micros
            assert gradient <= sum(gathers) <= micros * 2 * gradient + 64 * len(gathers)
        else:
            assert reductions == [gradient] * (micros if stage == 2 else 1)
            assert scatters == []
            assert gathers == ([padded] if stage else [])

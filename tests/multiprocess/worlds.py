"""What the four processes of the session do: every scenario in worlds of 2, 3 and 4 ranks, and the parts by themselves.

One set of processes serves all tests (starting one costs seconds); worlds of 2 and 3 are process groups within it, so
that collectives over a group other than the default one are tested too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mgcda_dist.evaluation.set_result import SetResult
from mgcda_dist.method.collectives import Collectives
from tests.multiprocess.scenarios import BF16, FP32, SCENARIOS, SECOND_READING, TAUGHT, Record, Scenario, play
from tests.support.evaluations import evaluate_drawn

__all__ = ["EVALUATED_FRAMES", "RESUMED", "RESUME_AT", "Results", "everything"]

RESUME_AT = 2
RESUMED: dict[str, dict[str, Any]] = {
    "replicated": {},
    "sharded": {"queue_layout": "sharded"},
    "distribution": {"contrast": "distribution"},
    "teacher": TAUGHT,
    "second_reading": {"queue_layout": "sharded", **SECOND_READING},
}
"""Kind of memory → arguments of `tiny_mgcda`."""
EVALUATED_FRAMES = 7
_COLLECTIVES = [
    "all_reduce", "all_gather", "all_gather_single", "all_gather_into_tensor", "all_gather_object", "reduce",
    "reduce_scatter", "reduce_scatter_single", "reduce_scatter_tensor", "broadcast", "broadcast_object_list",
    "all_to_all", "all_to_all_single", "gather", "scatter", "barrier", "send", "recv", "isend", "irecv",
]  # fmt: skip


@dataclass
class Results:
    """What one process found, by world size.

    Attributes:
        records: (scenario, W) → record.
        resumed: (kind of memory, W) → record of steps that continue from a state of two ranks.
        calls: W → collectives that a step really called, per name.
        gathers: W → (gathered rows, gradient, the rows this rank gave, all rows).
        sums: W → what came out of two sums, waited for in the other order.
        evaluations: W → results of some frames on rank 0, and the bytes this rank sent for them.
    """

    records: dict[tuple[str, int], Record] = field(default_factory=dict)
    resumed: dict[tuple[str, int], Record] = field(default_factory=dict)
    calls: dict[int, Counter[str]] = field(default_factory=dict)
    gathers: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    sums: dict[int, list[float]] = field(default_factory=dict)
    evaluations: dict[int, tuple[SetResult | None, int]] = field(default_factory=dict)


def everything() -> Results:
    """Run on each of four ranks."""
    rank = dist.get_rank()
    results = Results()
    groups: dict[int, Any] = {size: dist.new_group(range(size)) for size in (2, 3)}
    groups[4] = None  # the default group
    for size, group in groups.items():
        if rank >= size:
            continue
        for name, scenario in {**SCENARIOS, "bf16": BF16, "fp32": FP32}.items():
            results.records[name, size] = play(scenario, rank, size, group)
        with _counted() as calls:
            play(replace(SCENARIOS["adaptive_stage"], steps=1), rank, size, group)
        results.calls[size] = calls
        results.gathers[size] = _gather(rank, size, group)
        results.sums[size] = _two_sums(rank, group)
        world = Collectives(group)
        result = evaluate_drawn("drawn", 1.0, EVALUATED_FRAMES, with_anomalies=True, world=world)
        results.evaluations[size] = result, world.stats.num_bytes["evaluation"]

    # Law 4: two steps on two ranks, then the rest at every world size.
    for name, model in RESUMED.items():
        begun = play(Scenario(model, steps=RESUME_AT), rank, 2, groups[2]) if rank < 2 else None
        everyone: list[Any] = [None] * 4
        dist.all_gather_object(everyone, begun and (begun.state, begun.shard))
        shards = [everyone[r][1] for r in range(2)] if model.get("queue_layout") == "sharded" else []
        for size, group in groups.items():
            if rank < size:
                results.resumed[name, size] = play(
                    Scenario(model, steps=2),
                    rank,
                    size,
                    group,
                    first_step=RESUME_AT,
                    state=everyone[0][0],
                    shards=shards,
                )
    return results


def rows_of(rank: int) -> Tensor:
    """Rows that one rank gives to a gather."""
    generator = torch.Generator().manual_seed(100 + rank)
    return torch.randn(3, 2, generator=generator, dtype=torch.float64)


def judged(everywhere: Tensor, rank: int) -> Tensor:
    """A loss of one rank about the rows of all ranks, another on each."""
    weight = torch.arange(1.0, everywhere.numel() + 1, dtype=torch.float64).view_as(everywhere)
    return ((rank + 1) * weight * everywhere.sin()).sum() + everywhere.roll(rank, 0).mul(everywhere).sum()


def _gather(rank: int, size: int, group: dist.ProcessGroup | None) -> dict[str, Tensor]:
    rows = rows_of(rank).requires_grad_()
    everywhere = Collectives(group).start_gather(rows, "rows").wait()
    judged(everywhere, rank).backward()
    assert rows.grad is not None
    return {"everywhere": everywhere.detach(), "gradient": rows.grad}


def _two_sums(rank: int, group: dist.ProcessGroup | None) -> list[float]:
    collectives = Collectives(group)
    first = collectives.start_sum(torch.tensor([float(rank + 1)]), "first")
    second = collectives.start_sum(torch.tensor([10.0 ** (rank + 1)]), "second", owned=True)
    return [second.wait().item(), first.wait().item(), first.wait().item()]


@contextmanager
def _counted() -> Iterator[Counter[str]]:
    """Count every collective that goes through torch.distributed, whoever calls it."""
    calls: Counter[str] = Counter()
    originals: dict[str, Callable[..., Any]] = {n: getattr(dist, n) for n in _COLLECTIVES if hasattr(dist, n)}

    def counting(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return original(*args, **kwargs)

        return call

    for name, original in originals.items():
        setattr(dist, name, counting(name, original))
    try:
        yield calls
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)

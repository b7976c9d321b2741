"""Training steps of the method on a tiny network, played by one rank of a world of any size: what law 1 compares."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from mgcda_dist.method.batch import ANOMALY, INLIER, VOID, Batch
from mgcda_dist.method.cacl import MemoryQueue
from mgcda_dist.method.collectives import Collectives, CommStats
from mgcda_dist.method.mgcda import Outcome, SegmentationLoss
from tests.support.tiny import NUM_DOMAINS, lively, part_of, tiny_batch

BATCH = 12  # divides by 1, 2, 3 and 4


@dataclass(frozen=True)
class Scenario:
    """Some steps of training.

    Attributes:
        model: arguments of `tiny_mgcda`.
        alter: makes the hard case out of the batch of a step.
        accumulation: micro-batches per optimiser step.
        images: per optimiser step; None: 12 of each micro-batch.
        loss: in the place of the tiny network's.
        late_s: the last rank comes so much later to everything.
    """

    model: dict[str, Any] = field(default_factory=dict)
    alter: Callable[[Batch], Batch] = lambda batch: batch
    steps: int = 2
    accumulation: int = 1
    images: int | None = None
    loss: SegmentationLoss | None = None
    late_s: float = 0.0


@dataclass
class Record:
    """What a rank saw, per step (rows: per micro-batch), and the state at the end; equal at every world size."""

    terms: list[dict[str, float]] = field(default_factory=list)
    health: list[dict[str, float]] = field(default_factory=list)
    rows: list[dict[str, Tensor]] = field(default_factory=list)
    cursors: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)  # of all parameters
    state: dict[str, Tensor] = field(default_factory=dict)
    memory: Tensor = field(default_factory=lambda: torch.zeros(0))  # embeddings of all ranks, in ring order
    shard: dict[str, Tensor] = field(default_factory=dict)  # of the sharded memory, this rank's
    stats: CommStats = field(default_factory=CommStats)


def play(
    scenario: Scenario,
    rank: int = 0,
    size: int = 1,
    group: dist.ProcessGroup | None = None,
    *,
    first_step: int = 0,
    state: dict[str, Tensor] | None = None,
    shards: Sequence[dict[str, Tensor]] = (),
) -> Record:
    """Train as rank `rank` of `size`, with plain SGD, gradients averaged as DDP and DeepSpeed average them."""
    record = Record()
    model = lively(collectives=Collectives(group), **scenario.model)
    model.segmentation_loss = scenario.loss or model.segmentation_loss
    if state is not None:
        model.load_state_dict(state)
    if shards and model.cacl is not None:
        model.cacl.queue.load_shards(shards)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in range(first_step, first_step + scenario.steps):
        progress = (step + 1) / 10
        optimizer.zero_grad()
        whole = scenario.alter(tiny_batch(step, scenario.images or BATCH * scenario.accumulation))
        batches = [
            part_of(part_of(whole, micro, scenario.accumulation), rank, size) for micro in range(scenario.accumulation)
        ]
        counts, outcomes = model.count(batches), list[Outcome]()
        for batch in batches:
            _be_late(scenario, rank, size)
            outcomes.append(model(batch, progress, counts))
            _be_late(scenario, rank, size)
            (outcomes[-1].loss / scenario.accumulation).backward()
        trainer = {"trainer/rank": float(rank), "trainer/bad_samples": 0.0}
        totals = model.total(outcomes, trainer)
        record.terms.append(totals.scalars())
        if all(value == value for value in record.terms[-1].values()):  # refused when not a number
            model.commit(outcomes, totals)
            record.health.append(model.health(outcomes, totals, progress))
        for outcome in outcomes:
            if outcome.sample is not None and model.cacl is not None:
                filled = outcome.sample.metadata.is_filled
                rows = outcome.sample.metadata.where(filled)
                found = {"z": outcome.sample.z[filled], "type": rows.type, "domain": rows.domain, "id": rows.id}
                found["difficulty"] = rows.difficulty
                record.rows.append({name: value.detach().clone() for name, value in found.items()})
        if model.cacl is not None:
            record.cursors.append(model.cacl.queue.cursor.clone())
        gradient = torch.cat([_gradient(p).flatten() for p in model.parameters()])
        if size > 1:
            dist.all_reduce(gradient, group=group)
            gradient /= size
        record.gradients.append(gradient)
        for parameter, part in zip(
            model.parameters(), gradient.split([p.numel() for p in model.parameters()]), strict=True
        ):
            parameter.grad = part.view_as(parameter)
        optimizer.step()
    record.state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    if model.cacl is not None:
        record.memory, record.shard = _memory(model.cacl.queue, size, group), model.cacl.queue.shard_state()
    record.stats = model.collectives.stats
    return record


def compare(found: Record, expected: Record, tolerance: float, gradient_tolerance: float | None = None) -> None:
    """Terms, health, rows, gradients and final state agree."""
    gradient_tolerance = gradient_tolerance or tolerance
    assert len(found.terms) == len(expected.terms)
    for here, there in zip(found.terms, expected.terms, strict=True):
        compared = {name: value for name, value in there.items() if name != "trainer/rank"}
        assert {name: here[name] for name in compared} == pytest.approx(
            compared, rel=tolerance, abs=tolerance, nan_ok=True
        )
    for here, there in zip(found.health, expected.health, strict=True):
        assert here == pytest.approx(there, rel=tolerance, abs=tolerance)
    for here, there in zip(found.rows, expected.rows, strict=True):
        assert {name: value.shape for name, value in here.items()} == {name: x.shape for name, x in there.items()}
        for name in ("type", "domain", "id"):
            assert torch.equal(here[name], there[name]), f"sampled rows differ in {name}"
        torch.testing.assert_close(here["z"], there["z"], rtol=0, atol=gradient_tolerance)
    for here, there in zip(found.cursors, expected.cursors, strict=True):
        assert torch.equal(here, there)
    for here, there in zip(found.gradients, expected.gradients, strict=True):
        scale = there.abs().nan_to_num().max().clamp(min=1).item()
        torch.testing.assert_close(here, there, rtol=0, atol=gradient_tolerance * scale, equal_nan=True)
    torch.testing.assert_close(found.memory, expected.memory, rtol=0, atol=gradient_tolerance)
    assert found.state.keys() == expected.state.keys()
    for name, value in expected.state.items():
        if value.is_floating_point():
            torch.testing.assert_close(
                found.state[name],
                value,
                rtol=0,
                atol=gradient_tolerance,
                equal_nan=True,
                msg=lambda m, n=name: f"{n}: {m}",
            )
        else:
            assert torch.equal(found.state[name], value), name


def _memory(queue: MemoryQueue, size: int, group: dist.ProcessGroup | None) -> Tensor:
    index, z = queue.local_rows()
    everything = torch.zeros(len(queue.metadata()), z.shape[1], dtype=torch.float64)
    everything[index] = z.to(everything.dtype)
    if queue.is_sharded and size > 1:
        dist.all_reduce(everything, group=group)
    return everything


def _gradient(parameter: Tensor) -> Tensor:
    # Law 3: a parameter without a gradient would desynchronise an engine that reduces while it walks backward.
    if parameter.grad is None:
        raise AssertionError("a parameter was not touched")
    return parameter.grad


def _be_late(scenario: Scenario, rank: int, size: int) -> None:
    if scenario.late_s and rank == size - 1:
        time.sleep(scenario.late_s)


# ------------------------------------------------------------------------------------------------------- the hard cases


def _label(batch: Batch, label: Tensor) -> Batch:
    return replace(batch, label=label)


def anomaly_in_first_image_only(batch: Batch) -> Batch:
    label = batch.label.clone()
    label[1:][label[1:] == ANOMALY] = 0
    return _label(batch, label)


def no_anomaly(batch: Batch) -> Batch:
    return _label(batch, torch.where(batch.label == ANOMALY, 1, batch.label))


def everything_void(batch: Batch) -> Batch:
    return _label(batch, torch.full_like(batch.label, VOID))


def nothing_void(batch: Batch) -> Batch:
    return _label(batch, torch.where(batch.label == VOID, 2, batch.label))


def one_rank_void(batch: Batch) -> Batch:
    label = batch.label.clone()
    label[BATCH // 2 :] = VOID
    return _label(batch, label)


def domains_in_order(batch: Batch) -> Batch:
    """Each rank of three, and of four nearly so, holds one domain."""
    domain = torch.arange(len(batch.slot)) * NUM_DOMAINS // len(batch.slot)
    label = tiny_batch(batch.step + 100, len(batch.slot)).label
    return replace(batch, domain=domain, label=torch.where(domain.view(-1, 1, 1) == 2, VOID, label))


def domain_in_no_image(batch: Batch) -> Batch:
    return replace(batch, domain=batch.domain % 2)


def domain_missing_at_odd_steps(batch: Batch) -> Batch:
    return replace(batch, domain=torch.where(batch.domain == 1, 0, batch.domain)) if batch.step % 2 else batch


def lonely_anomaly(batch: Batch) -> Batch:
    """One anomalous cell in the whole batch: an anchor without a positive while the memory has no anomaly."""
    label = torch.where(batch.label == ANOMALY, 0, batch.label)
    label[5, 4:8, 4:8] = ANOMALY
    return _label(batch, label)


def one_pixel_alone(batch: Batch) -> Batch:
    """Nothing but one anomalous cell: an anchor without positives and negatives."""
    label = torch.full_like(batch.label, VOID)
    label[5, 4:8, 4:8] = ANOMALY
    return _label(batch, label)


def pasted_on_unlabelled(batch: Batch) -> Batch:
    label = batch.label.clone()
    label[batch.domain == 2, 4:9, 4:12] = ANOMALY
    return _label(batch, label)


def class_mixed(batch: Batch) -> Batch:
    """Images of domain 2 lie under two classes of others, with an object on top; what lies below is the weak view."""
    bare = batch.domain == 2
    other = bare.nonzero()[:, 0] - 1  # of domain 1
    covered = torch.isin(batch.label[other], torch.tensor([0, 2]))
    label, image = batch.label.clone(), batch.image.clone()
    label[bare] = torch.where(covered, batch.label[other], VOID)
    image[bare] = torch.where(covered.unsqueeze(1), batch.image[other], batch.image[bare])
    label[bare, 4:9, 4:12] = ANOMALY
    return replace(batch, image=image, label=label, unlabelled=bare, weak=batch.image[bare])


def normal_of_unknown_class(batch: Batch) -> Batch:
    label = batch.label.clone()
    label[::2][label[::2] < ANOMALY] = INLIER
    return _label(batch, label)


def not_a_number(batch: Batch) -> Batch:
    """The last image of step 1 is broken, on the last rank alone."""
    image = batch.image.to(torch.float64)
    if batch.step == 1:
        image[-1, 0, 0, 0] = float("nan")
    return replace(batch, image=image)


SECOND_READING: dict[str, Any] = {
    "positives": "per_anchor",
    "negatives_by": "similarity",
    "balance": "sides",
    "queue_rows_per_image": 1,
    "queue_rows": 40,
}
TAUGHT: dict[str, Any] = {"teacher_decay": 0.7, "teacher_outlier_weight": 0.3}
SCENARIOS: dict[str, Scenario] = {
    "adaptive_stage": Scenario(steps=3),
    "adaptive_sample": Scenario({"smoothing": "adaptive_sample"}),
    "annealed": Scenario({"smoothing": "annealed"}),
    "constant": Scenario({"smoothing": "constant", "mask_anomalies": False}),
    "hard_target": Scenario({"target": "hard"}, steps=3),
    "uniform_target_by_class": Scenario({"target": "uniform", "condition": "class", "certainty": True}),
    "hard_target_of_outer_products": Scenario({"target": "hard", "condition": "outer"}),
    "wide_masks": Scenario({"reach_px": (3, 9)}),
    "plain_selection": Scenario({"image_aware": False, "cross_domain": False}),
    "other_types_repel": Scenario({"negatives": "other_type"}),
    "positives_per_anchor": Scenario({"positives": "per_anchor"}, steps=3),
    "balanced_sides": Scenario({"balance": "sides"}),
    "balanced_sides_one_anomaly": Scenario({"balance": "sides"}, anomaly_in_first_image_only),
    "balanced_sides_no_anomaly": Scenario({"balance": "sides"}, no_anomaly),
    "confident_inliers": Scenario({"unlabelled_confidence": 0.34}),
    "anomaly_in_first_image_only": Scenario(alter=anomaly_in_first_image_only),
    "no_anomaly": Scenario(alter=no_anomaly, steps=3),
    "everything_void": Scenario(alter=everything_void),
    "one_rank_void": Scenario(alter=one_rank_void),
    "domains_in_order": Scenario(alter=domains_in_order),
    "domain_in_no_image": Scenario(alter=domain_in_no_image),
    "domain_missing_at_odd_steps": Scenario(alter=domain_missing_at_odd_steps, steps=3),
    "lonely_anomaly": Scenario(alter=lonely_anomaly, steps=3),
    "lonely_anomaly_without_memory": Scenario({"queue_rows": 0}, lonely_anomaly, steps=3),
    "one_pixel_alone": Scenario({"queue_rows": 0}, one_pixel_alone),
    "pasted_on_unlabelled": Scenario({"unlabelled_confidence": 0.34}, pasted_on_unlabelled),
    "normal_of_unknown_class": Scenario(alter=normal_of_unknown_class),
    "no_memory": Scenario({"queue_rows": 0}),
    "memory_smaller_than_a_step": Scenario({"queue_rows": 2}, steps=3),
    "memory_just_wrapped": Scenario({"queue_rows": 36, "image_aware": False}, steps=3),
    "nearest_negatives": Scenario({"negatives_by": "similarity"}, steps=4),
    "distribution": Scenario({"contrast": "distribution"}, steps=4),
    "distribution_of_other_types": Scenario({"contrast": "distribution", "negatives": "other_type"}, steps=3),
    "distribution_of_few_rows": Scenario(
        {"contrast": "distribution", "queue_rows_per_image": 1, "balance": "sides", "cross_domain": False}, steps=3
    ),
    "distribution_no_anomaly": Scenario({"contrast": "distribution"}, no_anomaly, steps=3),
    "distribution_everything_void": Scenario({"contrast": "distribution"}, everything_void),
    "distribution_accumulation": Scenario({"contrast": "distribution"}, accumulation=2, steps=3),
    "few_rows_per_image": Scenario({"queue_rows_per_image": 1}, steps=4),
    "at_most_so_many_rows": Scenario({"max_rows": 40}, steps=3),
    "at_most_a_few_rows": Scenario({"max_rows": 7, "image_aware": False, "queue_rows_per_image": 2}, steps=3),
    "distribution_of_at_most_so_many": Scenario({"contrast": "distribution", "max_rows": 40}, steps=3),
    "gathered_in_bf16": Scenario({"gather_dtype": "bf16"}, steps=3),
    "sharded": Scenario({"queue_layout": "sharded"}, steps=4),
    "sharded_uneven": Scenario({"queue_layout": "sharded", "queue_rows": 7}, steps=4),
    "sharded_smaller_than_the_world": Scenario({"queue_layout": "sharded", "queue_rows": 2}, steps=3),
    "sharded_without_memory": Scenario({"queue_layout": "sharded", "queue_rows": 0}),
    "sharded_just_wrapped": Scenario({"queue_layout": "sharded", "queue_rows": 36, "image_aware": False}, steps=3),
    "sharded_lonely_anomaly": Scenario({"queue_layout": "sharded"}, lonely_anomaly, steps=3),
    "sharded_no_anomaly": Scenario({"queue_layout": "sharded"}, no_anomaly, steps=3),
    "sharded_everything_void": Scenario({"queue_layout": "sharded"}, everything_void),
    "sharded_one_rank_void": Scenario({"queue_layout": "sharded"}, one_rank_void),
    "sharded_domains_in_order": Scenario({"queue_layout": "sharded"}, domains_in_order),
    "sharded_at_most_so_many_rows": Scenario(
        {"queue_layout": "sharded", "negatives_by": "similarity", "max_rows": 40, "gather_dtype": "bf16"}, steps=3
    ),
    "sharded_accumulation": Scenario({"queue_layout": "sharded"}, accumulation=2),
    "sharded_late_rank": Scenario({"queue_layout": "sharded"}, late_s=0.15),
    "sharded_positives_per_anchor": Scenario({"queue_layout": "sharded", "positives": "per_anchor"}, steps=3),
    "sharded_nearest_negatives": Scenario({"queue_layout": "sharded", "negatives_by": "similarity"}, steps=4),
    "sharded_nearest_of_other_types": Scenario(
        {"queue_layout": "sharded", "negatives_by": "similarity", "negatives": "other_type"}
    ),
    "sharded_nearest_smaller_than_the_world": Scenario(
        {"queue_layout": "sharded", "negatives_by": "similarity", "queue_rows": 2}, steps=3
    ),
    "sharded_nearest_no_anomaly": Scenario({"queue_layout": "sharded", "negatives_by": "similarity"}, no_anomaly),
    "sharded_nearest_everything_void": Scenario(
        {"queue_layout": "sharded", "negatives_by": "similarity"}, everything_void
    ),
    "sharded_nearest_accumulation": Scenario({"queue_layout": "sharded", "negatives_by": "similarity"}, accumulation=2),
    "second_reading": Scenario({**SECOND_READING}, steps=4),
    "sharded_second_reading": Scenario({"queue_layout": "sharded", **SECOND_READING}, steps=4),
    "mdat_off": Scenario({"with_mdat": False}),
    "cacl_off": Scenario({"with_cacl": False}),
    "both_off": Scenario({"with_mdat": False, "with_cacl": False}),
    "accumulation": Scenario(accumulation=2),
    "teacher": Scenario(TAUGHT, steps=4),
    "teacher_pasted_on_unlabelled": Scenario(TAUGHT, pasted_on_unlabelled, steps=3),
    "teacher_domains_in_order": Scenario(TAUGHT, domains_in_order, steps=3),
    "teacher_one_rank_void": Scenario(TAUGHT, one_rank_void, steps=3),
    "teacher_everything_void": Scenario(TAUGHT, everything_void, steps=3),
    "teacher_nothing_void": Scenario(TAUGHT, nothing_void),
    "teacher_accumulation": Scenario(TAUGHT, class_mixed, accumulation=2, steps=3),
    "teacher_contrast": Scenario({**TAUGHT, "teacher_contrast": True}, class_mixed, steps=4),
    "teacher_contrast_sharded": Scenario(
        {**TAUGHT, "teacher_contrast": True, "teacher_weight": 0.0, "queue_layout": "sharded"},
        domains_in_order,
        steps=3,
    ),
    "teacher_alone": Scenario({**TAUGHT, "with_mdat": False, "with_cacl": False}, steps=3),
    "not_a_number": Scenario(alter=not_a_number),
    "late_rank": Scenario(late_s=0.15),
}
BF16 = Scenario({"dtype": torch.bfloat16}, steps=1)
FP32 = Scenario({"dtype": torch.float32})

"""The composition: a whole step against the formulas, the weights of the terms, purity, what is refused."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any, get_args

import pytest
import torch
from torch.nn import functional as F

from mgcda_dist.choices import SmoothingMode
from mgcda_dist.method.batch import Batch, Prediction
from mgcda_dist.method.mgcda import MGCDA, Outcome, ramp
from mgcda_dist.method.randomness import stream_key
from mgcda_dist.method.reduce import NamedSum
from tests.multiprocess.scenarios import class_mixed
from tests.support import reference
from tests.support.pretended import DEVICE, pretended_device
from tests.support.tiny import NUM_CLASSES, NUM_DOMAINS, lively, part_of, tiny_batch, tiny_mgcda

pytestmark = pytest.mark.usefixtures("one_thread")

MODES: tuple[SmoothingMode, ...] = get_args(SmoothingMode)


def values_of(model: MGCDA, step: int = 0, progress: float = 0.2) -> dict[str, float]:
    return model.total([model(tiny_batch(step), progress)]).scalars()


class ReferenceStep:
    """One step from the formulas: the networks are the model's, all else is loops."""

    def __init__(self, model: MGCDA, queue_rows: int) -> None:
        assert model.mdat is not None and model.cacl is not None
        self.model, self.mdat, self.cacl = model, model.mdat, model.cacl
        self.memory = reference.Memory(NUM_DOMAINS, NUM_CLASSES, queue_rows)
        self.gaussians = reference.Gaussians(momentum=0.8)
        self.accuracy: list[float] = self.mdat.accuracy.tolist()  # 1/M, rounded as a buffer is

    @torch.no_grad()
    def __call__(self, batch: Batch, progress: float) -> dict[str, float]:
        label, domains = batch.label.tolist(), batch.domain.tolist()
        prediction: Prediction = self.model.segmenter(batch.image)
        large = F.interpolate(prediction.logits, size=batch.label.shape[1:], mode="bilinear")
        terms = reference.segmentation_terms(large.tolist(), label, NUM_CLASSES)

        sizes = [(-(-f.shape[2] // 4), -(-f.shape[3] // 4)) for f in prediction.stages.values()]
        mdat = reference.mdat(
            [self.mdat.discriminators[name](f).tolist() for name, f in prediction.stages.items()],
            domains,
            [reference.kept_locations(label, *size, unlabelled=batch.is_unlabelled.tolist()) for size in sizes],
            weights=(1.0, 1.0),
            mode=self.mdat.smoothing.mode,
            value=self.mdat.smoothing.epsilon,
            running_accuracy=self.accuracy,
            progress=progress,
        )
        self.accuracy = [
            old if new is None else 0.95 * old + 0.05 * new
            for old, new in zip(self.accuracy, mdat.accuracy, strict=True)
        ]

        rows = self.sample(batch, prediction)
        candidates = rows + self.memory.rows()

        def draw(purpose: str, row: int) -> float:
            return reference.uniform(stream_key(self.cacl.seed, batch.step, purpose), 0, row)

        if self.cacl.distributions is None:
            terms_of = reference.contrastive(
                rows, candidates, anomaly_type=NUM_CLASSES, temperature=0.1, draw=draw, **asdict(self.cacl.selection)
            )
        else:
            terms_of = reference.contrastive_in_expectation(
                rows, self.gaussians, anomaly_type=NUM_CLASSES, temperature=0.1, cross_domain=True,
                negatives="opposite_side",
            )  # fmt: skip
        few = reference.few_per_image(rows, self.cacl.budget.rows_per_image, self.cacl.queue_rows_per_image, draw)
        self.memory.push(few, batch.step)
        self.gaussians.push(few)
        cacl = reference.mean_over_anchors(terms_of, NUM_CLASSES, self.cacl.balance)
        outlier = 0.1 * terms[1] + 0.1 * terms[2]
        return {
            "loss/seg": terms[0],
            "loss/outlier": outlier,
            "loss/mdat": mdat.loss,
            "loss/cacl": cacl,
            "cacl/anchors": len(terms_of),
            "loss/total": terms[0] + outlier + 0.5 * mdat.loss + 0.1 * cacl,
        }

    def sample(self, batch: Batch, prediction: Prediction) -> list[reference.Row]:
        width = prediction.logits.shape[3]
        # Difficulty is read in single precision: it only orders pixels.
        score = -torch.logsumexp(prediction.logits.float(), dim=1)
        key = stream_key(self.cacl.seed, batch.step, "pixel")
        chosen, difficulty = reference.sampled(
            batch.label.tolist(), score.tolist(), batch.slot.tolist(), partial(reference.uniform, key),
            unlabelled=batch.is_unlabelled.tolist(), **asdict(self.cacl.budget),
        )  # fmt: skip
        rows = []
        for i, by_type in enumerate(chosen):
            place = i * (12 + 3 * 6)  # rows reserved per image: twice the average of each side
            for kind, first in [(NUM_CLASSES, 0), (0, 12), (1, 18), (2, 24)]:
                for nth, pixel in enumerate(by_type[kind]):
                    feature = prediction.embedding[i, :, pixel // width, pixel % width]
                    z = self.cacl.projection.layers(feature)
                    length = math.sqrt(sum(v * v for v in z.tolist()))
                    unit = [v / length for v in z.tolist()]
                    known = (kind, int(batch.domain[i]), difficulty[i][pixel], place + first + nth)
                    rows.append(reference.Row(unit, *known))
        return rows


SETTINGS: dict[str, dict[str, Any]] = {
    **{mode: {"smoothing": mode} for mode in MODES},
    "without_memory": {"queue_rows": 0},
    "few_rows_per_image": {"queue_rows_per_image": 2, "queue_rows": 20},
    "positives_and_sides": {"positives": "per_anchor", "balance": "sides"},
    "nearest": {"negatives_by": "similarity"},
    "distribution": {"contrast": "distribution", "queue_rows_per_image": 2},
    "class_mixed": {},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_steps_agree_with_the_formulas(name: str):
    model = lively(**{"queue_rows": 9, **SETTINGS[name]})
    assert model.cacl is not None
    expected = ReferenceStep(model, model.cacl.queue.capacity)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in range(3):
        batch, progress = tiny_batch(step), (step + 1) / 4
        batch = class_mixed(batch) if name == "class_mixed" else batch
        wanted = expected(batch, progress)
        outcome = model(batch, progress)
        totals = model.total([outcome])
        assert totals.scalars() == pytest.approx(wanted, abs=1e-7)
        assert outcome.loss.item() == pytest.approx(wanted["loss/total"], abs=1e-7)
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
        model.commit([outcome], totals)
        assert model.mdat is not None and model.cacl is not None
        assert model.mdat.accuracy.tolist() == pytest.approx(expected.accuracy, abs=1e-12)
        memory = expected.memory.rows()
        filled = model.cacl.queue.metadata()
        assert [(row.type, row.domain, row.id) for row in memory] == list(
            zip(filled.type.tolist(), filled.domain.tolist(), filled.id.tolist(), strict=True)
        )
        if memory:
            torch.testing.assert_close(
                model.cacl.queue.local_rows()[1], torch.tensor([row.z for row in memory], dtype=torch.float64)
            )


# ------------------------------------------------------------------------------------------------- weights and warm-ups


def test_ramp_rises_linearly_over_the_warm_up():
    assert [ramp(p, 0.2) for p in (0.0, 0.05, 0.1, 0.2, 0.7)] == pytest.approx([0.0, 0.25, 0.5, 1.0, 1.0])
    assert ramp(0.0, 0.0) == 1.0


def test_warm_ups_weigh_the_total_and_not_the_logged_terms():
    model = lively()
    model.mdat_warmup, model.cacl_warmup = 0.4, 0.8
    terms = values_of(model)
    total = terms["loss/seg"] + terms["loss/outlier"] + 0.5 * 0.5 * terms["loss/mdat"] + 0.1 * 0.25 * terms["loss/cacl"]
    assert terms["loss/total"] == pytest.approx(total, abs=1e-12)
    assert terms["loss/cacl"] == pytest.approx(values_of(lively())["loss/cacl"], abs=1e-12)


@pytest.mark.parametrize("image_aware", [True, False])
@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
def test_an_infinite_score_is_an_extreme_one_and_one_that_is_no_number_shows(value: float, image_aware: bool):
    model = lively(image_aware=image_aware)

    def score(prediction: Prediction) -> torch.Tensor:
        found = -torch.logsumexp(prediction.logits, dim=1)
        return found.index_fill(1, torch.tensor([1]), value)  # a row of pixels of every image

    model.score = score
    values = values_of(model)
    if value == value:
        assert values["cacl/anchors"] > 50 and 0.1 < values["loss/cacl"] < 10
    else:
        assert math.isnan(values["loss/cacl"]) and math.isnan(values["loss/total"]) and values["loss/seg"] > 0


def test_at_the_start_of_a_warm_up_every_parameter_is_touched():
    model = lively()
    model.mdat_warmup = model.cacl_warmup = 0.5
    model(tiny_batch(0), 0.0).loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.cacl is not None
    assert all(p.grad is not None and not p.grad.any() for p in model.cacl.parameters())


@pytest.mark.parametrize(("with_mdat", "with_cacl"), [(True, False), (False, True), (False, False)])
def test_terms_that_are_off_leave_no_trace(with_mdat: bool, with_cacl: bool):
    model = lively(with_mdat=with_mdat, with_cacl=with_cacl)
    outcomes = [model(tiny_batch(0), 0.5)]
    outcomes[0].loss.backward()
    totals = model.total(outcomes)
    model.commit(outcomes, totals)
    assert ("loss/mdat" in totals.scalars()) == with_mdat and ("loss/cacl" in totals.scalars()) == with_cacl
    assert any(name.startswith("mdat") for name in model.state_dict()) == with_mdat
    assert any(name.startswith("mdat/") for name in model.health(outcomes, totals, 0.5)) == with_mdat
    assert any(name.startswith("cacl/") for name in model.health(outcomes, totals, 0.5)) == with_cacl


# ----------------------------------------------------------------------------------------------------- state and purity


def commit_steps(model: MGCDA, first: int, last: int) -> tuple[list[Outcome], NamedSum]:
    outcomes, totals = list[Outcome](), None
    for step in range(first, last):
        outcomes = [model(tiny_batch(step), step / 10)]
        totals = model.total(outcomes)
        model.commit(outcomes, totals)
    assert totals is not None
    return outcomes, totals


def test_forward_changes_no_state_and_uses_no_global_generator():
    model = lively()
    commit_steps(model, 0, 2)
    before = copy.deepcopy(model.state_dict())
    terms: list[dict[str, float]] = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        terms.append(values_of(model, 2))
        assert torch.equal(torch.get_rng_state(), state)
    assert terms[0] == terms[1]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "settings",
    [{"unlabelled_confidence": 0.2}, {"teacher_decay": 0.9, "teacher_contrast": True, "teacher_confidence": 0.1}],
)
def test_labels_of_one_byte_give_the_same_step(settings: dict[str, Any]):
    states: list[dict[str, torch.Tensor]] = []
    for dtype in (torch.int64, torch.uint8):
        model, batch = lively(**settings), class_mixed(tiny_batch(0))
        batch = replace(batch, label=batch.label.to(dtype))
        counts = model.count([batch])
        outcome = model(batch, 0.5, counts)
        outcome.loss.backward()
        gradients = {f"{name}.grad": p.grad for name, p in model.named_parameters() if p.grad is not None}
        model.commit([outcome], model.total([outcome]))
        states.append({"loss": outcome.loss.detach(), **outcome.sums, **gradients, **dict(model.named_buffers())})
    wide, narrow = states
    assert wide.keys() == narrow.keys() and wide["loss/teacher" if "teacher_decay" in settings else "loss"] != 0
    assert all(torch.equal(narrow[name], value) for name, value in wide.items())


def test_a_copy_is_independent():
    model = lively()
    twin = copy.deepcopy(model)
    commit_steps(model, 0, 2)
    assert twin.cacl is not None and len(twin.cacl.queue.metadata()) == 0


def test_health_names_every_stage():
    model = lively()
    health = model.health(*commit_steps(model, 0, 3), 0.2)
    assert model.mdat is not None
    for s, stage in enumerate(("stride4", "embedding")):
        accuracy = model.mdat.accuracy[s].item()
        assert health[f"mdat/{stage}/accuracy"] == accuracy
        assert health[f"mdat/{stage}/accuracy_over_chance"] == pytest.approx(3 * accuracy)
        assert 0 <= health[f"mdat/{stage}/epsilon"] <= 0.3
        assert health[f"mdat/{stage}/a_distance"] >= 0
    assert health["mdat/lambda"] == pytest.approx(reference.reversal_strength(0.2, 1.0))
    assert 0 < health["cacl/queue_fill_inlier"] <= 1


# ------------------------------------------------------------------------------------------------------------- hardship


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions_train(dtype: torch.dtype):
    model = tiny_mgcda(dtype=dtype)
    for step in range(2):
        outcome = model(tiny_batch(step), 0.5)
        outcome.loss.backward()
        totals = model.total([outcome])
        model.commit([outcome], totals)
        assert all(math.isfinite(value) for value in totals.scalars().values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_difficulties_have_the_precision_of_the_network():
    sample = tiny_mgcda()(tiny_batch(0), 0.5).sample
    assert sample is not None
    difficulty = sample.metadata.difficulty[sample.metadata.is_filled]
    assert difficulty.dtype == torch.float64 and (difficulty != difficulty.float()).any()


@pytest.mark.parametrize("with_mdat", [True, False])
def test_a_batch_that_cannot_be_counted_is_refused(with_mdat: bool):
    model, batch = tiny_mgcda(with_mdat=with_mdat), tiny_batch(0)
    for domain in (NUM_DOMAINS, -1):
        other = replace(batch, domain=batch.domain.index_fill(0, torch.tensor([2]), domain))
        with pytest.raises(ValueError, match=rf"image 2 .* of domain {domain}, but .* domains 0 … 2: number"):
            model(other, 0.1)
    with pytest.raises(ValueError, match="no image: every rank needs one"):
        model.count([part_of(batch, 8, 9)])


@pytest.mark.parametrize("progress", [-0.1, 5, math.nan])
def test_a_progress_that_is_none_is_refused(progress: float):
    with pytest.raises(ValueError, match=r"the progress is .*: it must be the share of training that is done, 0…1"):
        tiny_mgcda()(tiny_batch(0), progress)


def test_outcomes_of_micro_batches_that_were_counted_apart_are_refused():
    model, batches = tiny_mgcda(), [part_of(tiny_batch(0), 0, 2), part_of(tiny_batch(0), 1, 2)]
    with pytest.raises(ValueError, match=r"2 outcomes .* counted as 1: counts = model.count\(batches\) before"):
        model.total([model(batch, 0.5) for batch in batches])
    counts = model.count(batches)
    model.total([model(batch, 0.5, counts) for batch in batches])


def test_on_a_gpu_the_first_batch_alone_is_looked_at_and_only_where_that_is_asked_for():
    batch = tiny_batch(0)
    wrong = replace(batch, label=torch.full_like(batch.label, 77))
    model = tiny_mgcda(with_mdat=False)
    with pytest.raises(ValueError, match="holds 77"):
        model.count([wrong])
    with pretended_device() as gpu:
        model.count([wrong.to(DEVICE)])
        assert not gpu.waits, "a run of ours has checked its shards"
        model.looks_at_first = True
        with pytest.raises(ValueError, match="holds 77"):
            model.count([wrong.to(DEVICE)])
        model.count([batch])
        gpu.waits.clear()
        model.count([wrong.to(DEVICE)])
        assert not gpu.waits


def test_one_image_in_the_batch():
    model = lively()
    commit_steps(model, 0, 1)
    batch = tiny_batch(1, size=1)
    outcome = model(batch, 0.5)
    outcome.loss.backward()
    assert math.isfinite(outcome.loss.item())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p: p._replace(embedding=p.embedding[:, :, ::2, ::2]), r"embedding.*2×3.*logits.*4×6"),
        (lambda p: p._replace(logits=p.logits.repeat(1, 2, 1, 1)), "has 6 logits but the contrastive budget 3 classes"),
    ],
    ids=["grid", "classes"],
)
def test_a_segmenter_whose_outputs_do_not_fit_is_refused(change: Callable[[Prediction], Prediction], says: str):
    model = tiny_mgcda()
    network = model.segmenter

    class Changed(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> Prediction:
            return change(network(image))

    model.segmenter = Changed()
    with pytest.raises(ValueError, match=says):
        model(tiny_batch(0), 0.1)

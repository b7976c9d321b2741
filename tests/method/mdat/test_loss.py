"""L_mdat against its formula, its balance over domains, its gradients, and the running accuracy A_s."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from mgcda_dist.choices import Condition, FeatureTarget, SmoothingMode
from mgcda_dist.method.batch import ANOMALY, INLIER, VOID, Batch, Prediction
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.method.mdat import MDAT, LabelSmoothing
from mgcda_dist.method.mdat.conditioning import class_conditional
from mgcda_dist.method.mdat.discriminators import PatchDiscriminator
from mgcda_dist.method.mdat.masks import CellMasks, alignable, cell_masks
from mgcda_dist.method.mdat.receptive_field import reach_px
from mgcda_dist.method.mdat.reversal import reversal_strength
from mgcda_dist.method.mdat.smoothing import smoothed_cross_entropy
from mgcda_dist.method.reduce import LossTerm, StepCounts
from tests.support import reference

pytestmark = pytest.mark.usefixtures("one_thread")

MODES: tuple[SmoothingMode, ...] = get_args(SmoothingMode)
CHANNELS = {"middle": 4, "last": 3}
SIZES = {"middle": (16, 24), "last": (8, 12)}


@dataclass
class Case:
    stages: dict[str, Tensor]
    domain: Tensor
    label: Tensor
    logits: Tensor  # of two classes, 8 × 12 pixels
    unlabelled: Tensor | None = None

    @property
    def batch(self) -> Batch:
        slot = torch.arange(len(self.domain))
        return Batch(torch.empty(0), self.label, self.domain, slot, step=0, unlabelled=self.unlabelled)


def case(domains: list[int], seed: int = 0, dtype: torch.dtype = torch.float64) -> Case:
    """Images of 32 × 48 pixels; feature maps of stride 2 and 4, so that discriminators see 4 × 6 and 2 × 3 cells."""
    generator = torch.Generator().manual_seed(seed)
    n = len(domains)
    label = torch.randint(0, 3, (n, 32, 48), generator=generator)
    label[:, :7, 5:20] = VOID
    label[::2, 10:22, 11:30] = ANOMALY
    if n:
        label[-1] = VOID
    return Case(
        {
            "middle": torch.randn(n, 4, 16, 24, generator=generator).to(dtype),
            "last": torch.randn(n, 3, 8, 12, generator=generator).to(dtype),
        },
        torch.tensor(domains, dtype=torch.int64),
        label,
        3.0 * torch.randn(n, 2, 8, 12, generator=generator).to(dtype),
    )


def mdat_of(
    mode: SmoothingMode = "constant", epsilon: float = 0.2, mask_anomalies: bool = True, **options: Any
) -> MDAT:
    torch.manual_seed(3)
    mdat = MDAT(
        CHANNELS,
        3,
        stage_weights=(1.0, 0.5),
        smoothing=LabelSmoothing(mode, epsilon),
        channels=5,
        mask_anomalies=mask_anomalies,
        num_classes=2,
        **options,
    ).double()
    mdat.accuracy.copy_(torch.tensor([0.7, 0.4]))
    with torch.no_grad():
        for parameter in mdat.parameters():
            parameter.mul_(3.0)  # far from the undecided discriminator
    return mdat


def loss_of(mdat: MDAT, given: Case, progress: float = 0.6) -> Tensor:
    return term_of(mdat, given, progress)[0].local_loss


def term_of(mdat: MDAT, given: Case, progress: float = 0.6) -> tuple[LossTerm, StepCounts]:
    counts = StepCounts(mdat.counts(given.batch, SIZES), 1, Collectives())
    return mdat(Prediction(given.logits, given.stages, torch.empty(0)), given.batch, progress, counts), counts


def reference_of(mdat: MDAT, given: Case, progress: float = 0.6) -> reference.Mdat:
    logits = [mdat.discriminators[name](given.stages[name]).tolist() for name in CHANNELS]
    return reference.mdat(
        logits,
        given.domain.tolist(),
        [reference.kept_locations(given.label.tolist(), *size, mdat.mask_anomalies) for size in ((4, 6), (2, 3))],
        weights=mdat.weights,
        mode=mdat.smoothing.mode,
        value=mdat.smoothing.epsilon,
        running_accuracy=mdat.accuracy.tolist(),
        progress=progress,
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("domains", [[0, 1, 2, 2, 1], [0, 0, 0, 2], [1]])
def test_agrees_with_the_formula(mode: SmoothingMode, mask: bool, domains: list[int]):
    mdat, given = mdat_of(mode, mask_anomalies=mask), case(domains)
    expected = reference_of(mdat, given)
    assert loss_of(mdat, given).item() == pytest.approx(expected.loss, abs=1e-12)

    masks = mdat.masks(given.batch, SIZES)
    term, counts = term_of(mdat, given)
    for s in range(2):
        per_image = torch.tensor(expected.epsilon[s], dtype=torch.float64) * masks[s].aligned.sum(dim=(1, 2))
        for d in range(3):
            assert term.sums["mdat/epsilon"][s, d].item() == pytest.approx(
                per_image[given.domain == d].sum().item(), abs=1e-12
            )

    before = mdat.accuracy.clone()
    mdat.update(term.sums, counts)
    for s, accuracy in enumerate(expected.accuracy):
        moved = before[s].item() if accuracy is None else 0.95 * before[s].item() + 0.05 * accuracy
        assert mdat.accuracy[s].item() == pytest.approx(moved, abs=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_features_get_minus_lambda_times_the_gradient(mode: SmoothingMode):
    mdat, given = mdat_of(mode, target="smoothed"), case([0, 1, 2, 1])
    leaves = {name: x.requires_grad_() for name, x in given.stages.items()}
    progress = 0.13
    loss_of(mdat, given, progress).backward()

    # Of the loss without the reversal, at ε held where it is (it is detached).
    masks = [each.aligned for each in mdat.masks(given.batch, SIZES)]
    for s, (name, x) in enumerate(leaves.items()):
        free = x.detach().clone().requires_grad_()
        logits, domain = mdat.discriminators[name](free), given.domain
        epsilon = mdat.smoothing.per_image(logits, domain, masks[s], mdat.accuracy[s], progress).detach()
        ce = smoothed_cross_entropy(logits.log_softmax(dim=1), domain, epsilon)
        means = [ce[domain == d][masks[s][domain == d]].mean() for d in domain.unique() if masks[s][domain == d].any()]
        (slope,) = torch.autograd.grad(torch.stack(means).mean(), free)
        expected = -reversal_strength(progress, mdat.lambda_max) * mdat.weights[s] * slope
        torch.testing.assert_close(x.grad, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("target", get_args(FeatureTarget))
@pytest.mark.parametrize("condition", get_args(Condition))
def test_two_players_have_a_target_each(target: FeatureTarget, condition: Condition):
    """Discriminators descend on the smoothed target; features get ∓λ times the gradient of the loss of their own."""
    mdat, given = mdat_of(target=target, condition=condition), case([0, 1, 2, 1])
    leaves = {name: x.requires_grad_() for name, x in given.stages.items()}
    loss_of(mdat, given).backward()
    grads = {name: x.grad for name, x in mdat.named_parameters()}

    def plain(q: Any, player: str) -> Tensor:
        """Σ_s w_s · mean over domains of mean over locations of CE to q(d), with nothing reversed."""
        total = torch.zeros((), dtype=torch.float64)
        for s, (name, mask) in enumerate(zip(CHANNELS, mdat.masks(given.batch, SIZES), strict=True)):
            log_p = getattr(mdat.answer(name, free[name], given.logits), player)
            ce = -(log_p * torch.stack([q(d) for d in given.domain.tolist()])[:, :, None, None]).sum(dim=1)
            kept = [torch.cat([ce[i][mask.aligned[i]] for i in torch.where(given.domain == d)[0]]) for d in range(3)]
            total = total + mdat.weights[s] * torch.stack([values.mean() for values in kept if len(values)]).mean()
        return total

    def smoothed(d: int) -> Tensor:
        return torch.full((3,), 0.1, dtype=torch.float64).index_fill(0, torch.tensor([d]), 0.8)

    aims = {"smoothed": smoothed, "hard": lambda d: torch.eye(3, dtype=torch.float64)[d],
            "uniform": lambda d: torch.full((3,), 1 / 3, dtype=torch.float64)}  # fmt: skip
    free = {name: x.detach().clone().requires_grad_() for name, x in leaves.items()}
    mdat.zero_grad()
    plain(smoothed, "log_p").backward()
    for name, parameter in mdat.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad, rtol=1e-9, atol=1e-12)
    free = {name: x.detach().clone().requires_grad_() for name, x in leaves.items()}
    plain(aims[target], "features_log_p").backward()
    factor = reversal_strength(0.6, mdat.lambda_max) * (1 if target == "uniform" else -1)
    for name, x in leaves.items():
        slope = free[name].grad
        assert slope is not None
        torch.testing.assert_close(x.grad, factor * slope, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("target", get_args(FeatureTarget))
def test_what_a_discriminator_knows_of_the_class_alone_moves_no_feature(target: FeatureTarget):
    """One that tells classes and no domains: reversed, all of log p(m, k) would take the class from the features."""
    mdat, given = mdat_of(target=target, condition="class"), case([0, 1, 2, 1])
    for discriminator in mdat.discriminators.values():
        last = [layer for layer in discriminator.modules() if isinstance(layer, torch.nn.Conv2d)][-1]
        with torch.no_grad():  # outputs of domain m and class k, 3·2: those of the first domain for all
            last.weight.copy_(last.weight[:2].repeat(3, 1, 1, 1))
            assert last.bias is not None
            last.bias.copy_(last.bias[:2].repeat(3))
    leaves = {name: x.requires_grad_() for name, x in given.stages.items()}
    loss_of(mdat, given).backward()
    assert all(x.grad is not None and x.grad.abs().max() < 1e-12 for x in leaves.values())
    assert all(parameter.grad is not None for parameter in mdat.parameters())


def test_answers_within_a_class_agree_with_their_formula():
    logits, share = torch.randn(2, 3 * 2, 4, 5, dtype=torch.float64), torch.rand(2, 2, 4, 5, dtype=torch.float64)
    within = class_conditional(logits, share)[2]
    for m in range(3):
        expected = sum(
            share[:, k] * (logits[:, 2 * m + k].exp() / sum(logits[:, 2 * d + k].exp() for d in range(3))).log()
            for k in range(2)
        )
        torch.testing.assert_close(within[:, m], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("condition", get_args(Condition))
@pytest.mark.parametrize("certainty", [False, True])
def test_conditional_discriminators_agree_with_their_formula(condition: Condition, certainty: bool):
    mdat, given = mdat_of(condition=condition, certainty=certainty), case([0, 1, 2, 2, 1])
    loss = 0.0
    for s, (name, size) in enumerate(zip(CHANNELS, ((4, 6), (2, 3)), strict=True)):
        at_features = reference.class_probabilities(given.logits.tolist(), *SIZES[name])
        at_cells = reference.class_probabilities(given.logits.tolist(), *size)
        seen = given.stages[name]
        if condition == "outer":
            share = torch.tensor(at_features, dtype=torch.float64)
            products = [seen[:, f] * share[:, k] for f in range(seen.shape[1]) for k in range(2)]
            seen = torch.stack(products, dim=1)
        kept = reference.kept_locations(given.label.tolist(), *size, mdat.mask_anomalies)
        logits = mdat.discriminators[name](seen).tolist()
        loss += mdat.weights[s] * reference.conditional_mdat(
            logits,
            given.domain.tolist(),
            kept,
            at_cells,
            by_class=condition == "class",
            epsilon=0.2,
            weigh=certainty,
        )
    assert loss_of(mdat, given).item() == pytest.approx(loss, abs=1e-12)


@pytest.mark.parametrize("reach", [None, 0, 5, 9, 40])
@pytest.mark.parametrize("unlabelled", [None, [False, True, True], [False, False, False]])
def test_masks_agree_with_their_definition(unlabelled: list[bool] | None, reach: int | None):
    """Also of images without labels onto which pixels with a class were laid, and of a labelled one that shows none."""
    given = case([0, 1, 2])
    given.unlabelled = None if unlabelled is None else torch.tensor(unlabelled)
    sizes = ((4, 6), (2, 3))
    for size, found in zip(
        sizes, cell_masks(given.batch, sizes, mask_anomalies=True, reach_px=[reach] * 2), strict=True
    ):
        expected = reference.cell_masks(given.label.tolist(), *size, reach_px=reach, unlabelled=unlabelled)
        assert [each.tolist() for each in found] == list(expected)
        assert found.near.any() and found.far.any()


def signals_of(mdat: MDAT, near: Any, far: Any) -> dict[str, float]:
    """The signals of a step with so many hits of so many locations, (hits, locations) by domain, at both stages."""
    (near_hits, num_near), (far_hits, num_far) = (
        torch.tensor([per_domain] * 2, dtype=torch.float64).unbind(dim=2) for per_domain in (near, far)
    )
    hits, locations = near_hits + far_hits, num_near + num_far
    counted = {"mdat/cells": 2 * locations, "mdat/locations": locations, "mdat/near": num_near, "mdat/far": num_far}
    totals = {"mdat/hits": hits, "mdat/near_hits": near_hits, "mdat/far_hits": far_hits, "mdat/epsilon": 0 * hits}
    return {name: value.item() for name, value in mdat.signals(totals, StepCounts(counted, 1, Collectives())).items()}


def test_near_and_far_compare_the_same_domains():
    """A discriminator that is as good near to objects as far from them leaks nothing, whichever domains show some."""
    mdat, nothing = mdat_of(), (0, 0)
    found = signals_of(mdat, near=[(8, 8), (0, 4), nothing], far=[(6, 6), (0, 9), (5, 5)])
    assert found["mdat/middle/near_objects"] == found["mdat/middle/far_from_objects"] == 0.5
    found = signals_of(mdat, near=[(8, 8), nothing, nothing], far=[(3, 6), (0, 9), (5, 5)])
    assert (found["mdat/last/near_objects"], found["mdat/last/far_from_objects"]) == (1.0, 0.5)
    assert found["mdat/last/domain/1"] == 0.0, "the accuracy in each domain is that of all its cells"
    found = signals_of(mdat, near=[(8, 8), nothing, nothing], far=[nothing, (0, 9), (5, 5)])
    assert all(math.isnan(found[f"mdat/last/{name}"]) for name in ("near_objects", "far_from_objects"))


@pytest.mark.parametrize("reach", [None, 5])
def test_the_aligned_share_is_that_of_all_cells_of_a_step(reach: int | None):
    """Over micro-batches, too: sums over sums, in each domain and over all; NaN of a domain without an image."""
    whole = case([0, 0, 2, 0])
    mdat = mdat_of(reach_px=None if reach is None else [reach] * 2)
    first, second = (Case({}, whole.domain[part], whole.label[part], whole.logits) for part in (slice(1), slice(1, 4)))
    parts = [mdat.counts(part.batch, SIZES) for part in (first, second)]
    counts = StepCounts({name: parts[0][name] + parts[1][name] for name in parts[0]}, 2, Collectives())
    hits = torch.zeros(2, 3, dtype=torch.float64)
    totals = {f"mdat/{name}": hits for name in ("hits", "near_hits", "far_hits", "epsilon")}
    found = mdat.signals(totals, counts)
    for stage, size in zip(CHANNELS, ((4, 6), (2, 3)), strict=True):
        aligned = torch.tensor(reference.cell_masks(whole.label.tolist(), *size, reach_px=reach)[0]).double()
        assert found[f"mdat/{stage}/aligned_share"].item() == pytest.approx(aligned.mean().item(), abs=1e-12)
        for d, name in enumerate(mdat.domain_names):
            share = aligned[whole.domain == d].mean().item()
            assert found[f"mdat/{stage}/aligned/{name}"].item() == pytest.approx(share, abs=1e-12, nan_ok=True)
    assert 0 < found["mdat/middle/aligned_share"].item() < 1 and found["mdat/middle/aligned/1"].isnan()


def test_the_measured_reach_is_that_of_the_layers():
    def blur(width: int, stride: int = 1) -> torch.nn.Conv2d:
        layer = torch.nn.Conv2d(3, 1, width, stride=stride, padding=width // 2, bias=False)
        torch.nn.init.ones_(layer.weight)
        return layer

    assert reach_px(blur(1), 64, 96) == 0
    # 17 pixels square, each with the same gradient: 90 % of 289 lie within 8 of the middle (7 give 225), not rounded.
    assert reach_px(blur(17), 64, 96) == 8
    assert reach_px(blur(25), 64, 96, coverage=0.5) == 12, "8² of 12²: 17² = 289 < 312 ≤ 19², that is 9, rounded up"
    far = torch.nn.Sequential(blur(3, 2), torch.nn.Conv2d(1, 1, 3, stride=2, padding=1))
    assert reach_px(far, 64, 96) == 4


def test_discriminators_get_the_gradient_itself():
    mdat, given = mdat_of(), case([0, 1, 2])
    weight = mdat.discriminators["last"].layers[4].weight  # pyright: ignore[reportIndexIssue, reportAttributeAccessIssue]
    loss_of(mdat, given).backward()
    with torch.no_grad():
        values = []
        for step in (1e-5, -2e-5):
            weight[1, 2] += step
            values.append(loss_of(mdat, given).item())
    assert weight.grad[1, 2].item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6)


def test_without_any_location_the_loss_is_zero_and_touches_everything():
    mdat, given = mdat_of("adaptive_sample"), case([0, 1])
    given.label[:] = ANOMALY
    before = mdat.accuracy.clone()
    loss = loss_of(mdat, given)
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad is not None and not p.grad.any() for p in mdat.parameters())
    term, counts = term_of(mdat, given)
    mdat.update(term.sums, counts)
    assert torch.equal(mdat.accuracy, before)


def test_what_is_aligned():
    def aligned(*labels: int, unlabelled: bool | None = None) -> list[bool]:
        told = None if unlabelled is None else torch.tensor([unlabelled])
        batch = Batch(
            torch.empty(0), torch.tensor([[labels]]), torch.tensor([0]), torch.tensor([0]), 0, unlabelled=told
        )
        return alignable(batch).flatten().tolist()

    assert aligned(0, 2, INLIER) == [True, True, True]
    assert aligned(0, ANOMALY, VOID) == [True, False, False]
    assert aligned(VOID, VOID) == [True, True], "an unlabelled image is aligned whole"
    assert aligned(VOID, ANOMALY) == [True, False], "an unlabelled image with a pasted anomaly: all but the anomaly"
    mixed = aligned(VOID, ANOMALY, 0, INLIER, unlabelled=True)
    assert mixed == [True, False, False, False], "what was laid over an unlabelled image shows another domain"
    assert aligned(VOID, VOID, unlabelled=False) == [False, False], "a labelled image whose labels say nothing"


@pytest.mark.parametrize("height", range(1, 10))
def test_output_size_of_a_discriminator(height: int):
    size = PatchDiscriminator.output_size(height, height + 3)
    assert PatchDiscriminator(2, 3, 4)(torch.zeros(1, 2, height, height + 3)).shape == (1, 3, *size)


def test_bf16_features_give_a_loss_in_full_precision_near_the_exact_one():
    mdat, given = mdat_of("adaptive_stage"), case([0, 1, 2, 2])
    exact = loss_of(mdat, given).item()
    stages = {name: x.bfloat16() for name, x in given.stages.items()}
    rounded = Case(stages, given.domain, given.label, given.logits.bfloat16())
    loss = loss_of(mdat.bfloat16(), rounded)
    assert loss.dtype in (torch.float32, torch.float64)
    assert loss.item() == pytest.approx(exact, rel=0.05)  # three layers at 2^-8 each, logits of a few units
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in mdat.parameters())


def test_the_running_accuracy_moves_in_a_bf16_model():
    # In bf16 a step of 0.05 · (0.78 - 0.75) is lost in rounding, and A_s would stand still for good.
    mdat = mdat_of().bfloat16()
    assert mdat.accuracy.tolist() == pytest.approx([0.7, 0.4], abs=1e-6), "not rounded by the cast either"
    counts = StepCounts({"mdat/locations": torch.full((2, 3), 100.0)}, 1, Collectives())
    for _ in range(400):
        mdat.update({"mdat/hits": torch.full((2, 3), 78.0)}, counts)
    assert mdat.accuracy.tolist() == pytest.approx([0.78, 0.78], abs=1e-4)


def test_one_domain_is_refused():
    with pytest.raises(ValueError, match="at least two domains"):
        MDAT(CHANNELS, 1)


def test_many_locations_are_counted_exactly(monkeypatch: pytest.MonkeyPatch):
    mdat, batch = mdat_of(), Batch(torch.empty(0), torch.empty(0), torch.tensor([1, 1]), torch.arange(2), step=0)
    cells = torch.ones(2, 1, dtype=torch.bool).expand(2, 2**25).unsqueeze(1)
    monkeypatch.setattr(mdat, "masks", lambda label, sizes: [CellMasks(cells, cells, cells)])
    assert mdat.counts(batch, SIZES)["mdat/locations"][0].tolist() == [0.0, float(2**26), 0.0]

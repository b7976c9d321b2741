"""Losses of other methods against loops over pixels in float64, and laws that each of them keeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mgcda_dist.method.batch import ANOMALY, INLIER, VOID, Prediction
from mgcda_dist.method.terms import LossContext, weight_at
from mgcda_dist.models.external_loss import try_loss
from mgcda_dist.models.scores import scorer
from mgcda_dist.models.segmentation_loss import OutlierLoss, SegmentationLoss, columns_of
from mgcda_dist.plugins.densehybrid import DenseHybridLoss, DenseHybridScore
from mgcda_dist.plugins.meta_ood import MetaOodLoss
from mgcda_dist.plugins.pebal import PebalLoss
from mgcda_dist.plugins.rpl import ResidualBlock, RplLoss, RplScore
from mgcda_dist.plugins.uem import UemLoss, UemScore
from mgcda_dist.plugins.ulre import UlreLoss, UlreScore

CLASSES, HEIGHT, WIDTH = 3, 9, 11
PROGRESS = 0.4
LOSSES: dict[str, tuple[Callable[[], OutlierLoss], dict[str, int]]] = {
    "meta_ood": (MetaOodLoss, {}),
    "densehybrid": (DenseHybridLoss, {"unknown": 2}),
    "uem": (UemLoss, {"unknown": 2}),
    "ulre": (UlreLoss, {"unknown": 2}),
    "pebal": (lambda: PebalLoss(-1.5, -0.5), {"abstention": 1}),
    "rpl": (RplLoss, {"residual": CLASSES}),
}


def _label(case: str) -> Tensor:
    random = np.random.default_rng(3)
    label = random.choice([0, 1, 2, INLIER, ANOMALY, VOID], (3, HEIGHT, WIDTH), p=[0.3, 0.2, 0.1, 0.1, 0.2, 0.1])
    label[2] = np.where(label[2] == ANOMALY, 0, label[2])  # an image without anomalies
    if case == "no anomaly":
        label = np.where(label == ANOMALY, 1, label)
    elif case == "no inlier":
        label = np.where(label < CLASSES, INLIER, label)
    elif case == "void":
        label[:] = VOID
    return torch.from_numpy(label)


def _prediction(extra: Mapping[str, int], dtype: torch.dtype = torch.float64) -> Prediction:
    random = torch.Generator().manual_seed(5)

    def maps(channels: int) -> Tensor:
        return (2 * torch.randn(3, channels, HEIGHT, WIDTH, generator=random, dtype=torch.float64)).to(dtype)

    logits = maps(CLASSES)
    return Prediction(logits, {}, logits, {name: maps(channels) for name, channels in extra.items()})


def _value(loss: OutlierLoss, prediction: Prediction, label: Tensor) -> Tensor:
    """The loss of one process: its terms over their counts, as the method adds them up."""
    whole = SegmentationLoss(loss, CLASSES)
    context = LossContext(0, PROGRESS, torch.arange(len(label)))
    sums, counts, total = whole(prediction, label, context), whole.counts(label), torch.zeros(())
    for name, weight in whole.weights.items():
        number = weight(PROGRESS) if callable(weight) else weight
        total = total + number * sums[name] / counts[name].clamp(min=1)
    return total


# ------------------------------------------------------------------------------------------------ loops over pixels


def _softmax(x: list[float]) -> list[float]:
    exps = [math.exp(each - max(x)) for each in x]
    return [each / sum(exps) for each in exps]


def _lse(x: list[float]) -> float:
    return max(x) + math.log(sum(math.exp(each - max(x)) for each in x))


def _pixels(prediction: Prediction, label: Tensor) -> list[dict[str, Any]]:
    found = []
    for n, i, j in np.ndindex(*label.shape):
        extra = {name: x[n, :, i, j].tolist() for name, x in prediction.extra.items()}
        found.append({"L": prediction.logits[n, :, i, j].tolist(), "y": int(label[n, i, j]), "at": (n, i, j), **extra})
    return found


def _mean(values: list[float]) -> float:
    return sum(values) / max(1, len(values))


def _cross_entropy(pixels: list[dict[str, Any]]) -> float:
    return _mean([-math.log(_softmax(p["L"])[p["y"]]) for p in pixels if p["y"] < CLASSES])


def _meta_ood(pixels: list[dict[str, Any]], label: Tensor) -> float:
    parts = []
    for p in pixels:
        if p["y"] < CLASSES:
            parts.append(0.1 * -math.log(_softmax(p["L"])[p["y"]]))
        elif p["y"] == ANOMALY:
            parts.append(0.9 * _mean([-math.log(q) for q in _softmax(p["L"])]))
    return _mean(parts)


def _densehybrid(pixels: list[dict[str, Any]], label: Tensor) -> float:
    level = _mean([_lse(p["L"]) for p in pixels if p["y"] == ANOMALY])
    judged = [p for p in pixels if p["y"] < CLASSES or p["y"] == ANOMALY]
    posterior = _mean([-math.log(_softmax(p["unknown"])[int(p["y"] == ANOMALY)]) for p in judged])
    return _cross_entropy(pixels) + 0.03 * level + 0.3 * posterior


def _uem(pixels: list[dict[str, Any]], label: Tensor) -> float:
    parts = []
    for p in pixels:
        if p["y"] < CLASSES or p["y"] == ANOMALY:
            ratio = p["unknown"][1] - p["unknown"][0] - max(p["L"])
            probability = 1 / (1 + math.exp(-ratio))
            parts.append(-math.log(probability if p["y"] == ANOMALY else 1 - probability))
    return _cross_entropy(pixels) + _mean(parts)


def _ulre(pixels: list[dict[str, Any]], label: Tensor) -> float:
    """With Γ and its derivative: the divergence as the Dirichlet distribution has it."""
    parts = []
    for p in pixels:
        if p["y"] < CLASSES or p["y"] == ANOMALY:
            alpha, own = [1 + math.exp(z) for z in p["unknown"]], int(p["y"] == ANOMALY)
            kept = [1.0, alpha[1 - own]]
            kl = math.lgamma(sum(kept)) - sum(math.lgamma(a) for a in kept) - math.lgamma(2)
            digamma = torch.special.digamma(torch.tensor([*kept, sum(kept)], dtype=torch.float64)).tolist()
            kl += sum((a - 1) * (digamma[k] - digamma[2]) for k, a in enumerate(kept))
            parts.append(math.log(sum(alpha)) - math.log(alpha[own]) + PROGRESS * kl)
    return _cross_entropy(pixels) + _mean(parts)


def _pebal(pixels: list[dict[str, Any]], label: Tensor) -> float:
    energy = np.zeros(label.shape)
    for p in pixels:
        energy[p["at"]] = -_lse(p["L"])
    padded = np.pad(energy**2, ((0, 0), (3, 3), (3, 3)), mode="edge")
    kernel = np.exp(-0.5 * np.arange(-3, 4) ** 2)
    kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
    mixed = {n for n in range(len(label)) if bool((label[n] == ANOMALY).any())}
    clean_terms, mixed_terms, abstained, under, over = [], [], [], [], []
    for p in pixels:
        n, i, j = p["at"]
        reward = float((padded[n, i : i + 7, j : j + 7] * kernel).sum())
        q = _softmax([*p["L"], *p["abstention"]])
        if p["y"] < CLASSES:
            (mixed_terms if n in mixed else clean_terms).append(-math.log(q[p["y"]] + q[-1] / reward))
            over.append(max(0.0, energy[p["at"]] + 1.5) ** 2)
        elif p["y"] == ANOMALY:
            abstained.append(_mean([-math.log(max(each + q[-1] / reward, 1e-7)) for each in q[:-1]]))
            under.append(max(0.0, -0.5 - energy[p["at"]]) ** 2)
    norms = [math.sqrt(float((energy[n][label[n].numpy() == ANOMALY] ** 2).sum())) for n in range(len(label))]
    rough = 0.5 * float((np.diff(energy, axis=1) ** 2).sum() + (np.diff(energy, axis=2) ** 2).sum()) / len(label)
    hinges = 0.5 * _mean(over) + 0.5 * _mean(under) + 5e-4 * _mean(norms) + 3e-6 * rough
    return _mean(clean_terms) + _mean(mixed_terms) + 0.1 * _mean(abstained) + 0.1 * hinges


def _rpl(pixels: list[dict[str, Any]], label: Tensor) -> float:
    agreement, entropy, level = [], [], []
    for p in pixels:
        z = [a + b for a, b in zip(p["L"], p["residual"], strict=True)]
        if p["y"] == ANOMALY:
            level.append(max(0.0, _lse(z)))
        elif p["y"] != VOID:
            agreement.append(-math.log(_softmax(z)[p["L"].index(max(p["L"]))]))
            of_z, of_v = (-sum(q * math.log(q) for q in _softmax(x)) for x in (z, p["L"]))
            entropy.append((of_z - of_v) ** 2)
    return _cross_entropy(pixels) + _mean(agreement) + _mean(entropy) + 0.05 * _mean(level)


_CLASSIFY = {"": ("classification", "mixed"), "rpl": ("agreement", "entropy")}
"""Terms that say which class a pixel is of, or how sure; `""`: of most losses."""

LOOPS = {
    "meta_ood": _meta_ood,
    "densehybrid": _densehybrid,
    "uem": _uem,
    "ulre": _ulre,
    "pebal": _pebal,
    "rpl": _rpl,
}


@pytest.mark.parametrize("case", ["all", "no anomaly", "no inlier", "void"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_what_its_formula_says(name: str, case: str) -> None:
    make, extra = LOSSES[name]
    label, prediction = _label(case), _prediction(extra)
    expected = LOOPS[name](_pixels(prediction, label), label)
    torch.testing.assert_close(float(_value(make(), prediction, label)), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_passes_the_checks_of_a_users_own(name: str) -> None:
    make, extra = LOSSES[name]
    given = {key: torch.zeros(1, number, 4, 6) for key, number in extra.items() if key not in columns_of(make())}
    try_loss(make(), CLASSES, {"embedding": 5}, "pixel", given)


@pytest.mark.parametrize("case", ["all", "no anomaly", "no inlier", "void"])
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_finite_and_reach_what_a_loss_reads(name: str, case: str) -> None:
    make, extra = LOSSES[name]
    found = _prediction(extra, torch.float32)
    inputs = [found.logits.requires_grad_(), *(x.requires_grad_() for x in found.extra.values())]
    gradients = torch.autograd.grad(_value(make(), found, _label(case)), inputs)
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert case != "all" or all(bool(gradient.any()) for gradient in gradients)


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_void_or_of_unknown_class_takes_no_part(name: str) -> None:
    """But for PEBAL, whose blur and smoothness see every pixel, and RPL, which has no need of a class."""
    make, extra = LOSSES[name]
    label, found = _label("all"), _prediction(extra)
    ignored = (label == VOID) | (label == INLIER)
    inputs = [found.logits.requires_grad_(), *(x.requires_grad_() for x in found.extra.values())]
    gradients = torch.autograd.grad(_value(make(), found, label), inputs)
    touched = any(bool(gradient.movedim(1, -1)[ignored].any()) for gradient in gradients)
    assert touched == (name in ("pebal", "rpl"))
    assert not any(bool(gradient.movedim(1, -1)[label == VOID].any()) for gradient in gradients) or name == "pebal"


SCORES = {
    "densehybrid": (DenseHybridScore, lambda p: -_lse(p["L"]) + math.log(_softmax(p["unknown"])[1])),
    "uem": (UemScore, lambda p: p["unknown"][1] - p["unknown"][0] - max(p["L"])),
    "ulre": (
        UlreScore,
        lambda p: (1 + math.exp(p["unknown"][1])) / (2 + math.exp(p["unknown"][0]) + math.exp(p["unknown"][1])),
    ),
    "rpl": (RplScore, lambda p: -_lse([a + b for a, b in zip(p["L"], p["residual"], strict=True)])),
}


@pytest.mark.parametrize("name", SCORES)
def test_a_score_is_what_its_formula_says(name: str) -> None:
    score, formula = SCORES[name]
    prediction = _prediction(LOSSES[name][1])
    found = score()(prediction)
    expected = torch.tensor([formula(p) for p in _pixels(prediction, _label("all"))], dtype=torch.float64)
    torch.testing.assert_close(found, expected.view(found.shape), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_raising_anomalies_and_lowering_inliers_never_raises_the_loss(name: str) -> None:
    """Along the score's own gradient, up on anomalies and down on inliers; terms that classify have no such sign."""
    make, extra = LOSSES[name]
    loss, label, found = make(), _label("all"), _prediction(extra)
    inputs = [found.logits.requires_grad_(), *(x.requires_grad_() for x in found.extra.values())]
    score = SCORES[name][0]() if name in SCORES else scorer("entropy" if name == "meta_ood" else "energy")
    side = (label == ANOMALY).double() - (label < CLASSES).double()
    wanted = torch.autograd.grad((score(found) * side).sum(), inputs, allow_unused=True)
    loss.terms = {key: term for key, term in loss.terms.items() if key not in _CLASSIFY.get(name, _CLASSIFY[""])}  # type: ignore[misc]
    sums = loss(found, label, LossContext(0, PROGRESS, torch.arange(len(label))))
    total = torch.stack([weight_at(term.weight, PROGRESS) * sums[key] for key, term in loss.terms.items()]).sum()
    gradients = torch.autograd.grad(total, inputs, allow_unused=True)
    pairs = [(g, w) for g, w in zip(gradients, wanted, strict=True) if g is not None and w is not None]
    assert pairs and sum(float((g * w).sum()) for g, w in pairs) < 0


def test_the_residual_begins_with_the_scores_of_the_network_and_leaves_it_alone() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block, stage = ResidualBlock(5, CLASSES, width=8, rates=[1, 2]), torch.randn(3, 5, HEIGHT, WIDTH)
    found = _prediction({}, torch.float32)
    residual = block(stage)
    assert residual.shape == found.logits.shape and not residual.any()
    assert torch.equal(block(stage[:1]), residual[:1]), "an image's own"
    logits = found.logits.requires_grad_()
    sums = RplLoss()(found._replace(extra={"residual": residual}), _label("all"), LossContext(0, 0.0, torch.arange(3)))
    torch.stack(list(sums.values())).sum().backward()
    assert logits.grad is None and block.last.weight.grad is not None and bool(block.last.weight.grad.any())

"""The set loss against transformers' own on the same points, and its laws; methods that are built on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mgcda_dist.errors import ConfigError
from mgcda_dist.method.batch import ANOMALY, INLIER, VOID, Prediction
from mgcda_dist.method.terms import LossContext, weight_at
from mgcda_dist.models.external_loss import external_loss, try_loss
from mgcda_dist.models.segmentation_loss import SegmentationLoss
from mgcda_dist.plugins.mask_methods import (
    EamScore,
    Mask2AnomalyLoss,
    Mask2AnomalyScore,
    RbaLoss,
    RbaScore,
    UnoLoss,
    UnoScore,
)
from mgcda_dist.plugins.masks import class_scores, queries
from mgcda_dist.plugins.set_loss import SetLoss, matched_queries, sampled

CLASSES, QUERIES, POINTS, IMAGES = 4, 7, 40, 3
HEIGHT, WIDTH = 16, 24
AUX = 2


def _label(case: str = "all") -> Tensor:
    random = np.random.default_rng(1)
    cells = random.choice([0, 1, 2, 3, INLIER, ANOMALY, VOID], (IMAGES, HEIGHT // 4, WIDTH // 4))
    cells[2] = np.where(cells[2] == ANOMALY, 0, cells[2])
    if case == "void":
        cells[:] = VOID
    if case == "no anomaly":
        cells = np.where(cells == ANOMALY, VOID, cells)
    if case == "no inlier":
        cells = np.where(cells < CLASSES, INLIER, cells)
    return torch.from_numpy(np.kron(cells, np.ones((1, 4, 4), np.int64)))


def _prediction(columns: int = 0, dtype: torch.dtype = torch.float64) -> Prediction:
    random = torch.Generator().manual_seed(2)

    def made(*size: int) -> Tensor:
        return (1.5 * torch.randn(IMAGES, *size, generator=random, dtype=torch.float64)).to(dtype)

    extra: dict[str, Tensor] = {}
    for layer in ("mask", *(f"aux/{i}" for i in range(AUX))):
        extra[f"{layer}/classes"] = made(QUERIES, CLASSES + columns + 1)
        extra[f"{layer}/masks"] = made(QUERIES, HEIGHT // 4, WIDTH // 4)
    logits = torch.log(class_scores(queries(extra), CLASSES) + 1e-6)
    if columns:
        extra["negative"] = made(columns, HEIGHT // 4, WIDTH // 4)
    return Prediction(logits, {}, logits, extra)


def _context(slots: Tensor | None = None) -> LossContext:
    return LossContext(3, 0.5, torch.arange(IMAGES) if slots is None else slots, seed=5)


def _total(loss: Any, prediction: Prediction, label: Tensor) -> Tensor:
    whole = SegmentationLoss(loss, CLASSES)
    sums, counts = whole(prediction, label, _context()), whole.counts(label)
    parts = [weight_at(w, 0.5) * sums[name] / counts[name].clamp(min=1) for name, w in whole.weights.items()]
    return torch.stack(parts).sum()


def test_it_equals_transformers_on_the_same_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their draws are replaced by ours: per layer points of every image, then candidates and rest of all pairs."""
    library = pytest.importorskip("transformers")
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

    config = library.Mask2FormerConfig(num_labels=CLASSES, num_queries=QUERIES, train_num_points=POINTS)
    theirs = Mask2FormerLoss(config, {}).double()
    theirs.empty_weight[-1] = 0.1  # not its nearest float32
    label, prediction, context = _label(), _prediction(), _context()
    kinds = [[k for k in range(CLASSES) if bool((label[n] == k).any())] for n in range(IMAGES)]
    mask_labels = [torch.stack([(label[n] == k).double() for k in kinds[n]]) for n in range(IMAGES)]
    class_labels = [torch.tensor(each) for each in kinds]
    draws: list[Tensor] = []
    names = {"last": "mask"} | {f"aux/{i}": f"aux/{i}" for i in range(AUX)}
    expected = {"classification": 0.0, "mask": 0.0, "dice": 0.0}
    monkeypatch.setattr(torch, "rand", lambda *size, **_: draws.pop(0).view(*size))
    for layer, name in names.items():
        points = context.uniform(f"matching/{layer}", POINTS, 2)
        draws += [points[n : n + 1] for n in range(IMAGES)]
        matched = theirs.matcher
        masks, classes = prediction.extra[f"{name}/masks"], prediction.extra[f"{name}/classes"]
        indices = matched(masks, classes, mask_labels, class_labels)
        pairs = [(n, kinds[n][int(j)]) for n, (_, order) in enumerate(indices) for j in order]
        for purpose, number in (("candidates", 3 * POINTS), ("random", POINTS - int(0.75 * POINTS))):
            drawn = context.uniform(f"{purpose}/{layer}", CLASSES, number, 2)
            draws.append(torch.stack([drawn[n, k] for n, k in pairs]))
        draws = [points[n : n + 1] for n in range(IMAGES)] + draws
        found = theirs(masks, classes, mask_labels, class_labels)
        assert not draws
        expected["classification"] += float(found["loss_cross_entropy"])
        expected["mask"] += float(found["loss_mask"])
        expected["dice"] += float(found["loss_dice"])
    monkeypatch.undo()
    loss = SetLoss(QUERIES, POINTS)
    sums, counts = loss(prediction, label, context), loss.counts(label)
    ours = {name: float(sums[name] / counts[term.over]) for name, term in loss.terms.items()}
    assert int(counts["set_masks"]) == sum(len(each) for each in kinds)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


METHODS: dict[str, tuple[Callable[..., Any], int, Any]] = {
    "set_loss": (SetLoss, 0, EamScore),
    "ignore": (lambda *given: SetLoss(*given, void="ignore"), 0, EamScore),
    "uno": (lambda *given: UnoLoss(num_queries=given[0], num_points=given[1]), 1, UnoScore),
    "rba": (lambda *given: RbaLoss(num_queries=given[0], num_points=given[1]), 0, RbaScore),
    "mask2anomaly": (lambda *given: Mask2AnomalyLoss(num_queries=given[0], num_points=given[1]), 0, Mask2AnomalyScore),
}


@pytest.mark.parametrize("name", METHODS)
def test_images_add_up_in_any_order(name: str) -> None:
    """The sums of a batch are those of its images one at a time: nothing depends on who is beside whom."""
    make, columns, _ = METHODS[name]
    loss, label, whole = make(QUERIES, POINTS), _label(), _prediction(columns)
    together, apart = loss(whole, label, _context()), dict.fromkeys(loss.terms, 0.0)
    for n in (2, 0, 1):
        part = slice(n, n + 1)
        extra = {key: x[part] for key, x in whole.extra.items()}
        found = loss(
            Prediction(whole.logits[part], {}, whole.logits[part], extra), label[part], _context(torch.tensor([n]))
        )
        apart = {key: value + float(found[key]) for key, value in apart.items()}
    torch.testing.assert_close({key: float(x) for key, x in together.items()}, apart, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", ["all", "void", "no anomaly", "no inlier"])
@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_finite_and_reach_masks_and_classes(name: str, case: str) -> None:
    make, columns, _ = METHODS[name]
    found = _prediction(columns, torch.float32)
    inputs = {key: x.requires_grad_() for key, x in found.extra.items() if key != "negative"}
    gradients = torch.autograd.grad(_total(make(QUERIES, POINTS), found, _label(case)), [*inputs.values()])
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert case != "all" or all(bool(gradient.any()) for gradient in gradients)


@pytest.mark.parametrize("name", METHODS)
def test_it_passes_the_checks_of_a_users_own(name: str) -> None:
    make, columns, _ = METHODS[name]
    given = {key: x[:1] for key, x in _prediction(columns, torch.float32).extra.items()}
    extra = {key: x for key, x in given.items() if key.startswith("mask/")}
    try_loss(make(QUERIES, POINTS), CLASSES, {"embedding": 5}, "mask", extra)
    with pytest.raises(ConfigError, match="needs logits of kind 'mask'"):
        try_loss(make(QUERIES, POINTS), CLASSES, {"embedding": 5}, "pixel", extra)


@pytest.mark.parametrize("arguments", [{"num_querys": 7}, {"void": "ignored"}, {"num_points": 8, "anomalies": True}])
def test_an_argument_that_is_wrong_is_refused_although_a_class_hands_it_on(arguments: dict[str, Any]) -> None:
    for name in ("RbaLoss", "UnoLoss", "Mask2AnomalyLoss"):
        with pytest.raises(ConfigError, match=r"loss\.arguments"):
            external_loss(f"python:mgcda_dist.plugins.mask_methods:{name}", arguments)


def test_another_number_of_queries_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"the network has 7 queries of 5 columns, not num_queries=9 and 5 columns"):
        SetLoss(9, POINTS)(_prediction(), _label(), _context())


def test_matching_is_of_minimal_cost_and_leaves_absent_classes_out() -> None:
    cost = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(3))
    present = torch.tensor([[True, True, True], [False, True, True]])
    (found,) = matched_queries({"last": cost}, present).values()
    rows, order = linear_sum_assignment(cost[0].numpy())
    assert [int(found[0, k]) for k in order] == list(rows)
    assert int(found[1, 0]) == -1 and len({int(q) for q in found[1, 1:]}) == 2


def test_points_are_bilinear_between_centres_of_cells() -> None:
    maps = torch.arange(6.0).view(1, 1, 2, 3)
    points = torch.tensor([[[1 / 6, 1 / 4], [1 / 2, 3 / 4], [1 / 3, 1 / 2]]])
    torch.testing.assert_close(sampled(maps, points)[0, 0], torch.tensor([0.0, 4.0, 2.0]))


def test_void_has_no_part_in_the_masks_if_it_is_ignored() -> None:
    """Moving a mask where the label is void changes nothing, unless void is background."""
    label = _label()
    label[:, :, : WIDTH // 2] = VOID
    for void, moves in (("ignore", False), ("background", True)):
        values = []
        for shift in (0.0, 4.0):
            prediction = _prediction()
            # Two cells from the border: points between two cells read both.
            masks = prediction.extra["mask/masks"].clone()
            masks[..., : WIDTH // 8 - 1] += shift
            extra = {"mask/classes": prediction.extra["mask/classes"], "mask/masks": masks}
            loss = SetLoss(QUERIES, POINTS, void)  # type: ignore[arg-type]
            cost = loss._cost("last", queries(extra), *loss._targets(label, CLASSES), _context())
            values.append(cost)
        assert torch.equal(values[0], values[1]) != moves


@pytest.mark.parametrize("name", ["uno", "rba", "mask2anomaly"])
def test_scores_are_what_their_formulas_say(name: str) -> None:
    _, columns, score = METHODS[name]
    prediction = _prediction(columns)
    p, s = prediction.extra["mask/classes"].softmax(dim=2), prediction.extra["mask/masks"].sigmoid()
    found = score()(prediction)
    for n, i, j in [(0, 0, 0), (1, 2, 3), (2, 3, 5)]:
        of_class = [sum(float(p[n, q, k] * s[n, q, i, j]) for q in range(QUERIES)) for k in range(CLASSES)]
        lead = [float(s[n, q, i, j] * (p[n, q, :CLASSES].max() - p[n, q, CLASSES])) for q in range(QUERIES)]
        expected = {"rba": -sum(np.tanh(of_class)), "mask2anomaly": 1 - max(of_class), "uno": -sum(lead)}
        torch.testing.assert_close(float(found[n, i, j]), float(expected[name]), rtol=1e-9, atol=1e-12)

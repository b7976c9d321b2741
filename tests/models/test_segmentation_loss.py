"""L_seg: its terms, counts and weights, and batches without pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from mgcda_dist.choices import OUTLIER_LOSSES
from mgcda_dist.errors import ConfigError
from mgcda_dist.method.batch import Prediction
from mgcda_dist.method.terms import LossContext, Term, weight_at
from mgcda_dist.models.outlier_losses import energy_hinge
from mgcda_dist.models.segmentation_loss import OutlierKind, SegmentationLoss, columns_of, segmentation_loss
from mgcda_dist.models.segmenter import split_columns

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(2, 4, 8, 8, generator=GENERATOR)
LABEL = torch.tensor([0, 1, 2, 3, 253, 254, 255])[torch.randint(0, 7, (2, 32, 32), generator=GENERATOR)]


def test_terms_equal_the_plain_losses_at_full_size():
    loss = segmentation_loss("energy_hinge", 4, outlier_weight=0.3, stride_px=1)
    full = F.interpolate(LOGITS, size=(32, 32), mode="bilinear")
    target = torch.where(LABEL < 4, LABEL, -100)
    outlier = energy_hinge(full, LABEL, -8.0, -3.0)
    expected = {
        "classification": F.cross_entropy(full, target, reduction="sum"),
        "outlier_inlier": outlier.inlier_sum,
        "outlier_anomaly": outlier.anomaly_sum,
    }
    torch.testing.assert_close(sums_of(loss, LOGITS, LABEL), expected)
    inlier, anomaly = int((LABEL < 4).sum()), int((LABEL == 254).sum())
    assert numbers(loss.counts(LABEL)) == {
        "classification": inlier, "outlier_inlier": inlier, "outlier_anomaly": anomaly
    }  # fmt: skip
    assert loss.weights == {"classification": 1.0, "outlier_inlier": 0.3, "outlier_anomaly": 0.3}


def sums_of(loss: SegmentationLoss, logits: torch.Tensor, label: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of a classifier's output: what is behind the inlier classes are the loss's columns."""
    logits, extra = split_columns(logits, columns_of(loss.outlier))
    return loss(Prediction(logits, {}, logits, extra), label, LossContext(0, 0.5, torch.arange(len(label))))


def numbers(counts: dict[str, torch.Tensor]) -> dict[str, int]:
    return {name: int(count) for name, count in counts.items()}


def test_class_weights_are_factors_of_the_pixels_of_their_class():
    weights = [1.0, 5.0, 0.5, 2.0]
    plain, weighted = (segmentation_loss("entropy", 4, stride_px=1, class_weights=w) for w in (None, weights))
    log_p = F.interpolate(LOGITS, size=(32, 32), mode="bilinear").log_softmax(1)
    expected = sum(-w * log_p[:, k][k == LABEL].sum() for k, w in enumerate(weights))
    found = sums_of(weighted, LOGITS, LABEL)
    torch.testing.assert_close(found.pop("classification"), expected)
    assert numbers(weighted.counts(LABEL)) == numbers(plain.counts(LABEL))
    assert found == {name: x for name, x in sums_of(plain, LOGITS, LABEL).items() if name != "classification"}


@pytest.mark.parametrize("outlier", get_args(OutlierKind))
def test_inliers_of_unknown_class_have_the_side_that_asks_for_none(outlier: OutlierKind):
    """The sum is that of labelled inliers, whatever their class; other pixels give nothing, not even infinite ones."""
    logits = (LOGITS - 5).requires_grad_()
    loss, inlier = segmentation_loss(outlier, 4, stride_px=1), LABEL[:, :8, :8] < 2
    found = loss.inlier_sum(logits, inlier)
    assert (found > 0) == found.requires_grad == OUTLIER_LOSSES[outlier].any_inlier
    if OUTLIER_LOSSES[outlier].any_inlier:
        (gradient,) = torch.autograd.grad(found, logits)
        for kind in (0, 3):
            torch.testing.assert_close(found, sums_of(loss, logits, torch.where(inlier, kind, 255))["outlier_inlier"])
        assert gradient.any() and not gradient.movedim(1, -1)[~inlier].any()
        broken = torch.where(inlier[:, None], logits.detach(), -torch.inf)
        torch.testing.assert_close(loss.inlier_sum(broken, inlier), found.detach())
    assert loss.inlier_sum(logits, torch.zeros_like(inlier)) == 0


@pytest.mark.parametrize("outlier", get_args(OutlierKind))
@pytest.mark.parametrize("stride_px", [1, 2, 4])
@pytest.mark.parametrize("label", [LABEL, torch.full_like(LABEL, 255)], ids=["mixed", "void"])
def test_any_batch_gives_finite_sums_and_gradients(outlier: OutlierKind, stride_px: int, label: torch.Tensor):
    num_classes = 3 if outlier == "abstention" else 4
    logits = LOGITS.clone().requires_grad_()
    loss = segmentation_loss(outlier, num_classes, stride_px=stride_px)
    sums, counts = sums_of(loss, logits, label), loss.counts(label)
    assert sums.keys() == counts.keys() == loss.weights.keys()
    torch.stack(list(sums.values())).sum().backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
    assert bool(logits.grad.any()) == any(count > 0 for count in counts.values())


def test_odd_sizes():
    counts = segmentation_loss("entropy", 4).counts(torch.zeros(1, 33, 50, dtype=torch.int64))
    assert numbers(counts) == {"classification": 17 * 25, "outlier_inlier": 17 * 25, "outlier_anomaly": 0}
    label = torch.zeros(1, 33, 50, dtype=torch.int64)
    assert sums_of(segmentation_loss("entropy", 4), torch.randn(1, 4, 9, 13), label)["classification"].isfinite()


def test_unknown_term_is_named():
    with pytest.raises(ValueError, match="'focal'"):
        segmentation_loss("focal", 4)  # pyright: ignore[reportArgumentType]


class Margin:
    """A loss of one's own: every kind of denominator, and a weight that rises."""

    terms: Mapping[str, Term] = {
        "both": Term("both", 0.5),
        "inlier": Term("inlier", lambda progress: 2 * progress),
        "anomaly": Term("anomaly"),
        "images": Term("images", 0.0),
    }

    def __call__(self, prediction: Prediction, label: torch.Tensor, context: LossContext) -> dict[str, torch.Tensor]:
        assert prediction.logits.shape[2:] == label.shape[1:] and prediction.logits.dtype == torch.float32
        score = -prediction.logits.amax(dim=1)
        noise = context.uniform("margin", *label.shape[1:])
        return {
            "images": score.mean(dim=(1, 2)).sum(),
            "both": torch.where((label < 4) | (label == 254), score * noise, 0).sum(),
            "inlier": torch.where(label < 4, score, 0).sum(),
            "anomaly": torch.where(label == 254, context.stride_px * score, 0).sum(),
        }


def test_a_loss_of_ones_own_has_its_terms_counts_and_weights():
    loss = segmentation_loss(Margin(), 4, class_weights=[1.0, 2.0, 1.0, 1.0])
    label = LABEL[:, ::2, ::2]
    sums, counts = sums_of(loss, LOGITS.bfloat16(), LABEL), numbers(loss.counts(LABEL))
    inlier, anomaly = int((LABEL[:, 1::2, 1::2] < 4).sum()), int((LABEL[:, 1::2, 1::2] == 254).sum())
    assert counts == {
        "classification": inlier, "both": inlier + anomaly, "inlier": inlier, "anomaly": anomaly, "images": len(label)
    }  # fmt: skip
    assert list(sums) == list(loss.weights) == ["classification", *Margin.terms] and loss.reported == [*Margin.terms]
    assert [weight_at(weight, 0.25) for weight in loss.weights.values()] == [1.0, 0.5, 0.5, 1.0, 0.0]
    assert loss.inlier_sum(LOGITS, LABEL[:, :8, :8] < 4) == 0


def test_a_term_may_take_the_place_of_the_cross_entropy():
    class Focal:
        terms: Mapping[str, Term] = {"extra": Term("images"), "classification": Term("both", 3.0)}

        def __call__(self, prediction, label, context):
            return {"extra": prediction.logits.sum(), "classification": prediction.logits.square().sum()}

    loss = segmentation_loss(Focal(), 4, stride_px=1)
    assert loss.weights == {"classification": 3.0, "extra": 1.0} and loss.reported == ["extra"]
    full = F.interpolate(LOGITS, size=(32, 32), mode="bilinear")
    torch.testing.assert_close(sums_of(loss, LOGITS, LABEL)["classification"], full.square().sum())


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda x: x.sum(), "the loss returned a Tensor"),
        (lambda x: {"a": x.sum()}, "the loss returned no 'b'[\\s\\S]*names of `terms`: a, b"),
        (lambda x: {"a": x.sum(), "b": x.sum(), "c": x.sum()}, "returned 'c', which its `terms` do not declare"),
        (lambda x: {"a": x.sum(), "b": x.sum(dim=1)}, r"returned \(2, 32, 32\) torch.float32 as 'b'"),
        (lambda x: {"a": x.sum(), "b": float(x.sum())}, "returned a float as 'b'"),
        (lambda x: {"a": x.sum(), "b": x.sum().long()}, r"returned \(\) torch.int64 as 'b'"),
    ],
)
def test_a_loss_that_returns_something_else_is_refused_by_name(returned, message: str):
    class Loss:
        terms: Mapping[str, Term] = {"a": Term("inlier"), "b": Term("anomaly")}

        def __call__(self, prediction, label, context):
            return returned(prediction.logits)

    with pytest.raises(ConfigError, match=rf"loss\.outlier: .*{message}"):
        sums_of(segmentation_loss(Loss(), 4, stride_px=1), LOGITS, LABEL)

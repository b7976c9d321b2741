"""A loss of one's own: named, tried on a small example, and refused by name before training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgcda_dist.errors import ConfigError
from mgcda_dist.method.batch import ANOMALY, VOID, Prediction
from mgcda_dist.method.terms import LossContext, Term
from mgcda_dist.models.external_loss import external_loss, try_loss
from mgcda_dist.models.outlier_losses import LOSS_FUNCTIONS
from mgcda_dist.models.segmentation_loss import PixelTerms, segmentation_loss

CHANNELS = {"stride4": 6, "embedding": 5}


class Hinge:
    """A hinge on the maximum logit of anomalies, with a term over images."""

    terms: Mapping[str, Term] = {"outside": Term("anomaly", 0.1), "size": Term("images", lambda p: 0.01 * p)}
    logits = "pixel"

    def __init__(self, limit: float = 0.0) -> None:
        self.limit = limit

    def __call__(self, prediction: Prediction, label: Tensor, context: LossContext) -> dict[str, Tensor]:
        over = F.relu(prediction.logits.amax(dim=1) - self.limit)
        size = prediction.stages["stride4"].square().mean(dim=(1, 2, 3)).sum()
        return {"outside": torch.where(label == ANOMALY, over, 0).sum(), "size": size}


INSTANCE = Hinge(2.0)


def _tried(loss: Any) -> None:
    try_loss(loss, 4, CHANNELS, "pixel")


def test_a_class_is_called_with_the_arguments_and_an_object_is_there():
    made = external_loss(f"python:{__name__}:Hinge", {"limit": 1.5})
    assert isinstance(made, Hinge) and made.limit == 1.5
    assert external_loss(f"python:{__name__}:INSTANCE", {}) is INSTANCE
    _tried(made)
    with pytest.raises(ConfigError, match=r"loss\.arguments: .*unexpected keyword argument 'limits'"):
        external_loss(f"python:{__name__}:Hinge", {"limits": 1.5})
    with pytest.raises(ConfigError, match=r"loss\.arguments: .*is a Hinge, which takes none"):
        external_loss(f"python:{__name__}:INSTANCE", {"limit": 1.5})
    with pytest.raises(ConfigError, match=r"external_loss:CHANNELS is not callable"):
        external_loss(f"python:{__name__}:CHANNELS", {})
    with pytest.raises(ConfigError, match=r"external_loss:_tried has no `terms`"):
        external_loss(f"python:{__name__}:_tried", {})


@pytest.mark.parametrize("name", LOSS_FUNCTIONS)
def test_the_losses_of_the_package_pass(name: Any):
    loss = segmentation_loss(name, 4).outlier
    assert isinstance(loss, PixelTerms)
    _tried(loss)


def _loss(terms: Any = None, **returned: Any) -> Any:
    class Loss:
        def __init__(self) -> None:
            self.terms = {name: Term("anomaly") for name in returned} if terms is None else terms

        def __call__(self, prediction: Prediction, label: Tensor, context: LossContext) -> dict[str, Tensor]:
            score = -prediction.logits.amax(dim=1)
            return {name: make(score, label, context) for name, make in returned.items()}

    return Loss()


def _nothing(score: Tensor, label: Tensor, context: LossContext) -> Tensor:
    return torch.where(label == ANOMALY, score, 0).sum()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (_loss(a=lambda s, y, c: s.mean()), "'a' is .* for two images, .*: that is no sum[\\s\\S]*count of anomaly"),
        (_loss(a=lambda s, y, c: s[y == ANOMALY].mean()), "'a' is"),
        (_loss(a=lambda s, y, c: s.amax()), "'a' is .* that is no sum"),
        (_loss(b=_nothing, a=lambda s, y, c: s.sum() / 0), "'a' is -?(inf|nan)"),
        (_loss(a=lambda s, y, c: s.sum() * (y < VOID).sum() / (y < VOID).sum()), "images without any labelled"),
        (_loss(a=lambda s, y, c: (s * (y == ANOMALY)).square().sqrt().sum()), "gradient of 'a' .* logits is"),
        (_loss(a=lambda s, y, c: s.detach().sum()), "no term depends on the prediction"),
        (_loss(a=lambda s, y, c: (s * torch.rand(1)).sum()), "torch's global generator[\\s\\S]*context.uniform"),
        (_loss(a=lambda s, y, c: s.no_such()), "fails on a small example: AttributeError.*no_such"),
        (_loss(a=lambda s, y, c: s), r"returned \(2, 8, 12\) torch.float32 as 'a'"),
    ],
)
def test_what_is_no_sum_is_refused_by_name(loss: Any, message: str):
    with pytest.raises(ConfigError, match=rf"loss\.outlier: .*{message}"):
        _tried(loss)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({}, "has no `terms`"),
        ({"a": 0.1}, r"terms\['a'\] is 0.1"),
        ({"a": Term("anomalies")}, "over 'anomalies'[\\s\\S]*did you mean anomaly"),  # pyright: ignore[reportArgumentType]
        ({"a": Term("both", math.nan)}, "the weight of 'a' at progress 0.0 is nan"),
        ({"a": Term("both", lambda p: 1 / (p - 1))}, "the weight of 'a' fails[\\s\\S]*ZeroDivisionError"),
        ({"a": Term("both", str)}, "weight of 'a' at progress 0.0 is '0.0'"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_declarations_that_are_none_are_refused(terms: Any, message: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(INSTANCE, "terms", terms, raising=False)
    with pytest.raises(ConfigError, match=rf"loss\.outlier: .*{message}"):
        external_loss(f"python:{__name__}:INSTANCE", {})


def test_the_kind_of_logits_that_it_declares_is_checked_and_else_allowed():
    with pytest.raises(ConfigError, match="needs logits of kind 'pixel', and this network's are 'mask'"):
        try_loss(Hinge(), 4, CHANNELS, "mask")
    try_loss(_loss(a=_nothing), 4, CHANNELS, "mask")


def test_a_loss_with_weights_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch):
    module: Any = nn.Linear(2, 2)
    module.terms = {"a": Term("both")}
    monkeypatch.setattr(f"{__name__}.INSTANCE", module)
    with pytest.raises(ConfigError, match="has tensors of its own, which would neither be trained nor saved"):
        external_loss(f"python:{__name__}:INSTANCE", {})

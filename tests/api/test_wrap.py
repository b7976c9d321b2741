"""`wrap`: MGCDA around a module in one call, with its layers named or as a segmenter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mgcda_dist.api.wrap import wrap
from mgcda_dist.errors import ConfigError
from mgcda_dist.method.batch import ANOMALY, Batch, Prediction
from mgcda_dist.method.terms import LossContext, Term


class Plain(nn.Module):
    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.SiLU())
        self.body = nn.Sequential(nn.Conv2d(8, 6, 3, stride=2, padding=1), nn.SiLU())
        self.head = nn.Conv2d(6, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.body(self.stem(image)))


class Segmenter(Plain):
    def forward(self, image: Tensor) -> Any:
        stem = self.stem(image / 255)
        body = self.body(stem)
        return Prediction(self.head(body), {"early": stem, "late": body}, body)


class Tapped(Plain):
    taps: Mapping[str, Any] = {"stages": {"early": "stem", "late": "body"}, "logits": "head", "multiple_px": 4}


class Own:
    terms: Mapping[str, Term] = {"push": Term("anomaly")}

    def __call__(self, prediction: Prediction, label: Tensor, context: LossContext) -> dict[str, Tensor]:
        return {"push": torch.where(label == ANOMALY, prediction.logits.amax(dim=1), 0).sum()}


class Weighed(Own):
    def __init__(self, weight: Any) -> None:
        self.terms = {"push": Term("anomaly", weight)}


def _batch() -> Batch:
    random = torch.Generator().manual_seed(0)
    label = torch.randint(5, (4, 64, 64), generator=random)
    label[:, :16, :16] = ANOMALY
    image = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=random)
    return Batch(image, label, torch.tensor([0, 1, 0, 1]), torch.arange(4), 0)


@pytest.mark.parametrize(
    ("network", "given"),
    [
        (Plain(), {"stages": {"late": "body"}, "logits": "head"}),
        (Plain(6), {"stages": {"late": "body"}, "logits": "head", "loss": "abstention"}),
        (Plain(), {"stages": {"late": "body"}, "logits": "head", "loss": Own(), "mdat": False}),
        (Segmenter(), {"mdat": {"channels": 4}, "cacl": {"queue_rows": 8, "inlier_pixels": 2, "num_positives": 3}}),
    ],
    ids=["layers", "abstention", "a loss of one's own", "a segmenter"],
)
def test_a_step_trains(network: nn.Module, given: dict[str, Any]):
    torch.manual_seed(0)
    model = wrap(network, num_classes=5, num_domains=2, **given)
    outcome = model(_batch(), progress=0.5)
    outcome.loss.backward()
    totals = model.total([outcome])
    model.commit([outcome], totals)
    assert outcome.loss.isfinite() and all(p.grad is not None for p in model.segmenter.parameters() if p.requires_grad)
    names = totals.scalars().keys()
    assert ("loss/mdat" in names) == (given.get("mdat") is not False) and "loss/cacl" in names
    assert ("outlier/push" in names) == ("push" in getattr(given.get("loss"), "terms", {}))
    if model.mdat is not None:
        assert set(model.mdat.stages) == ({"late", "embedding"} if "stages" in given else {"early", "late"})


def test_options_reach_their_parts():
    options = {"queue_rows": 8, "inlier_pixels": 2, "num_positives": 3, "temperature": 0.3}
    model = wrap(Segmenter(), num_classes=5, num_domains=2, cacl=options, seed=4)
    cacl = model.cacl
    assert cacl is not None and (cacl.budget.inlier_pixels, cacl.selection.num_positives) == (2, 3)
    assert (cacl.temperature, cacl.seed, model.seed) == (0.3, 4, 4)


def test_the_layers_that_a_network_names_itself():
    def made(network: nn.Module, **given: Any) -> Any:
        return wrap(network, num_classes=5, num_domains=2, **given)

    by_attribute = made(Tapped())
    assert set(by_attribute.mdat.stages) == {"early", "late", "embedding"}
    assert (by_attribute.segmenter.multiple_px, made(Plain(), logits="head").segmenter.multiple_px) == (4, 32)
    by_argument = made(Tapped(), stages={"body": "body"}, multiple_px=8)
    assert set(by_argument.mdat.stages) == {"body", "embedding"} and by_argument.segmenter.multiple_px == 8
    network = Tapped()
    network.taps = {"stages": {}, "logit": "head"}
    with pytest.raises(ConfigError, match="attribute `taps` of Tapped"):
        made(network)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"network: Plain returns a Tensor[\s\S]*logits=PATH"),
        ({"logits": "haed"}, "no module 'haed'"),
        ({"logits": "head", "mdat": {"lambda": 1}}, r"mdat\['lambda'\]: there is no such option"),
        ({"logits": "head", "cacl": {"num_positive": 1}}, "did you mean num_positives"),
        ({"logits": "head", "score": "rba"}, "adds up"),
        ({"logits": "head", "num_classes": 4}, r"num_classes: is 4, but the network has 5 logits"),
        ({"logits": "head", "num_classes": 19, "cacl": False}, r"is 19, but the network has 5 logits"),
        ({"logits": "head", "loss": "abstention"}, r"5 logits\n.*make them one number, and one for abstention"),
        ({"logits": "head", "num_classes": 254}, r"num_classes: is 254\n.*1 to 253: ids from 253 on"),
        ({"logits": "head", "num_classes": "5"}, r"num_classes: is '5'\n"),
        ({"logits": "head", "num_domains": 0}, r"num_domains: is 0\n"),
        ({"logits": "head", "loss": "energy_hing"}, r"loss: no such outlier loss 'energy_hing'\n.*energy_hinge\?"),
        ({"logits": "head", "limits": {"inlier": -3}}, r"limits\['inlier'\]: the loss has no such limit"),
        ({"logits": "head", "loss": Own(), "limits": {"inlier": -3}}, "leave `limits` out"),
        ({"logits": "head", "cacl": {"temperature": 0}}, r"temperature: 0: input should be greater than 0"),
        ({"logits": "head", "cacl": {"queue_rows": -3}}, r"queue_rows: -3: "),
        ({"logits": "head", "mdat": {"channels": 0}}, r"channels: 0: "),
        ({"logits": "head", "loss": None}, r"loss.outlier: NoneType is not callable"),
        ({"logits": "head", "loss": lambda *_: {}}, r"<lambda> has no `terms`"),
        ({"logits": "head", "loss": Weighed("1")}, r"the weight of 'push' at progress 0.0 is '1'"),
        ({"logits": "head", "loss": Weighed(float("nan"))}, r"the weight of 'push' at progress 0.0 is nan"),
        ({"logits": "head", "score": lambda p: p.logits.mean()}, "model.score: the score fails: IndexError"),
        ({"logits": "head", "score": lambda p: p.logits[:, :1]}, "model.score: the score "),
        ({"logits": "head", "score": lambda p: p.logits[:, 0] / 0}, "model.score: the score is not finite"),
        ({"logits": "head", "score": lambda p: p.logits[:, 0] - p.logits.mean()}, "depends on the others"),
        ({"logits": "head", "std": [0, 0.2, 0.2]}, r"std: is \(0, 0.2, 0.2\)\n.*above 0"),
    ],
)
def test_what_does_not_fit_is_named(given: dict[str, Any], message: str):
    numbers: dict[str, Any] = {"num_classes": 5, "num_domains": 2}
    with pytest.raises(ConfigError, match=message):
        wrap(Plain(), **numbers | given)


@pytest.mark.parametrize(("network", "says"), [(Plain, "is Plain, a class"), (torch.zeros(1), "is a Tensor")])
def test_what_is_no_network_is_named(network: Any, says: str):
    with pytest.raises(ConfigError, match=f"network: {says}\n.*give a torch.nn.Module"):
        wrap(network, num_classes=5, num_domains=2, logits="head")


def test_a_segmenter_of_other_classes_is_refused():
    with pytest.raises(ConfigError, match="num_classes: is 8, but the network has 5 logits"):
        wrap(Segmenter(), num_classes=8, num_domains=2)

"""Adapter: torchvision's and other networks as segmenters, and refusals of taps that cannot work."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torchvision.models import segmentation

from mgcda_dist.errors import ConfigError
from mgcda_dist.models.adapters import wrap

IMAGE = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)


DEEPLAB = {"stages": {"stride16": "backbone.12"}, "logits": "classifier.4", "embedding": "classifier.3"}


def deeplab():
    return segmentation.deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=7)


def test_a_torchvision_network_becomes_a_segmenter_with_its_own_logits():
    network = deeplab().eval()
    segmenter = wrap(network, **DEEPLAB, mean=(0.0,) * 3, std=(1.0,) * 3)
    logits = torch.nn.functional.interpolate(segmenter(IMAGE).logits, size=(64, 96), mode="bilinear")
    torch.testing.assert_close(logits, network(IMAGE / 255)["out"])
    prediction = segmenter.train()(IMAGE)
    assert prediction.embedding.shape[2:] == prediction.logits.shape[2:]
    assert {stage: x.shape[1] for stage, x in prediction.stages.items()} == segmenter.stage_channels
    assert torch.equal(prediction.logits, segmenter(IMAGE).logits)  # no dropout, frozen statistics
    prediction.logits.sum().backward()


def test_copies_are_independent_and_have_no_hooks():
    segmenter = wrap(deeplab(), **DEEPLAB)
    twin = copy.deepcopy(segmenter)
    assert torch.equal(twin(IMAGE).logits, segmenter(IMAGE).logits)
    assert not any(module._forward_hooks for module in segmenter.modules())


class Nested(nn.Module):
    """A backbone whose output is a mapping with a list, in a U-Net that needs sides that are multiples of 8."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Pyramid()
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fine, coarse = self.backbone(x)["maps"]
        up = torch.nn.functional.interpolate(coarse, scale_factor=4)
        return self.head(torch.cat([fine, up], 1))


class Pyramid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 5, 4, 2)

    def forward(self, x: torch.Tensor) -> dict[str, list[torch.Tensor]]:
        fine = self.fine(x)
        return {"maps": [fine, self.coarse(fine)]}


def listed() -> Nested:
    network = Nested()
    network.add_module("list", nn.ModuleList([nn.Conv2d(3, 3, 1)]))
    return network


def test_an_entry_of_a_nested_output_can_be_tapped():
    assert wrap(Nested(), stages={"middle": "backbone[maps][1]"}, logits="head").stage_channels["middle"] == 4


class Twice(nn.Module):
    """One classifier for two outputs, the second only in training."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.act, self.head = nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 1)
        self.up = nn.Upsample(scale_factor=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.act(self.body(x))
        logits = self.head(input=features)
        if self.training:
            return logits + self.head(torch.nn.functional.avg_pool2d(features, 2)).mean()
        return self.up(logits)


@pytest.mark.parametrize(
    ("network", "taps", "says"),
    [
        (deeplab, {"logits": "head.4", "embedding": "classifier.3"}, r"no module 'head\.4'[\s\S]*classifier\.4"),
        (deeplab, {"logits": "zzz", "embedding": "classifier.3"}, r"no module 'zzz'[\s\S]*candidates: .*classifier\.4"),
        (listed, {"stages": {"middle": "list[0]"}}, r"'list' is a container[\s\S]*list\.0"),
        (Nested, {"stages": {"middle": "backbone"}}, r'for example "backbone\[maps\]"'),
        (Nested, {"stages": {"middle": "backbone[maps]"}}, r'for example "backbone\[maps\]\[0\]"'),
        (Nested, {"stages": {"middle": "backbone[1]"}}, r'no output \[1\][\s\S]*for example "backbone\[maps\]"'),
        (Nested, {"stages": {"x": "backbone.fine[0]"}}, r"no output \[0\], but 1×4×32×48[\s\S]*without \[0\]"),
        (Nested, {"stages": {"x": "backbone.fine[out]"}}, r"no output \[out\], but 1×4×32×48[\s\S]*without \[out\]"),
        (Nested, {"stages": {"embedding": "backbone.fine"}}, "cannot be called 'embedding'"),
        (Nested, {"multiple_px": 0}, "is 0"),
        (Nested, {"mean": (123.0, 116.0, 103.0)}, "units of 0…1"),
        (Twice, {}, "head runs more than once"),
        (Twice, {"stages": {"early": "body"}}, "overwrites the output of body in place"),
        (Twice, {"logits": "up"}, r"'up' has no weights[\s\S]*in front of it"),
    ],
)
def test_taps_that_cannot_work_are_refused(network, taps, says):
    with pytest.raises(ConfigError, match=says):
        wrap(network(), **{"stages": {}, "logits": "head"} | taps)


@pytest.mark.parametrize("training", [True, False])
def test_a_column_is_an_extra_and_no_class(training):
    segmenter = wrap(Nested(), stages={}, logits="head", columns=["abstention"]).train(training)
    whole = wrap(Nested(), stages={}, logits="head")
    whole.load_state_dict(segmenter.state_dict())
    found, logits = segmenter(IMAGE), whole.train(training)(IMAGE).logits
    assert torch.equal(torch.cat([found.logits, found.extra["abstention"]], dim=1), logits)
    assert found.logits.shape[1] == 4


def test_extras_of_any_shape_are_tapped():
    plain = wrap(Nested(), stages={}, logits="head")
    segmenter = wrap(plain.network, stages={}, logits="head", extra={"middle": "head"})
    found = segmenter(IMAGE)
    assert torch.equal(found.extra["middle"], found.logits)


def test_a_multiple_that_is_too_small_is_refused():
    with pytest.raises(ConfigError, match=r"every multiple of 2 pixels: RuntimeError[\s\S]*multiple_px=8") as error:
        wrap(Nested(), stages={}, logits="head", multiple_px=2)
    assert error.value.where == "model.taps.multiple_px"
    image = torch.zeros(1, 3, 101, 203, dtype=torch.uint8)
    assert wrap(Nested(), stages={}, logits="head", multiple_px=8)(image).logits.shape == (1, 5, 51, 102)

"""Torchvision's segmentation networks, wrapped."""

from __future__ import annotations

import copy

import pytest
import torch
from torchvision.models import segmentation

from mgcda_dist.errors import ConfigError
from mgcda_dist.models.adapters import wrap

IMAGE = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)


def lraspp():
    return segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=7)


def deeplab():
    return segmentation.deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=7)


NETWORKS = {
    "lraspp": (
        lraspp,
        {"stages": {"low": "backbone.6"}, "logits": "classifier.low_classifier", "embedding": "classifier.cbr"},
    ),
    "deeplab": (
        deeplab,
        {"stages": {"stride16": "backbone.12"}, "logits": "classifier.4", "embedding": "classifier.3"},
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_torchvision_networks_become_segmenters(name):
    factory, taps = NETWORKS[name]
    segmenter = wrap(factory(), **taps).train()
    prediction = segmenter(IMAGE)
    assert prediction.logits.shape[:2] == (2, 7)
    assert prediction.embedding.shape[2:] == prediction.logits.shape[2:]
    assert {stage: x.shape[1] for stage, x in prediction.stages.items()} == segmenter.stage_channels
    assert torch.equal(prediction.logits, segmenter(IMAGE).logits)  # no dropout, frozen statistics
    prediction.logits.sum().backward()


def test_logits_are_those_of_the_network_itself():
    network = deeplab().eval()
    segmenter = wrap(network, **NETWORKS["deeplab"][1], mean=(0.0,) * 3, std=(1.0,) * 3)
    logits = torch.nn.functional.interpolate(segmenter(IMAGE).logits, size=(64, 96), mode="bilinear")
    torch.testing.assert_close(logits, network(IMAGE / 255)["out"])


def test_copies_are_independent_and_leave_no_hook():
    segmenter = wrap(deeplab(), **NETWORKS["deeplab"][1])
    twin = copy.deepcopy(segmenter)
    assert torch.equal(twin(IMAGE).logits, segmenter(IMAGE).logits)
    assert not any(module._forward_hooks for module in segmenter.modules())


def test_unknown_path_is_named_with_candidates():
    with pytest.raises(ConfigError, match=r"no module 'head\.4'[\s\S]*classifier\.4"):
        wrap(deeplab(), stages={}, logits="head.4", embedding="classifier.3")

"""Folded norms: the same function of the same parameters, in float64 to the last digits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mgcda_dist.errors import ConfigError
from mgcda_dist.models.exported import bare_segmenter
from mgcda_dist.models.folding import fold_norms
from mgcda_dist.models.norm import FrozenBatchNorm
from tests.support.configs import plain_config

_SIZE = (64, 96)
_IMAGE = (torch.arange(2 * 3 * 64 * 96) * 2654435761 % 251).view(2, 3, *_SIZE).to(torch.uint8)


def _network(**of: Any) -> nn.Module:
    network = bare_segmenter(norm="frozen", num_classes=3, **of).train()
    random = torch.Generator().manual_seed(4)
    for norm in (module for module in network.modules() if isinstance(module, FrozenBatchNorm)):
        norm.running_mean.normal_(0, 0.1, generator=random)
        norm.running_var.uniform_(0.5, 2, generator=random)
        for parameter in (norm.weight, norm.bias):
            assert parameter is not None
            parameter.data.uniform_(0.5, 1.5, generator=random)
    return network


def _step(network: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    network.zero_grad()
    logits = network(_IMAGE).logits
    logits.square().mean().backward()
    return logits.detach(), {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "of",
    [
        {"backbone": "test_resnet"},
        pytest.param({"backbone": "tf_efficientnet_lite0"}, marks=pytest.mark.extended),
        pytest.param({"network": {"name": "torchvision:lraspp_mobilenet_v3_large"}}, marks=pytest.mark.extended),
    ],
)
def test_outputs_and_gradients_are_those_without_folding(of: dict[str, Any]) -> None:
    network = _network(**of).double()
    state = list(network.state_dict())
    logits, gradients = _step(network)
    network.float()
    norms = sum(isinstance(module, FrozenBatchNorm) for module in network.modules())
    assert fold_norms(network, _SIZE, "engine.fold_norm") > 0.9 * norms
    again, found = _step(network.double())
    torch.testing.assert_close(again, logits, rtol=1e-6, atol=1e-9)
    assert found.keys() == gradients.keys() and list(network.state_dict()) == state
    for name, x in gradients.items():
        torch.testing.assert_close(found[name], x, rtol=1e-5, atol=float(1e-7 * x.abs().max()) + 1e-12, msg=name)


def test_a_network_whose_convolution_is_read_elsewhere_is_refused() -> None:
    network = _network(backbone="test_resnet")
    inner: Any = network.backbone
    forward = inner.network.forward
    first = next(module for module in inner.network.modules() if isinstance(module, nn.Conv2d))
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
        kept.append(output)

    first.register_forward_hook(keep)

    def forward_that_reads(image: Tensor) -> list[Tensor]:
        maps = forward(image)
        return [x + kept[-1].mean() for x in maps]

    inner.network.forward = forward_that_reads
    with pytest.raises(ConfigError, match="something else than its norm reads the output of a convolution"):
        fold_norms(network, _SIZE, "engine.fold_norm")


def test_a_network_without_frozen_norms_is_refused() -> None:
    network = bare_segmenter("test_resnet", norm="group", num_classes=3)
    with pytest.raises(ConfigError, match="has no frozen batch norm behind a convolution"):
        fold_norms(network, _SIZE, "engine.fold_norm")


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"engine": {"fold_norm": True, "zero_stage": 3}}, "fold_norm: with zero_stage 3"),
        ({"engine": {"fold_norm": True}, "model": {"compile": True}}, "torch.compile fuses norms itself"),
    ],
)
def test_what_it_does_not_go_with_is_refused(sections: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        plain_config(**sections)

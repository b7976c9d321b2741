"""Activations that are computed again: the same gradients, fewer kept bytes, and a clear error where nothing can."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mgcda_dist.errors import ConfigError
from mgcda_dist.models.activations import checkpoint_activations
from mgcda_dist.models.exported import bare_segmenter
from tests.support.kept import kept_bytes

_IMAGE = (torch.arange(2 * 3 * 64 * 96) * 2654435761 % 251).view(2, 3, 64, 96).to(torch.uint8)
_SEGFORMER = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16}


def _step(network: nn.Module) -> tuple[int, dict[str, Tensor]]:
    """Bytes that the forward pass keeps beside parameters, and the gradients."""
    prediction, kept = kept_bytes(network, _IMAGE)
    loss = prediction.logits.square().mean()
    network.zero_grad()
    loss.backward()
    return kept, {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "of",
    [
        {"backbone": "tf_efficientnet_lite0"},
        {"backbone": "test_vit"},
        {"network": {"name": "transformers:segformer", "arguments": _SEGFORMER}},
    ],
)
def test_the_same_gradients_from_fewer_kept_bytes(of: dict[str, Any]) -> None:
    network = bare_segmenter(norm="group", num_classes=3, **of).train()
    whole, gradients = _step(network)
    assert checkpoint_activations(network, "engine")
    fewer, again = _step(network)
    assert fewer < 0.7 * whole
    assert gradients.keys() == again.keys() and all(torch.equal(x, again[name]) for name, x in gradients.items())


def test_a_layer_that_draws_is_not_computed_again() -> None:
    network = bare_segmenter(norm="group", num_classes=3, backbone="test_vit")
    block: Any = next(module for module in network.modules() if type(module).__name__ == "Block")
    block.forward_context = None
    with pytest.raises(ConfigError, match=r"engine: backbone\.network.*, a Block, draws in a forward pass"):
        checkpoint_activations(network, "engine")


def test_a_network_without_such_blocks_is_refused() -> None:
    network = bare_segmenter(norm="group", num_classes=3, network={"name": "torchvision:lraspp_mobilenet_v3_large"})
    with pytest.raises(ConfigError, match="no part of the network can compute its activations again"):
        checkpoint_activations(network, "engine.activation_checkpointing")

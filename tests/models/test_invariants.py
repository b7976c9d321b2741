"""Networks that violate a law of the distributed form are refused; tokens, lists and other layouts are supported."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mgcda_dist.errors import ConfigError
from mgcda_dist.method.forwards import ForwardContext
from mgcda_dist.models.adapters import wrap
from mgcda_dist.models.invariants import check_compiles, freeze_unused, without_dropout
from tests.support.tiny import tiny_batch


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 3, 1)
        self.register_buffer("seen", torch.zeros(1))

    def between(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.between(self.body(x)))


class Batchwise(Plain):
    def between(self, x: Tensor) -> Tensor:
        return x - x.mean(dim=(0, 2, 3), keepdim=True)


class Noisy(Plain):
    def between(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, self.training)


class Keyed(Plain):
    """Noise of an image by its slot."""

    forward_context: ForwardContext | None = None

    def between(self, x: Tensor) -> Tensor:
        return x if self.forward_context is None else x + self.drawn(self.forward_context).to(x.dtype)

    def drawn(self, context: ForwardContext) -> Tensor:
        return context.uniform("noise", 8, 1, 1)


class KeyedByPlace(Keyed):
    def drawn(self, context: ForwardContext) -> Tensor:
        return super().drawn(context).flip(0)


class Counting(Plain):
    def between(self, x: Tensor) -> Tensor:
        self.seen += x.mean().detach()
        return x


class Unpadded(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3)


class Tokens(nn.Module):
    """A plain vision transformer with stochastic depth and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.vit: Any = timm.create_model(
            "test_vit", num_classes=0, dynamic_img_size=True, drop_path_rate=0.5, drop_rate=0.5
        )
        self.head = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.vit.forward_features(x))


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (Batchwise, "gives other logits for a single image than for"),
        (Noisy, "draws random numbers in training"),
        (KeyedByPlace, "gives other logits for a single image than for"),
        (Counting, r"changes buffers in its forward pass: network\.seen"),
        (Unpadded, "1×3×62×94 for an image of 64×96"),
    ],
)
def test_networks_that_violate_a_law_are_refused(network: type[Plain], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        wrap(network(), stages={}, logits="head")


def test_a_network_that_draws_by_slot_is_taken_but_not_compiled() -> None:
    segmenter = wrap(Keyed(), stages={}, logits="head")
    with pytest.raises(ConfigError, match=r"model\.compile: network, a Keyed, draws other numbers in every step"):
        check_compiles(segmenter)
    check_compiles(wrap(Plain(), stages={}, logits="head"))
    wrap(Plain(), stages={}, logits="head")


def test_tokens_become_maps_and_dropout_is_off() -> None:
    segmenter = wrap(Tokens(), stages={"middle": "vit.blocks.1"}, logits="head").train()
    prediction = segmenter(tiny_batch(0, 2, 61, 90).image)
    assert prediction.logits.shape == (2, 3, 4, 6) and prediction.embedding.shape == (2, 64, 4, 6)
    network = segmenter.network
    x = torch.randn(1, 3, 64, 96)
    own = network(x)[:, 1:].transpose(1, 2).unflatten(2, (4, 6))
    raw = (x * segmenter.std.view(1, 3, 1, 1) + segmenter.mean.view(1, 3, 1, 1)) * 255
    torch.testing.assert_close(segmenter(raw).logits, own, rtol=1e-3, atol=1e-4)


def test_channels_last_and_entries_of_lists() -> None:
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224", features_only=True, strict_img_size=False, out_indices=(0, 1)
    )

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.swin, self.head = swin, nn.Conv2d(192, 3, 1)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"out": self.head(self.swin(x)[1].permute(0, 3, 1, 2))}

    segmenter = wrap(Net(), stages={"fine": "swin[0]", "coarse": "swin[1]"}, logits="[out]", embedding="swin[1]")
    prediction = segmenter(tiny_batch(0, 1, 64, 96).image)
    shapes = {name: tuple(x.shape[1:]) for name, x in prediction.stages.items()}
    assert shapes == {"fine": (96, 16, 24), "coarse": (192, 8, 12), "embedding": (192, 8, 12)}
    assert prediction.logits.shape == (1, 3, 8, 12)


def test_dropout_rates_passed_to_functions_are_zero() -> None:
    attention = nn.MultiheadAttention(8, 2, dropout=0.4)
    settings = SimpleNamespace(layerdrop=0.3, layers=2.0)
    attention.__dict__["config"] = settings
    without_dropout(attention)
    assert attention.dropout == settings.layerdrop == 0.0 and settings.layers == 2.0


def test_unused_parameters_are_frozen_once() -> None:
    network = Plain()
    network.auxiliary = nn.Conv2d(8, 3, 1)
    segmenter = wrap(network, stages={}, logits="head")
    assert [name for name, x in segmenter.named_parameters() if not x.requires_grad] == [
        "network.auxiliary.weight", "network.auxiliary.bias"
    ]  # fmt: skip
    assert freeze_unused(segmenter, ["logits"]) == []
    assert set(freeze_unused(segmenter, ["embedding"])) == {"network.head.weight", "network.head.bias"}

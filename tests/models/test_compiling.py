"""A network is compiled block by block: one node of autograd each, and the results of the network as it was.

Run as traced and differentiated (`aot_eager`), since a compiler takes minutes.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Generator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mgcda_dist import build
from mgcda_dist.config.schema import Config
from mgcda_dist.method.batch import Prediction
from mgcda_dist.models.activations import checkpoint_activations
from mgcda_dist.models.adapters import AdaptedSegmenter
from mgcda_dist.models.compiling import blocks_of, compile_blocks
from tests.support.compiled import compiled_nodes
from tests.support.configs import plain_config
from tests.support.external import NETWORKS, configuration
from tests.support.tiny import TinySegmenter, tiny_batch

pytestmark = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor:UserWarning"
)  # torch looks at it itself

IMAGE = tiny_batch(0, 2, 64, 96).image


@pytest.fixture(autouse=True)
def fresh() -> Generator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def of_backbone(name: str) -> Config:
    return plain_config(model={"backbone": name, "decoder_channels": 16})


class Block(nn.Module):
    def __init__(self, given: int, taken: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(given, taken, 3, padding=1), nn.Conv2d(taken, taken, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


class OwnNetwork(nn.Module):
    """Ten blocks of as many shapes, then three that are alike; they have names, and are in no list."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, *range(4, 14), 13, 13, 13]
        for i, (given, taken) in enumerate(itertools.pairwise(widths)):
            self.add_module(f"block{i}", Block(given, taken))
        self.read_only = nn.ModuleList([Block(2, 2)])  # not called

    def forward(self, image: Tensor) -> Prediction:
        x = image.float() / 255
        for block in list(self.children())[:-1]:
            x = block(x)
        return Prediction(x + self.read_only[0].first.bias.mean(), {}, x)  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue, reportArgumentType]


def loss_of(network: nn.Module) -> Tensor:
    prediction: Prediction = network(IMAGE)
    parts = [prediction.logits, *prediction.stages.values()]
    return torch.stack([x.square().mean() for x in parts]).sum()


CASES: dict[str, Any] = {
    "test_resnet": lambda: of_backbone("test_resnet"),
    "test_vit": lambda: of_backbone("test_vit"),
    **{name: lambda name=name: configuration(*NETWORKS[name]) for name in ("segformer", "mask2former")},
}


@pytest.mark.extended
@pytest.mark.parametrize("name", CASES)
def test_gradients_come_block_by_block_and_are_the_same(name: str) -> None:
    network = build.segmenter(CASES[name]()).train()
    names = list(network.state_dict())
    before = loss_of(network)
    before.backward()
    wanted = {key: x.grad.clone() for key, x in network.named_parameters() if x.grad is not None}
    network.zero_grad()
    if isinstance(network, AdaptedSegmenter):
        network.keep_taps()
    paths = compile_blocks(network, network.example_size, backend="aot_eager")
    loss_of(network).backward()  # traced
    network.zero_grad()
    loss = loss_of(network)
    nodes = compiled_nodes(loss)
    loss.backward()
    found = {key: x.grad for key, x in network.named_parameters() if x.grad is not None}
    torch.testing.assert_close(loss, before)
    assert found.keys() == wanted.keys() and list(network.state_dict()) == names
    largest = max(float(x.abs().max()) for x in wanted.values())
    for key, x in wanted.items():  # biases of keys, and before a norm, have none but rounding
        torch.testing.assert_close(found[key], x, rtol=1e-3, atol=1e-6 * largest, msg=key)
    total = sum(x.numel() for x in wanted.values())
    assert len(nodes) >= 0.7 * len(paths) > 3, "in evaluation some more are called"
    assert max(map(sum, nodes.values())) < 0.75 * total, "two thirds of a test network are in its last stage"


def test_blocks_of_many_shapes_are_all_compiled_and_equal_ones_once() -> None:
    """Torch's own limit is eight, for all modules together."""
    network = OwnNetwork().train()
    torch._dynamo.utils.counters.clear()
    assert compile_blocks(network, (16, 16), backend="aot_eager") == [f"block{i}" for i in range(13)]
    nodes = compiled_nodes(loss_of(network))
    assert len(nodes) == 13 and torch._dynamo.utils.counters["stats"]["unique_graphs"] == 11
    assert blocks_of(copy.deepcopy(network), (16, 16)) == [f"block{i}" for i in range(13)]


def test_a_network_without_blocks_is_compiled_as_a_whole() -> None:
    network = TinySegmenter()
    assert compile_blocks(network, (16, 16), backend="aot_eager") == [""]
    assert len(compiled_nodes(loss_of(network))) == 1


def test_large_networks_have_blocks_beside_the_decoder() -> None:
    """Of stages with few parameters none."""
    network = build.segmenter(plain_config(model={"backbone": "resnet18"}))
    stages = [f"backbone.network.layer{n}" for n in (1, 2)]
    blocks = [f"backbone.network.layer{n}.{i}" for n in (3, 4) for i in range(2)]
    found = blocks_of(network, (64, 96))
    assert [path for path in found if "layer" in path] == [*stages, *blocks] and found[-1] == "decoder"


@pytest.mark.extended
def test_blocks_that_are_computed_again() -> None:
    network = build.segmenter(of_backbone("test_resnet")).train()
    before = loss_of(network)
    checkpoint_activations(network, "engine.activation_checkpointing")
    compile_blocks(network, network.example_size, backend="aot_eager")
    loss = loss_of(network)
    loss.backward()
    torch.testing.assert_close(loss, before)

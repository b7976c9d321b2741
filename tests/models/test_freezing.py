"""Frozen parts keep no gradient, no activation, and no statistics that move."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mgcda_dist.errors import ConfigError
from mgcda_dist.models.freezing import freeze, matches
from tests.support.kept import kept_bytes
from tests.support.tiny import tiny_batch, tiny_mgcda


def _network() -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Conv2d(8, 2, 1),
    )


def test_a_pattern_is_a_path_one_above_it_or_has_stars() -> None:
    assert matches("backbone.layer1.0.weight", "backbone") and matches("backbone.layer1.0.weight", "*.weight")
    assert matches("backbone.weight", "backbone.weight")
    assert not matches("backbone2.weight", "backbone") and not matches("a.backbone.weight", "backbone")


def test_the_uppermost_frozen_modules_are_told() -> None:
    network = _network()
    assert freeze(network, ["0", "1.1"], "optim.freeze") == [network[0], network.get_submodule("1.1")]
    learning = [name for name, x in network.named_parameters() if x.requires_grad]
    assert learning == ["1.0.weight", "1.0.bias", "2.weight", "2.bias"]


@pytest.mark.parametrize(
    ("patterns", "says"),
    [
        (["3"], "'3' names no parameter of the network"),
        (["1.0.wieght"], r"names no parameter of the network\s*→ did you mean 1.0.weight"),
        (["*"], "freeze the whole network"),
    ],
)
def test_patterns_that_cannot_be_meant_are_refused(patterns: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        freeze(_network(), patterns, "optim.freeze")


def test_a_frozen_part_stays_in_evaluation_mode() -> None:
    model = tiny_mgcda()
    part = next(iter(model.segmenter.children()))
    model._frozen = [part]
    model.train()
    assert model.training and not any(module.training for module in part.modules())
    model.stage_sizes(48, 80)
    assert model.segmenter.training and not any(module.training for module in part.modules())


def test_what_only_frozen_parameters_have_touched_is_not_kept_for_the_backward_pass() -> None:
    """Bytes that autograd holds of a forward pass: those of the frozen part are gone, the rest is as before."""
    image = torch.zeros(2, 3, 32, 32)
    network = _network()
    whole = kept_bytes(network, image)[1]
    freeze(network, ["0"], "optim.freeze")
    network[0].eval()
    rest = kept_bytes(network, image)[1]
    behind = kept_bytes(nn.Sequential(*list(_network())[1:]), torch.zeros(2, 8, 30, 30))[1]
    assert rest == behind < whole


def test_the_tiny_batch_has_a_loss_with_a_frozen_part() -> None:
    model = tiny_mgcda()
    first, *_ = (name.split(".")[0] for name, _ in model.segmenter.named_parameters())
    freeze(model.segmenter, [first], "optim.freeze")
    model(tiny_batch(0, 4), 0.5).loss.backward()
    gradients = {name: x.grad for name, x in model.segmenter.named_parameters()}
    assert all((x is None) == name.startswith(f"{first}.") for name, x in gradients.items())

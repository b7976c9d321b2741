"""The operations of a step: counted without computing it, they are those of a step that is computed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mgcda_dist import build
from mgcda_dist.method.batch import VOID, Prediction
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.method.mgcda import MGCDA
from mgcda_dist.models.activations import checkpoint_activations
from mgcda_dist.models.exported import bare_segmenter
from mgcda_dist.training.flops import micro_batch_flops, peak_flops
from tests.support.configs import plain_config
from tests.support.tiny import NUM_CLASSES, PlainSegmentationLoss, energy, tiny_batch, tiny_mgcda

SIZE = 16, 24
TINY_SEGFORMER = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16}


class TwoRanks(Collectives):
    """Cannot be reached."""

    @property
    def size(self) -> int:
        return 2

    def start_sum(self, value: Any, label: str, *, owned: bool = False) -> Any:
        raise AssertionError("nobody may wait for another rank")

    def start_gather(self, rows: Any, label: str, num_rounded: int = 0) -> Any:
        raise AssertionError("nobody may wait for another rank")


@pytest.mark.parametrize("options", [{}, {"teacher_decay": 0.9, "teacher_contrast": True}, {"with_mdat": False}])
def test_they_are_those_of_a_real_step(options: dict[str, Any]) -> None:
    batch = tiny_batch(0)
    model = tiny_mgcda(**options).train()
    model.stage_sizes(*SIZE)
    num_unlabelled = int(batch.is_unlabelled.sum())
    batch = replace(batch, weak=batch.image[batch.is_unlabelled])
    with FlopCounterMode(display=False) as counter:
        model(batch, 1.0).loss.backward()
    model.zero_grad()
    model.collectives = world = TwoRanks()
    before, drawn = {name: x.clone() for name, x in model.state_dict().items()}, torch.get_rng_state()
    assert micro_batch_flops(model, 8, SIZE, num_unlabelled=num_unlabelled) == counter.get_total_flops() > 0
    assert model.collectives is world and torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(before[name], x) for name, x in model.state_dict().items())
    assert all(parameter.grad is None and not parameter.is_meta for parameter in model.parameters())


def test_so_are_those_of_a_teacher_whose_network_has_tensors_of_its_own() -> None:
    """A timm backbone comes with means, deviations and frozen statistics that no state dict of the method holds."""
    height, width = size = 64, 64
    config = plain_config(
        data={"crop_px": list(size)},
        model={"backbone": "test_resnet.r160_in1k", "decoder_channels": 16},
        cacl={"enabled": False},
        teacher={"enabled": True},
    )
    model = build.mgcda(config).train()
    batch = tiny_batch(0, 4, height, width)
    told = torch.arange(4) >= 3
    label = torch.where(told[:, None, None], VOID, batch.label.clamp(max=1))
    batch = replace(batch, label=label, domain=batch.domain % 2, unlabelled=told, weak=batch.image[told])
    with FlopCounterMode(display=False) as counter:
        model(batch, 1.0).loss.backward()
    assert model.teacher is not None
    network, before = model.teacher.network, {name: x.clone() for name, x in model.teacher.network.state_dict().items()}
    assert micro_batch_flops(model, 4, size, num_unlabelled=1) == counter.get_total_flops()
    assert model.teacher.network is network
    assert all(torch.equal(before[name], x) for name, x in network.state_dict().items())


def test_weights_that_two_layers_share_count_in_both() -> None:
    class Twice(OneConvolution):
        def __init__(self) -> None:
            super().__init__()
            self.again = nn.Conv2d(3, NUM_CLASSES, 3, padding=1)
            self.again.weight = self.layer.weight

        def forward(self, image: torch.Tensor) -> Prediction:
            logits = self.layer(image.float()) + self.again(image.float())
            return Prediction(logits, {}, logits)

    def flops(network: nn.Module) -> int:
        return micro_batch_flops(
            MGCDA(network, PlainSegmentationLoss(), lambda prediction: energy(prediction.logits)), 1, SIZE
        )

    assert flops(Twice()) == 2 * flops(OneConvolution())


def test_a_rank_with_a_part_of_the_memory_counts_alone() -> None:
    whole, part = tiny_mgcda(), tiny_mgcda(queue_layout="sharded", collectives=TwoRanks())
    for model in (whole, part):
        model.stage_sizes(*SIZE)
    assert micro_batch_flops(part, 8, SIZE) == micro_batch_flops(whole, 8, SIZE)


class OneConvolution(nn.Module):
    """Logits from one convolution; compiled, too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, NUM_CLASSES, 3, padding=1)

    def forward(self, image: torch.Tensor) -> Prediction:
        logits = self.layer(image.float())
        return Prediction(logits, {}, logits)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_convolution_by_hand(compiled: bool) -> None:
    network = OneConvolution()
    if compiled:
        network.compile(backend="eager")
    model = MGCDA(network, PlainSegmentationLoss(), lambda prediction: energy(prediction.logits))
    forward = 2 * 5 * (16 * 24) * 3 * 9 * NUM_CLASSES
    assert micro_batch_flops(model, 5, SIZE) == 2 * forward, "and the gradient of its weight; that of the image is none"
    network.layer.weight.requires_grad_(False)
    assert micro_batch_flops(model, 5, SIZE) == forward, "a frozen one has none"


@pytest.mark.parametrize(
    "of",
    [
        {"backbone": "test_vit"},
        pytest.param(
            {"network": {"name": "transformers:segformer", "arguments": TINY_SEGFORMER}}, marks=pytest.mark.extended
        ),
    ],
)
def test_what_is_computed_again_counts_once(of: dict[str, Any]) -> None:
    network = bare_segmenter(norm="group", num_classes=NUM_CLASSES, decoder_channels=16, **of).train()
    model = MGCDA(network, PlainSegmentationLoss(), lambda prediction: energy(prediction.logits))
    once = micro_batch_flops(model, 1, (64, 96))
    checkpoint_activations(network, "engine")
    assert micro_batch_flops(model, 1, (64, 96)) == once
    with FlopCounterMode(display=False) as counter:
        model(tiny_batch(0, 1, 64, 96), 1.0).loss.backward()
    assert counter.get_total_flops() > once, "the network goes on computing them again"


def test_what_looks_at_values_is_not_counted() -> None:
    class Looking(OneConvolution):
        def forward(self, image: torch.Tensor) -> Prediction:
            return super().forward(image * float(image.float().mean()))

    model = MGCDA(Looking(), PlainSegmentationLoss(), lambda prediction: energy(prediction.logits))
    with pytest.raises(RuntimeError, match="meta"):
        micro_batch_flops(model, 1, SIZE)
    assert not next(model.parameters()).is_meta


@pytest.mark.parametrize(
    ("name", "precision", "tf32", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", True, 989e12),
        ("NVIDIA H100 80GB HBM3", "fp32", True, 495e12),
        ("NVIDIA H100 80GB HBM3", "fp32", False, 67e12),
        ("NVIDIA H100 PCIe", "bf16", True, 756e12),
        ("NVIDIA H100 NVL", "bf16", True, 835e12),
        ("NVIDIA H200", "bf16", True, 989e12),
        ("NVIDIA A100-SXM4-80GB", "bf16", False, 312e12),
        ("NVIDIA L4", "bf16", True, 121e12),
        ("NVIDIA L40S", "bf16", True, 362e12),
        ("NVIDIA L40", "bf16", True, None),
        ("NVIDIA GeForce GTX 1080", "fp32", True, None),
    ],
)
def test_the_peak_of_a_card(name: str, precision: Any, tf32: bool, peak: float | None) -> None:
    assert peak_flops(name, precision, tf32=tf32) == peak

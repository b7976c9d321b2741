"""Domains: the same scene looks different in each, and a network trained in one loses in another, by a number."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mgcda_dist.demo_scenes.appearance import render
from mgcda_dist.demo_scenes.domains import DOMAINS
from mgcda_dist.demo_scenes.materials import Material
from mgcda_dist.demo_scenes.palettes import PALETTES, albedo
from mgcda_dist.demo_scenes.scene import Scene, scene
from mgcda_dist.errors import ConfigError
from mgcda_dist.evaluation.miou import Confusion
from mgcda_dist.method.randomness import torch_generator

SIZE = (96, 192)
NUM_CLASSES = 8


@pytest.fixture(scope="module")
def drawn() -> Scene:
    return scene(0, 3, SIZE, anomalies="test")


@pytest.mark.parametrize("domain", list(DOMAINS))
def test_a_frame_is_a_picture(drawn: Scene, domain: str) -> None:
    image = render(drawn, domain, 0, 3)
    assert image.shape == (*SIZE, 3) and image.dtype == np.uint8
    assert image.std() > 8
    assert 5 < image.mean() < 230
    assert np.array_equal(image, render(drawn, domain, 0, 3))


def test_domains_differ_and_frames_of_one_domain_differ(drawn: Scene) -> None:
    images = {name: render(drawn, name, 0, 3).astype(np.float64) for name in DOMAINS}
    for first, second in combinations(images, 2):
        assert np.abs(images[first] - images[second]).mean() > 8, (first, second)
    other = render(drawn, "real_day", 0, 4)
    assert np.abs(images["real_day"] - other).mean() > 1


def test_rendering_leaves_the_scene_alone(drawn: Scene) -> None:
    before = (drawn.canvas.ids.copy(), drawn.canvas.cast.copy(), drawn.label.copy())
    render(drawn, "render_b", 0, 3)
    for array, now in zip(before, (drawn.canvas.ids, drawn.canvas.cast, drawn.label), strict=True):
        assert np.array_equal(array, now)


def test_an_unknown_domain_names_the_known_ones(drawn: Scene) -> None:
    with pytest.raises(ConfigError, match="render_a"):
        render(drawn, "render_z", 0, 0)


@pytest.mark.parametrize("palette", list(PALETTES))
def test_a_palette_colours_every_material(palette: str) -> None:
    materials = np.array(list(Material), np.int32)
    for variant in (0.0, 0.5, 0.999):
        colours = albedo(palette, materials, np.full(len(materials), variant, np.float32))
        assert colours.shape == (len(materials), 3)
        assert (colours[1:] > 0).any(axis=1).all() and (colours < 1.2).all()


def _samples(domain: str, scenes: list[Scene], seed: int) -> tuple[Tensor, Tensor]:
    """Images n×3×h×w uint8 and labels n×h×w int64."""
    images = [torch.from_numpy(render(drawn, domain, seed, index)) for index, drawn in enumerate(scenes)]
    labels = [torch.from_numpy(drawn.label).long() for drawn in scenes]
    return torch.stack(images).permute(0, 3, 1, 2), torch.stack(labels)


def _network() -> nn.Module:
    def block(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Module:
        convolution = nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False)
        return nn.Sequential(convolution, nn.GroupNorm(8, outputs), nn.ReLU(inplace=True))

    return nn.Sequential(
        block(3, 16, 2), block(16, 32, 2), block(32, 32), block(32, 32, dilation=2), block(32, 32, dilation=4),
        nn.Conv2d(32, NUM_CLASSES, 1),
    )  # fmt: skip


def _logits(network: nn.Module, images: Tensor) -> Tensor:
    logits = network(images.float() / 127.5 - 1)
    return functional.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)


def _miou(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        predicted = torch.cat([_logits(network, part).argmax(1) for part in images.split(8)])
    confusion = Confusion(NUM_CLASSES)
    confusion.update(predicted, labels)
    return confusion.miou()


@pytest.mark.usefixtures("one_thread")
def test_a_network_trained_on_one_domain_loses_on_another() -> None:
    """The domain gap as a number: mIoU on the domain of training, and on the two others with the very same scenes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = _network()
    images, labels = _samples("render_a", [scene(1, index, SIZE) for index in range(64)], 1)
    steps, generator = 160, torch_generator(0, "order")
    optimiser = torch.optim.AdamW(network.parameters(), 8e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 8e-3, steps)
    for _ in range(steps):
        chosen = torch.randint(len(images), (4,), generator=generator)
        loss = functional.cross_entropy(_logits(network, images[chosen]), labels[chosen], ignore_index=255)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    held_out = [scene(2, index, SIZE) for index in range(16)]
    miou = {name: _miou(network, *_samples(name, held_out, 2)) for name in DOMAINS}
    print("mIoU of a network trained on render_a:", {name: round(value, 3) for name, value in miou.items()})
    assert miou["render_a"] > 0.5
    for other in ("render_b", "real_day"):
        assert miou[other] < miou["render_a"] - 0.15, (other, miou)

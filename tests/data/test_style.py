"""Exchange of style: the formula of FDA, and crops that depend on nothing but their step and slot."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mgcda_dist.data.augment import AugmentParams, Transform
from mgcda_dist.data.pixels import Pixels
from mgcda_dist.data.plan import Plan, StreamPlan
from mgcda_dist.data.reader import ShardReader
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.data.stream import FrameSource, TrainingStream
from mgcda_dist.data.style import with_style_of
from tests.support.shards import LUT, frame, write_frames


def reference(target: Pixels, source: Pixels, band: float) -> NDArray[np.float64]:
    """Equation 3 with whole, shifted spectra; a frequency is low if it is at most ⌊β·min(H, W)⌋ on both axes."""
    height, width = source.shape[:2]
    reach = int(band * min(height, width))
    low = np.outer(np.abs(np.fft.fftfreq(height) * height).round() <= reach,
                   np.abs(np.fft.fftfreq(width) * width).round() <= reach)  # fmt: skip
    result = np.empty(source.shape)
    for channel in range(3):
        ours, theirs = np.fft.fft2(source[:, :, channel]), np.fft.fft2(target[:, :, channel])
        amplitude = np.where(low, np.abs(theirs), np.abs(ours))
        result[:, :, channel] = np.fft.ifft2(amplitude * np.exp(1j * np.angle(ours))).real
    return result


@pytest.mark.parametrize("size", [(32, 48), (33, 47), (48, 31)])
@pytest.mark.parametrize("band", [0.0, 0.01, 0.05, 0.2, 0.49])
def test_it_is_the_formula(size: tuple[int, int], band: float):
    rng = np.random.default_rng(0)
    source, target = (rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(2))
    expected = reference(target, source, band).clip(0, 255)
    assert np.abs(with_style_of(target, source, band) - expected).max() < 0.51, "rounded to whole grey levels"


def test_the_lowest_frequency_is_the_mean_colour_and_a_picture_keeps_its_own_style():
    image, _ = frame(0)
    grey = np.full_like(image, 100)
    assert with_style_of(grey, image, 0.0).mean() == pytest.approx(100, abs=2)
    np.testing.assert_allclose(with_style_of(image, image, 0.05), image, atol=1)
    np.testing.assert_array_equal(with_style_of(image, np.zeros_like(image), 0.0).std(axis=(0, 1)), 0)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    folder = tmp_path_factory.mktemp("style")
    return [write_frames(folder / name, 5, seed=seed, per_shard=2) for seed, name in enumerate("ab")]


def stream(shards: list[Manifest], style: float, domains: tuple[int, int] = (0, 1), **options: Any) -> TrainingStream:
    plan = Plan([StreamPlan(name, shards[i].shard_sizes, 4) for i, name in enumerate("ab")], 0, 2)
    sources = [FrameSource(name, ShardReader(shards[i]), LUT, domain=domains[i]) for i, name in enumerate("ab")]
    return TrainingStream(plan, sources, Transform((32, 48), AugmentParams(style=style)), num_steps=2, **options)


def test_the_same_crops_on_any_number_of_ranks_and_labels_are_untouched(shards: list[Manifest]):
    whole, plain = stream(shards, 0.5)[1], stream(shards, 0.0)[1]
    parts = [stream(shards, 0.5, rank=rank, world_size=4)[1] for rank in range(4)]
    assert torch.equal(torch.cat([part.image for part in parts]), whole.image)
    assert torch.equal(whole.label, plain.label)
    changed = [not torch.equal(a, b) for a, b in zip(whole.image, plain.image, strict=True)]
    assert 0 < sum(changed) < 8, "some, by draw; the others are as they were"


def test_style_comes_from_another_domain(shards: list[Manifest]):
    assert torch.equal(stream(shards, 1.0, domains=(0, 0))[0].image, stream(shards, 0.0)[0].image)
    styled = dataclasses.astuple(stream(shards, 1.0)[0])[0]
    assert all(not torch.equal(a, b) for a, b in zip(styled, stream(shards, 0.0)[0].image, strict=True))

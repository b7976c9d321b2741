"""The decoder: any pyramid, memory formats, seeded initialisation."""

from __future__ import annotations

import pytest
import torch

from mgcda_dist.models.decoder import Decoder

WIDTHS = {"stride4": 8, "stride8": 12, "stride16": 20, "stride32": 40}


def pyramid(names: list[str], num_images: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    strides = {name: int(name.removeprefix("stride")) for name in names}
    return {n: torch.randn(num_images, WIDTHS[n], 64 // s, 96 // s, generator=generator) for n, s in strides.items()}


@pytest.mark.parametrize(
    "names", [["stride4", "stride8", "stride16", "stride32"], ["stride32", "stride8"], ["stride16"]]
)
def test_any_pyramid_ends_at_stride_4(names):
    decoder = Decoder({name: WIDTHS[name] for name in names}, num_classes=5, channels=24)
    logits, embedding = decoder(pyramid(names))
    assert logits.shape == (2, 5, 16, 24)
    assert embedding.shape == (2, 24, 16, 24)


def test_channels_last_gives_the_same():
    decoder = Decoder(WIDTHS, 5, 24)
    stages = pyramid(list(WIDTHS))
    logits = decoder(stages)[0]
    decoder = decoder.to(memory_format=torch.channels_last)
    stages = {name: x.contiguous(memory_format=torch.channels_last) for name, x in stages.items()}
    torch.testing.assert_close(decoder(stages)[0], logits, rtol=1e-4, atol=1e-5)

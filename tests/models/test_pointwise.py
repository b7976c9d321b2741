"""1×1 convolutions by oneDNN: the same values and gradients, by the other operator."""

from __future__ import annotations

import platform
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from mgcda_dist.models.pointwise import by_onednn

CPU = torch.device("cpu")
OWN, ONEDNN = "aten::_slow_conv2d_forward", "aten::mkldnn_convolution"
ONE_PIXEL = [nn.Conv2d(6, 8, 1), nn.Conv2d(6, 6, 1, groups=2, bias=False), nn.Conv2d(6, 8, 1, padding=1)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def computed(network: nn.Module) -> tuple[list[Tensor], set[str]]:
    """The output, all gradients, and the operators that made them."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 6, 9, 7, generator=generator).to(memory_format=torch.channels_last).requires_grad_()
    network.zero_grad()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        out = network(image)
        (out * torch.arange(out.numel()).view_as(out) / out.numel()).sum().backward()
    gradients = [x.grad for x in (image, *network.parameters()) if x.grad is not None]
    return [out.detach(), *(gradient.clone() for gradient in gradients)], {each.key for each in seen.key_averages()}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="for x86")
@pytest.mark.parametrize("network", ONE_PIXEL)
def test_the_values_are_the_same_by_the_other_operator(network: nn.Conv2d) -> None:
    before, operators = computed(network)
    assert OWN in operators and ONEDNN not in operators, "torch itself uses oneDNN: remove the module"
    by_onednn(network, CPU)
    after, operators = computed(network)
    assert ONEDNN in operators and OWN not in operators
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)  # sums of a hundred terms of size 1


@pytest.mark.parametrize("network", [nn.Conv2d(6, 8, 3), nn.Conv2d(6, 8, (1, 3)), nn.Conv2d(6, 8, 1).double()])
def test_others_are_left_as_they_are(network: nn.Conv2d) -> None:
    by_onednn(network, CPU)
    assert network.dilation == (1, 1)


def test_so_are_all_on_a_gpu_and_on_other_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Conv2d(6, 8, 1)
    by_onednn(network, torch.device("cuda", 0))
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    by_onednn(network, CPU)
    assert network.dilation == (1, 1)

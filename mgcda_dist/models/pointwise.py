"""1×1 convolutions on processors: computed by oneDNN whatever the number of threads."""

from __future__ import annotations

import platform

import torch
from torch import nn

__all__ = ["by_onednn"]

_X86 = ("x86_64", "amd64")


def by_onednn(network: nn.Module, device: torch.device) -> None:
    """Let the 1×1 convolutions of a network be computed by oneDNN, as all others are, if its device is the processor.

    With one thread and fewer than 16 images torch takes them for its own code instead (`use_mkldnn` in its
    Convolution.cpp), which needs up to twice as long, unless they are strided or dilated. A kernel of one pixel can be
    called dilated: it is the same kernel. On GPUs nothing is gained, and a graph that is exported would say it.
    """
    # Measured on x86; the library that oneDNN asks on ARM has no dilated convolutions.
    has_onednn = torch.backends.mkldnn.is_available() and platform.machine().lower() in _X86
    if device.type != "cpu" or not has_onednn:
        return
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.weight.dtype == torch.float32:
            module.dilation = (2, 2)

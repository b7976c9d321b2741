"""Time of a step, forward and backward pass, with frozen batch norms folded into their convolutions, and without.

    python benchmarks/folding.py [--pairs 10] [--backbones tf_efficientnet_lite0 resnet50]

Ratios of the processor time of one thread, of steps in pairs: other programs of the machine disturb them little.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from mgcda_dist.models.exported import bare_segmenter
from mgcda_dist.models.folding import fold_norms
from mgcda_dist.models.norm import FrozenBatchNorm

_SIZE = (192, 256)


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--backbones", nargs="+", default=["tf_efficientnet_lite0", "resnet50"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| backbone | norms folded | step folded / not, median | quartiles |\n|---|---:|---:|---|")
    for name in options.backbones:
        plain, folded = (bare_segmenter(name, norm="frozen", num_classes=7).train() for _ in range(2))
        norms = sum(isinstance(module, FrozenBatchNorm) for module in folded.modules())
        number = fold_norms(folded, _SIZE, "engine.fold_norm")
        low, middle, high = statistics.quantiles(_ratios(folded, plain, options.pairs), n=4)
        print(f"| {name} | {number} of {norms} | {middle:.3f} | {low:.3f} to {high:.3f} |", flush=True)


def _ratios(folded: nn.Module, plain: nn.Module, pairs: int) -> list[float]:
    image = (torch.arange(4 * 3 * _SIZE[0] * _SIZE[1]) * 2654435761 % 251).view(4, 3, *_SIZE).to(torch.uint8)
    found: list[float] = []
    for pair in range(-1, pairs):
        times = {network: _step(network, image) for network in ((folded, plain), (plain, folded))[pair % 2]}
        if pair >= 0:  # the first one warms up
            found.append(times[folded] / times[plain])
    return found


def _step(network: nn.Module, image: torch.Tensor) -> float:
    network.zero_grad()
    start = time.process_time()
    network(image).logits.square().mean().backward()
    return time.process_time() - start


if __name__ == "__main__":
    main()

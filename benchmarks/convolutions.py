"""Time of a step on one thread with what is done to convolutions, and without.

    python benchmarks/convolutions.py [--pairs 10] [--backbones tf_efficientnet_lite0 resnet50]

*oneDNN*: 1×1 convolutions are computed by oneDNN (`models/pointwise.py`). *folded*: frozen batch norms are computed
within their convolutions (`engine.fold_norm`), both sides with oneDNN. Ratios of processor time, of steps in pairs:
other programs of the machine disturb them little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import cache

import torch
from torch import nn

from mgcda_dist.models.exported import bare_segmenter
from mgcda_dist.models.folding import fold_norms
from mgcda_dist.models.pointwise import by_onednn
from mgcda_dist.tables import Column, Table, markdown

_SIZE = (192, 256)
_CPU = torch.device("cpu")


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--backbones", nargs="+", default=["tf_efficientnet_lite0", "resnet50"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[list[str]] = []
    for name in options.backbones:
        plain, onednn, folded = (bare_segmenter(name, norm="frozen", num_classes=7).train() for _ in range(3))
        by_onednn(onednn, _CPU)
        by_onednn(folded, _CPU)
        fold_norms(folded, _SIZE, "engine.fold_norm")
        for change, once, one, other in (
            ("oneDNN, training", _step, onednn, plain),
            ("oneDNN, evaluation", _evaluation, onednn, plain),
            ("folded, training", _step, folded, onednn),
        ):
            low, middle, high = statistics.quantiles(_ratios(once, one, other, options.pairs), n=4)
            rows.append([name, change, f"{middle:.2f}", f"{low:.2f} – {high:.2f}"])
    texts = [Column(title, align="left") for title in ("backbone", "change")]
    print(markdown(Table([*texts, Column("with / without"), Column("quartiles")], rows)))


def _ratios(once: Callable[[nn.Module], None], one: nn.Module, other: nn.Module, pairs: int) -> list[float]:
    found: list[float] = []
    for pair in range(-1, pairs):
        times: dict[nn.Module, float] = {}
        for network in ((one, other), (other, one))[pair % 2]:
            start = time.process_time()
            once(network)
            times[network] = time.process_time() - start
        if pair >= 0:  # the first one warms up
            found.append(times[one] / times[other])
    return found


def _step(network: nn.Module) -> None:
    network.zero_grad()
    network(_images(4)).logits.square().mean().backward()


@torch.no_grad()
def _evaluation(network: nn.Module) -> None:
    network(_images(1))


@cache
def _images(number: int) -> torch.Tensor:
    pixels = torch.arange(number * 3 * _SIZE[0] * _SIZE[1]) * 2654435761 % 251
    return pixels.view(number, 3, *_SIZE).to(torch.uint8)


if __name__ == "__main__":
    main()

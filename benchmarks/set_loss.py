"""The share of a training step of a tiny Mask2Former that matching costs, and what a frozen network saves.

    python benchmarks/set_loss.py [--pairs 12] [--config configs/methods/eam.yaml]

Steps (forward pass, set loss, backward pass) come in pairs, with matching and with the matches of the step before; a
ratio is of the processor time of one thread, so that other programs of the machine disturb it little. Images and labels
are made up: labels of rectangles of every class.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from mgcda_dist import build
from mgcda_dist.config.load import load_config
from mgcda_dist.method.terms import LossContext
from mgcda_dist.models.freezing import freeze
from mgcda_dist.plugins import set_loss
from mgcda_dist.plugins.set_loss import SetLoss

_LABEL_STRIDE = 4


def main() -> None:
    """Print both figures as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--config", default="configs/methods/eam.yaml")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(options.config).config
    network, loss = build.segmenter(config), SetLoss(**config.loss.arguments)
    size, classes, images = config.data.crop_px, len(config.data.class_names), 4
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (images, 3, *size), generator=generator, dtype=torch.uint8)
    label = _rectangles(images, size, classes, generator)
    step = _stepper(network, loss, image, label)
    ratios = _paired(step, options.pairs)
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"| step of {config.model.shown}, {images} crops of {size[0]}×{size[1]} | ratio |\n|---|---|")
    found = f"{middle:.3f} (quartiles {low:.3f} and {high:.3f})"
    print(f"| with matching / without, median of {len(ratios)} pairs | {found} |")
    whole, rest = _kept_bytes(build.segmenter(config), image), _kept_bytes(_frozen(config), image)
    print(f"| bytes kept for the backward pass, backbone frozen / learning | {rest / whole:.3f} |")
    learning, all_of = _learning(_frozen(config)), _learning(build.segmenter(config))
    print(f"| parameters with state in the optimiser, backbone frozen / learning | {learning / all_of:.3f} |")


def _rectangles(images: int, size: tuple[int, int], classes: int, generator: torch.Generator) -> Tensor:
    height, width = size[0] // _LABEL_STRIDE, size[1] // _LABEL_STRIDE
    label = torch.zeros(images, height, width, dtype=torch.int64)
    for image in range(images):
        for kind in range(classes):
            y, x = (int(torch.randint(0, side // 2, (), generator=generator)) for side in (height, width))
            label[image, y : y + height // 3, x : x + width // 3] = kind
    return label


def _stepper(network: nn.Module, loss: SetLoss, image: Tensor, label: Tensor) -> Callable[[bool], float]:
    """Seconds of processor time of a step, with or without matching."""
    known: dict[str, Any] = {}

    def remembered(costs: dict[str, Tensor], present: Tensor) -> dict[str, Tensor]:
        known["matches"] = matched(costs, present)
        return known["matches"]

    matched = set_loss.matched_queries

    def step(matching: bool) -> float:
        start = time.process_time()
        with (
            patch.object(
                set_loss, "matched_queries", remembered if matching else lambda costs, present: known["matches"]
            ),
            nullcontext() if matching else patch.object(SetLoss, "_cost", lambda *_: torch.empty(0)),
        ):
            sums = loss(network(image), label, LossContext(0, 0.5, torch.arange(len(image))))
        torch.stack(list(sums.values())).sum().backward()
        network.zero_grad()
        return time.process_time() - start

    return step


def _paired(step: Callable[[bool], float], pairs: int) -> list[float]:
    for matching in (True, False, True, False):
        step(matching)
    ratios: list[float] = []
    for pair in range(pairs):
        first = pair % 2 == 0
        times = {first: step(first), (not first): step(not first)}
        ratios.append(times[True] / times[False])
    return ratios


def _frozen(config: Any) -> nn.Module:
    network = build.segmenter(config)
    freeze(network, [str(network.backbone)], "optim.freeze")
    return network


def _learning(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def _kept_bytes(network: nn.Module, image: Tensor) -> int:
    parameters, kept = {p.data_ptr() for p in network.parameters()}, list[int]()

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in parameters:
            kept.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(image)
    return sum(kept)


if __name__ == "__main__":
    main()

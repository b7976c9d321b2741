"""Floating-point operations of a training step, counted without computing it, and the most that a card can do.

The step runs once on tensors of the `meta` device, which have shapes and no values: nothing is drawn, no buffer moves,
no device waits. Counted are matrix products, convolutions and attention, an addition and a multiplication as two, as
the data sheets of cards do; what is computed again to save memory is not counted again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mgcda_dist.choices import Precision
from mgcda_dist.method.batch import Batch
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.method.mgcda import MGCDA
from mgcda_dist.models.activations import activations_kept

__all__ = ["micro_batch_flops", "peak_flops"]

_PEAKS: dict[tuple[str, ...], tuple[float, float, float]] = {
    ("H100", "PCIe"): (756, 378, 51),
    ("H100", "NVL"): (835, 418, 60),
    ("H100",): (989, 495, 67),
    ("GH200",): (989, 495, 67),
    ("H200", "NVL"): (835, 418, 60),
    ("H200",): (989, 495, 67),
    ("B200",): (2250, 1125, 75),
    ("A100",): (312, 156, 19.5),
    ("A30",): (165, 82, 10.3),
    ("L40S",): (362, 183, 91.6),
    ("L4",): (121, 60, 30.3),
}
"""Words of a card's name → 10¹² operations a second in bf16, TF32 and float32, dense. From NVIDIA's data sheets of the
cards, whose numbers with sparsity are halved. The first line whose words are all in the name is taken."""


def peak_flops(name: str, precision: Precision, *, tf32: bool) -> float | None:
    """Most operations a second of a card; None: it is not in the table.

    Args:
        name: as torch gives it, `NVIDIA H100 80GB HBM3`.
        precision: of the forward and backward passes.
        tf32: products of float32 may be rounded.
    """
    words = name.replace("-", " ").split()
    kind = 0 if precision != "fp32" else 1 if tf32 else 2
    return next((1e12 * peaks[kind] for wanted, peaks in _PEAKS.items() if set(wanted) <= set(words)), None)


def micro_batch_flops(model: MGCDA, images: int, size: tuple[int, int], *, num_unlabelled: int = 0) -> int:
    """Operations of the forward and backward pass of one micro-batch of this rank, over the whole method.

    The rows of the other ranks, which the contrast looks at, are left out. Call it before an engine slices the
    parameters, and from one thread.

    Args:
        model: on any device, in the mode in which it trains.
        size: height and width of the images.
        num_unlabelled: images that a teacher looks at.

    Raises:
        Exception: of any kind, where a network or loss looks at values.
    """
    from torch.utils.flop_counter import FlopCounterMode  # loads Triton, which processors have no use for

    unlabelled = torch.zeros(images, dtype=torch.bool, device="meta")
    label = torch.zeros(images, *size, dtype=torch.int64, device="meta")
    number = torch.zeros(images, dtype=torch.int64, device="meta")
    weak = _images(num_unlabelled, size) if model.teacher is not None else None
    batch = Batch(_images(images, size), label, number, number, 0, unlabelled=unlabelled, weak=weak)
    teacher = nullcontext() if model.teacher is None else model.teacher.answered_by(_shapes_of(model.teacher.network))
    world, model.collectives = model.collectives, _OneRank()
    try:
        # A compiled network is counted as it is written: a compiler's kernels have no formula.
        with (
            torch.compiler.set_stance("force_eager"),
            activations_kept(model.segmenter),
            teacher,
            FlopCounterMode(display=False) as counter,
        ):
            _shapes_of(model)(batch, 1.0).loss.backward()
    finally:
        model.collectives = world
    return int(counter.get_total_flops())


def _shapes_of(module: nn.Module) -> Callable[..., Any]:
    """The module as a function of `meta` tensors, with its own parameters and buffers as such."""
    found = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    shapes = {id(x): torch.empty_like(x, device="meta").requires_grad_(x.requires_grad) for _, x in found}
    state = {name: shapes[id(tensor)] for name, tensor in found}  # what is tied stays so
    return lambda *arguments: functional_call(module, state, arguments)


def _images(number: int, size: tuple[int, int]) -> Tensor:
    return torch.zeros(number, 3, *size, dtype=torch.uint8, device="meta")


class _OneRank(Collectives):
    """Sends nothing: shapes are those of a rank alone."""

    @property
    def size(self) -> int:
        return 1

    @property
    def rank(self) -> int:
        return 0

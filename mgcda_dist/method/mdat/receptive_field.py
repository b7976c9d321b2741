"""The width of what a cell of a discriminator sees of the image, measured by its gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mgcda_dist.method.randomness import uniform

__all__ = ["COVERAGE", "reach_px"]

COVERAGE = 0.9
"""Share of a cell's gradient that lies within its reach; the rest is spread thinly over the whole image."""
_NUM_IMAGES = 2
_STEP_PX = 4


def reach_px(cells: Callable[[Tensor], Tensor], height: int, width: int, coverage: float = COVERAGE) -> int:
    """Pixels around a cell in the middle that hold `coverage` of Σ |∂ output / ∂ image|, beyond the cell itself.

    Rounded up to a multiple of 4, so that the last bits of the arithmetic do not decide.

    It is the *effective* receptive field (Luo et al., arXiv 1701.04128): the theoretical one of a deep network often
    exceeds the image.

    Args:
        cells: images N×3×H×W in 0 … 255 → outputs N×c×h×w, differentiable.
        height, width: of the images to try, H and W.
        coverage: in (0, 1).
    """
    noise = 255.0 * uniform(0, torch.arange(_NUM_IMAGES * 3 * height * width))
    image = noise.float().view(_NUM_IMAGES, 3, height, width).requires_grad_()
    with torch.enable_grad():
        outputs = cells(image)
        row, column = outputs.shape[2] // 2, outputs.shape[3] // 2
        (gradient,) = torch.autograd.grad(outputs[:, :, row, column].float().sum(), image)
    distance = torch.maximum(
        _distance(height, row, outputs.shape[2]).unsqueeze(1), _distance(width, column, outputs.shape[3]).unsqueeze(0)
    )
    mass = torch.bincount(distance.flatten(), gradient.abs().sum(dim=(0, 1)).flatten().double())
    share = mass.cumsum(0) / mass.sum().clamp(min=torch.finfo(mass.dtype).tiny)
    return -(-int((share < coverage).sum()) // _STEP_PX) * _STEP_PX


def _distance(length: int, cell: int, num_cells: int) -> Tensor:
    """Distance of every pixel to the pixels of a cell, along one side."""
    first, last = cell * length // num_cells, -(-(cell + 1) * length // num_cells) - 1
    pixel = torch.arange(length)
    return (first - pixel).clamp(min=0) + (pixel - last).clamp(min=0)

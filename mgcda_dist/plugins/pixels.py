"""Parts that the losses of several methods share: which pixels, and sums over them."""

from __future__ import annotations

import torch
from torch import Tensor

from mgcda_dist.choices import ANOMALY
from mgcda_dist.models.outlier_losses import upsample

__all__ = ["anomaly_mask", "at_label", "class_nll", "inlier_mask", "sum_over"]


def inlier_mask(label: Tensor, num_classes: int) -> Tensor:
    """N×h×w bool: pixels of a class."""
    return label < num_classes


def sum_over(value: Tensor, *masks: Tensor) -> Tensor:
    """Sum of N×h×w over the pixels of any of the masks: a scalar that touches the graph even without any (law 3)."""
    mask = torch.stack(masks).any(dim=0)
    # A product with the mask would turn an infinite value outside of it into NaN.
    return torch.where(mask, value, 0).sum()


def at_label(x: Tensor, label: Tensor) -> Tensor:
    """An extra N×c×h×w at the size of labels N×H×W, float32 at least, as the logits are brought to it."""
    return upsample(x.to(torch.promote_types(x.dtype, torch.float32)), (label.shape[1], label.shape[2]))


def class_nll(log_p: Tensor, label: Tensor) -> Tensor:
    """-log p_y, N×h×w, for log-probabilities N×C×h×w; of pixels without a class some finite number."""
    inlier = inlier_mask(label, log_p.shape[1])
    return -log_p.gather(1, torch.where(inlier, label, 0).unsqueeze(1)).squeeze(1)


def anomaly_mask(label: Tensor) -> Tensor:
    """N×h×w bool: anomalous pixels."""
    return label == ANOMALY

"""Conditional discriminators: per location they are told the predicted class, so that classes are aligned one by one.

Under different shares of classes, aligning the features alone must hurt somewhere (Zhao et al., arXiv 1901.09453). The
predicted probabilities a = softmax(logits) are detached: MDAT moves features, not predictions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["certainty", "class_conditional", "class_probabilities", "outer_product"]


def class_probabilities(logits: Tensor, num_classes: int, size: tuple[int, int]) -> Tensor:
    """a at another resolution: the mean over the pixels of each cell, N×C'×H×W → N×C×h×w, C ≤ C'; detached."""
    probabilities = logits[:, :num_classes].detach().to(torch.promote_types(logits.dtype, torch.float32)).softmax(dim=1)
    return F.adaptive_avg_pool2d(probabilities, size)


def outer_product(features: Tensor, probabilities: Tensor) -> Tensor:
    """f ⊗ a, what the discriminator of CDAN sees (Long et al., arXiv 1705.10667): N×c×h×w, N×C×h×w → N×c·C×h×w."""
    return (features.unsqueeze(2) * probabilities.to(features.dtype).unsqueeze(1)).flatten(1, 2)


def class_conditional(logits: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Answers of a discriminator with an output per domain and class (FADA: Wang et al., arXiv 2007.09222).

    The features' game is about the domain within each class: log p(m, k) = log p(m | k) + log p(k), and features that
    run from all of it would also lose their class, which FADA's flipped targets do not ask either.

    Args:
        logits: N×M·C×h×w, of p(m, k).
        probabilities: a, N×C×h×w.

    Returns:
        log Σ_k e^{logit_mk}, the logits of the domain alone; and what takes the place of log p(m) in a cross-entropy:
        Σ_k a_k log p(m, k) for the discriminator, Σ_k a_k log p(m | k) for the features. All N×M×h×w.
    """
    shape = (len(logits), -1, *probabilities.shape[1:])  # N×M×C×h×w
    joint, log_p, share = logits.reshape(shape), logits.log_softmax(dim=1).reshape(shape), probabilities.unsqueeze(1)
    within = joint.log_softmax(dim=1)
    return joint.logsumexp(dim=2), (log_p * share).sum(dim=2), (within * share).sum(dim=2)


def certainty(probabilities: Tensor) -> Tensor:
    """(1 + e^{-H(a)}) / 2, H in nats: 1 for a sure prediction (CDAN+E, arXiv 1705.10667); N×C×h×w → N×h×w.

    Half of the published 1 + e^{-H}, and not normalised by its own mean, which only a forward pass would know.
    """
    entropy = -torch.xlogy(probabilities, probabilities).sum(dim=1)
    return (1.0 + torch.exp(-entropy)) / 2.0

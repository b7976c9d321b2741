"""z = normalize(proj(embedding)): the head that maps an embedding to the sphere where pixels are contrasted."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ProjectionHead"]


class ProjectionHead(nn.Module):
    """1×1 convolution, ReLU, 1×1 convolution, written as linear layers because only sampled pixels pass through it.

    Args:
        in_dim: D, channels of the embedding.
        out_dim: K.
    """

    def __init__(self, in_dim: int, out_dim: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(in_dim, in_dim), nn.ReLU(), nn.Linear(in_dim, out_dim))

    def forward(self, embedding: Tensor) -> Tensor:
        """…×D → …×K, unit length, at least float32."""
        z = self.layers(embedding)
        return F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)), dim=-1)

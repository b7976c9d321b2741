"""The memory: ring buffers of sampled pixels, one per (domain, side), so that inliers never push out anomalies.

Layout `replicated`: every rank holds all rows. What enters is the gathered, detached sample of every rank in global
order, so all ranks hold the same bytes without a further collective.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["MemoryQueue", "Rows"]


@dataclass(frozen=True)
class Rows:
    """Sampled pixels.

    Attributes:
        z: R×K, unit length.
        type: R, int64: inlier class, or C for anomaly.
        domain: R, int64.
        id: R, int64: names the row for random draws, equal on every rank.
    """

    z: Tensor
    type: Tensor
    domain: Tensor
    id: Tensor

    def __len__(self) -> int:
        return len(self.type)

    @staticmethod
    def concat(*parts: Rows) -> Rows:
        """All rows, one after the other."""
        return Rows(*(torch.cat([getattr(part, name) for part in parts]) for name in ("z", "type", "domain", "id")))


class MemoryQueue(nn.Module):
    """Ring buffers of (embedding, type, step) per (domain, side).

    Args:
        num_domains: M.
        num_classes: C; type C is anomaly.
        capacity: rows per ring; 0 disables the memory.
        dim: K.
    """

    z: Tensor
    types: Tensor
    steps: Tensor
    cursor: Tensor

    def __init__(self, num_domains: int, num_classes: int, capacity: int, dim: int) -> None:
        super().__init__()
        self.num_classes, self.capacity = num_classes, capacity
        rings = 2 * num_domains
        self.register_buffer("z", torch.zeros(rings, capacity, dim))
        self.register_buffer("types", torch.zeros(rings, capacity, dtype=torch.int64))
        self.register_buffer("steps", torch.full((rings, capacity), -1, dtype=torch.int64))  # -1: empty
        self.register_buffer("cursor", torch.zeros(rings, dtype=torch.int64))

    def rows(self) -> Rows:
        """All filled rows, in ring order. Their ids are negative: they never collide with rows of the batch."""
        filled = (self.steps >= 0).flatten()
        place = torch.arange(filled.numel(), device=filled.device)
        domain = place // max(self.capacity, 1) // 2
        # A clone: the buffers change in `push`, before the backward pass of an accumulated loss may have run.
        z, types = self.z.flatten(0, 1)[filled], self.types.flatten()[filled]
        return Rows(z, types, domain[filled], -1 - place[filled])

    @torch.no_grad()
    def push(self, rows: Rows, step: int) -> None:
        """Append rows in the given order; of more rows than a ring holds, the last ones stay."""
        if self.capacity == 0 or len(rows) == 0:
            return
        side = (rows.type == self.num_classes).to(torch.int64)
        ring = rows.domain * 2 + side
        entering = torch.bincount(ring, minlength=len(self.cursor))
        by_ring = torch.argsort(ring, stable=True)
        start = entering.cumsum(0) - entering
        nth = torch.empty_like(ring).scatter_(
            0, by_ring, torch.arange(len(ring), device=ring.device) - start[ring[by_ring]]
        )
        kept = nth >= (entering - self.capacity)[ring]
        ring, nth = ring[kept], nth[kept]
        place = (self.cursor[ring] + nth) % self.capacity
        self.z[ring, place] = rows.z.detach()[kept].to(self.z.dtype)
        self.types[ring, place] = rows.type[kept]
        self.steps[ring, place] = step
        self.cursor.copy_((self.cursor + entering) % self.capacity)

    def health(self, step: int) -> dict[str, float]:
        """Fill in [0, 1] per side, and mean age in steps of the filled rows."""
        filled = self.steps >= 0
        if self.capacity == 0:
            return {}
        age = (step - self.steps[filled]).to(torch.float32)
        return {
            "queue_fill_inlier": filled[0::2].float().mean().item(),
            "queue_fill_anomaly": filled[1::2].float().mean().item(),
            "queue_age_steps": age.mean().item() if len(age) else 0.0,
        }

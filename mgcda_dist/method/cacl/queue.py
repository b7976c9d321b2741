"""The memory: ring buffers of sampled pixels, one per (domain, side), so that inliers never push out anomalies.

What enters is the gathered, detached sample of every rank in global order, so no further collective is needed. What is
known of the rows (type, step, difficulty) is on every rank. The embeddings have two layouts:

- `replicated`: every rank holds all of them;
- `sharded`: rank r of W holds the places r, r+W, r+2W, … of each ring; memory per rank falls as 1/W.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["MemoryQueue", "PixelMetadata"]


@dataclass(frozen=True)
class PixelMetadata:
    """What is known of sampled pixels, on every rank and in the same order.

    Attributes:
        type: R, int64: inlier class, or C for anomaly.
        domain: R, int64.
        difficulty: R, float: higher is harder, comparable within inliers and within anomalies.
        id: R, int64: names the row for random draws.
    """

    type: Tensor
    domain: Tensor
    difficulty: Tensor
    id: Tensor

    def __len__(self) -> int:
        return len(self.type)

    @staticmethod
    def concat(*parts: PixelMetadata) -> PixelMetadata:
        """All rows, one after the other."""
        return PixelMetadata(
            *(torch.cat([getattr(part, name) for part in parts]) for name in PixelMetadata.__dataclass_fields__)
        )


class MemoryQueue(nn.Module):
    """Ring buffers of (embedding, type, difficulty, step) per (domain, side).

    Args:
        num_domains: M.
        num_classes: C; type C is anomaly.
        capacity: rows per ring; 0 disables the memory.
        dim: K.
        shard: (rank, W) of the sharded layout, whose embeddings are no part of the state dict: each rank saves its
            `shard_state`. None: replicated, all in the state dict.
    """

    z: Tensor
    types: Tensor
    difficulties: Tensor
    steps: Tensor
    cursor: Tensor

    def __init__(
        self, num_domains: int, num_classes: int, capacity: int, dim: int, shard: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        self.num_classes, self.capacity, self.is_sharded = num_classes, capacity, shard is not None
        self._rank, self._num_shards = shard or (0, 1)
        rings, places = 2 * num_domains, -(-capacity // self._num_shards)
        self.register_buffer("z", torch.zeros(rings, places, dim), persistent=not self.is_sharded)
        self.register_buffer("types", torch.zeros(rings, capacity, dtype=torch.int64))
        self.register_buffer("difficulties", torch.zeros(rings, capacity))
        self.register_buffer("steps", torch.full((rings, capacity), -1, dtype=torch.int64))  # -1: empty
        self.register_buffer("cursor", torch.zeros(rings, dtype=torch.int64))

    def rows(self) -> PixelMetadata:
        """What is known of all filled rows, in ring order. Ids are negative: none is a row's of the batch."""
        filled = (self.steps >= 0).flatten()
        place = torch.arange(filled.numel(), device=filled.device)[filled]
        domain = place // max(self.capacity, 1) // 2
        return PixelMetadata(self.types.flatten()[filled], domain, self.difficulties.flatten()[filled], -1 - place)

    def held(self) -> tuple[Tensor, Tensor]:
        """The filled rows that this rank holds: their positions among `rows()`, and their embeddings R'×K."""
        filled = self.steps >= 0
        here = torch.zeros_like(filled)
        here[:, self._rank :: self._num_shards] = True
        ring, place = torch.nonzero(filled & here, as_tuple=True)
        # A copy: the buffers change in `push`, before the backward pass of an accumulated loss may have run.
        return torch.nonzero(here[filled])[:, 0], self.z[ring, place // self._num_shards]

    @torch.no_grad()
    def push(self, rows: PixelMetadata, z: Tensor, step: int) -> None:
        """Append rows (with their embeddings, R×K) in the given order; of more rows than a ring holds the last stay."""
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
        place = (self.cursor[ring] + nth) % self.capacity
        self.types[ring[kept], place[kept]] = rows.type[kept]
        self.difficulties[ring[kept], place[kept]] = rows.difficulty[kept].to(self.difficulties.dtype)
        self.steps[ring[kept], place[kept]] = step
        mine = kept & (place % self._num_shards == self._rank)
        self.z[ring[mine], place[mine] // self._num_shards] = z.detach()[mine].to(self.z.dtype)
        self.cursor.copy_((self.cursor + entering) % self.capacity)

    def shard_state(self) -> dict[str, Tensor]:
        """This rank's embeddings of the sharded layout, with which of how many shards they are."""
        return {"z": self.z.detach().cpu().contiguous(), "shard": torch.tensor([self._rank, self._num_shards])}

    @torch.no_grad()
    def load_shards(self, shards: Iterable[dict[str, Tensor]]) -> None:
        """Take this rank's places from the `shard_state` of all ranks of any world size.

        Raises:
            ValueError: the shards are not those of one memory of this size, or some are missing.
        """
        seen: set[int] = set()
        places = torch.arange(self._rank, self.capacity, self._num_shards)
        for state in shards:
            rank, num_shards = (int(number) for number in state["shard"])
            wanted = (self.z.shape[0], -(-self.capacity // num_shards), self.z.shape[2])
            if tuple(state["z"].shape) != wanted:
                raise ValueError(f"shard {rank} of {num_shards} is {tuple(state['z'].shape)}, wanted is {wanted}")
            here = places % num_shards == rank
            self.z[:, : len(places)][:, here.to(self.z.device)] = state["z"][:, places[here] // num_shards].to(self.z)
            seen.add(rank)
            if seen == set(range(num_shards)):
                return
        raise ValueError(f"of the memory's shards only {sorted(seen)} are there")

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

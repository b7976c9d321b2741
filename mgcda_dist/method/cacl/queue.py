"""The memory: ring buffers of sampled pixels, one per (domain, side), so that inliers never push out anomalies.

The gathered, detached samples of all ranks enter in global order, so that no further collective is needed. The metadata
of the rows (type, step, difficulty) is on every rank. The embeddings have two layouts:

- `replicated`: every rank stores all of them;
- `sharded`: rank r of W stores rows r, r+W, r+2W, … of each ring; memory per rank falls as 1/W.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mgcda_dist.method.cacl.sampler import rank_within

__all__ = ["MemoryQueue", "PixelMetadata", "few_per_image"]


@dataclass(frozen=True)
class PixelMetadata:
    """Type, domain, difficulty and id of sampled pixels, equal on every rank.

    Attributes:
        type: R, int64: inlier class, or C for anomaly.
        domain: R, int64.
        difficulty: R, float: higher is harder, comparable within inliers and within anomalies.
        id: R, int64: key of the row for random draws.
    """

    type: Tensor
    domain: Tensor
    difficulty: Tensor
    id: Tensor

    def __len__(self) -> int:
        return len(self.type)

    @staticmethod
    def concat(*parts: PixelMetadata) -> PixelMetadata:
        """Concatenation along the rows."""
        return PixelMetadata(
            *(torch.cat([getattr(part, name) for part in parts]) for name in PixelMetadata.__dataclass_fields__)
        )

    def where(self, mask: Tensor) -> PixelMetadata:
        """The rows that an R bool mask names."""
        return PixelMetadata(*(getattr(self, name)[mask] for name in PixelMetadata.__dataclass_fields__))


def few_per_image(image: Tensor, types: Tensor, chance: Tensor, limit: int) -> Tensor:
    """Of each image and type the `limit` rows with the smallest draw: R int64, R int64, R in [0, 1) → R bool."""
    group = image * (types.max() + 1 if len(types) else 1) + types
    return rank_within(group.unsqueeze(0), chance.unsqueeze(0))[0] < limit


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
        rings, local_capacity = 2 * num_domains, -(-capacity // self._num_shards)
        self.register_buffer("z", torch.zeros(rings, local_capacity, dim), persistent=not self.is_sharded)
        self.register_buffer("types", torch.zeros(rings, capacity, dtype=torch.int64))
        self.register_buffer("difficulties", torch.zeros(rings, capacity))
        self.register_buffer("steps", torch.full((rings, capacity), -1, dtype=torch.int64))  # -1: empty
        self.register_buffer("cursor", torch.zeros(rings, dtype=torch.int64))

    def metadata(self) -> PixelMetadata:
        """Metadata of all filled rows, in ring order. Ids are negative: those of rows of the batch are not."""
        filled = (self.steps >= 0).flatten()
        index = torch.arange(filled.numel(), device=filled.device)[filled]
        domain = index // max(self.capacity, 1) // 2
        return PixelMetadata(self.types.flatten()[filled], domain, self.difficulties.flatten()[filled], -1 - index)

    def local_rows(self) -> tuple[Tensor, Tensor]:
        """Filled rows whose embeddings this rank stores: their indices in `metadata()`, and the embeddings R'×K."""
        filled = self.steps >= 0
        is_local = torch.zeros_like(filled)
        is_local[:, self._rank :: self._num_shards] = True
        ring, row = torch.nonzero(filled & is_local, as_tuple=True)
        # A copy: the buffers change in `push`, before the backward pass of an accumulated loss may have run.
        return torch.nonzero(is_local[filled])[:, 0], self.z[ring, row // self._num_shards]

    @torch.no_grad()
    def push(self, metadata: PixelMetadata, z: Tensor, step: int) -> None:
        """Append rows (metadata, embeddings R×K) in the given order; a ring that overflows keeps the last ones."""
        if self.capacity == 0 or len(metadata) == 0:
            return
        side = (metadata.type == self.num_classes).to(torch.int64)
        ring = metadata.domain * 2 + side
        entering = torch.bincount(ring, minlength=len(self.cursor))
        by_ring = torch.argsort(ring, stable=True)
        start = entering.cumsum(0) - entering
        nth = torch.empty_like(ring).scatter_(
            0, by_ring, torch.arange(len(ring), device=ring.device) - start[ring[by_ring]]
        )
        mask = nth >= (entering - self.capacity)[ring]
        row = (self.cursor[ring] + nth) % self.capacity
        self.types[ring[mask], row[mask]] = metadata.type[mask]
        self.difficulties[ring[mask], row[mask]] = metadata.difficulty[mask].to(self.difficulties.dtype)
        self.steps[ring[mask], row[mask]] = step
        local = mask & (row % self._num_shards == self._rank)
        self.z[ring[local], row[local] // self._num_shards] = z.detach()[local].to(self.z.dtype)
        self.cursor.copy_((self.cursor + entering) % self.capacity)

    def shard_state(self) -> dict[str, Tensor]:
        """This rank's embeddings of the sharded layout, and (rank, W)."""
        return {"z": self.z.detach().cpu().contiguous(), "shard": torch.tensor([self._rank, self._num_shards])}

    @torch.no_grad()
    def load_shards(self, shards: Iterable[dict[str, Tensor]]) -> None:
        """Take this rank's rows from the `shard_state` of all ranks of any world size.

        Raises:
            ValueError: the shards are not those of one memory of this size, or some are missing.
        """
        seen: set[int] = set()
        rows = torch.arange(self._rank, self.capacity, self._num_shards)
        for state in shards:
            rank, num_shards = (int(number) for number in state["shard"])
            wanted = (self.z.shape[0], -(-self.capacity // num_shards), self.z.shape[2])
            if tuple(state["z"].shape) != wanted:
                raise ValueError(f"shard {rank} of {num_shards} is {tuple(state['z'].shape)}, wanted is {wanted}")
            of_shard = rows % num_shards == rank
            loaded = state["z"][:, rows[of_shard] // num_shards].to(self.z)
            self.z[:, : len(rows)][:, of_shard.to(self.z.device)] = loaded
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

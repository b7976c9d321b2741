"""The memory: ring buffers of sampled pixels, one per (domain, side), so that inliers never push out anomalies.

The gathered, detached samples of all ranks enter in global order, so that no further collective is needed. The metadata
of the rows (type, step, difficulty) is on every rank. The embeddings have two layouts:

- `replicated`: every rank stores all of them;
- `sharded`: rank r of W stores rows r, r+W, r+2W, … of each ring; memory per rank falls as 1/W.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mgcda_dist.method.cacl.sampler import NO_TYPE, rank_within

__all__ = ["MemoryQueue", "PixelMetadata", "few_per_image"]


@dataclass(frozen=True)
class PixelMetadata:
    """Type, domain, difficulty and id of rows for sampled pixels, equal on every rank.

    Every step has the same number of rows, filled or not: a number that depends on the data would have to be read by
    the host, which a GPU waits for.

    Attributes:
        type: R, int64: inlier class, C for anomaly, or -1 for a row that is empty: nothing else of it means anything.
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

    @property
    def is_filled(self) -> Tensor:
        """R, bool."""
        return self.type != NO_TYPE

    def emptied(self, mask: Tensor) -> PixelMetadata:
        """The same rows, of which those outside of an R bool mask are empty."""
        return replace(self, type=torch.where(mask, self.type, NO_TYPE))

    @staticmethod
    def concat(*parts: PixelMetadata) -> PixelMetadata:
        """Concatenation along the rows."""
        return PixelMetadata(
            *(torch.cat([getattr(part, name) for part in parts]) for name in PixelMetadata.__dataclass_fields__)
        )

    def where(self, chosen: Tensor) -> PixelMetadata:
        """The rows that an R bool mask or a vector of indices names."""
        return PixelMetadata(*(getattr(self, name)[chosen] for name in PixelMetadata.__dataclass_fields__))


def few_per_image(image: Tensor, types: Tensor, chance: Tensor, limit: int) -> Tensor:
    """Of each image and type the `limit` rows with the smallest draw: R int64, R int64, R in [0, 1) → R bool.

    Rows of type -1 are none of them.
    """
    group = image * (types.max() + 2 if len(types) else 1) + types + 1
    return (types != NO_TYPE) & (rank_within(group.unsqueeze(0), chance.unsqueeze(0))[0] < limit)


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

    def rows(self) -> PixelMetadata:
        """Metadata of all rows, filled or not, in ring order. Ids are negative: those of rows of the batch are not."""
        index = torch.arange(self.steps.numel(), device=self.steps.device)
        domain = index // max(self.capacity, 1) // 2
        rows = PixelMetadata(self.types.flatten(), domain, self.difficulties.flatten(), -1 - index)
        return rows.emptied((self.steps >= 0).flatten())

    def held(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows whose embeddings this rank stores, filled or not.

        Returns:
            Their indices in `rows()`, R' int64; R' bool: false for storage beyond the last row, where the index is that
            of another; and the embeddings R'×K.
        """
        rings, num_local, dim = self.z.shape
        row = self._rank + self._num_shards * torch.arange(num_local, device=self.z.device)
        exists = row < self.capacity
        ring = torch.arange(rings, device=self.z.device).unsqueeze(1)
        index = ring * self.capacity + row.clamp(max=max(self.capacity - 1, 0))
        # A copy: the buffers change in `push`, before the backward pass of an accumulated loss may have run.
        return index.flatten(), exists.expand(rings, -1).flatten(), self.z.view(-1, dim).clone()

    def metadata(self) -> PixelMetadata:
        """Metadata of the filled rows alone, for inspection."""
        rows = self.rows()
        return rows.where(rows.is_filled)

    def local_rows(self) -> tuple[Tensor, Tensor]:
        """Filled rows that this rank stores, for inspection: indices in `metadata()`, and the embeddings R'×K."""
        index, exists, z = self.held()
        filled = self.rows().is_filled
        mask = exists & filled[index]
        return (filled.cumsum(0) - 1)[index[mask]], z[mask]

    @torch.no_grad()
    def push(self, metadata: PixelMetadata, z: Tensor, step: int) -> None:
        """Append the filled rows (metadata, embeddings R×K) in their order; a ring that overflows keeps the last ones.

        Every place of a ring looks up the row that it gets: the last one that is a whole number of turns away.
        """
        if self.capacity == 0 or len(metadata) == 0:
            return
        rings = torch.arange(len(self.cursor), device=self.cursor.device)
        side = (metadata.type == self.num_classes).to(torch.int64)
        ring = torch.where(metadata.is_filled, metadata.domain * 2 + side, len(rings))  # empty rows come last
        entering = (ring == rings.unsqueeze(1)).sum(dim=1)
        by_ring = torch.argsort(ring, stable=True)
        start = entering.cumsum(0) - entering
        place = torch.arange(self.capacity, device=ring.device)
        first = (place - self.cursor.unsqueeze(1)) % self.capacity  # of the rows that enter, the first to come here
        turns = (entering.unsqueeze(1) - 1 - first) // self.capacity
        is_new = turns >= 0  # rings×capacity
        nth = start.unsqueeze(1) + first + turns * self.capacity
        row = by_ring[nth.clamp(min=0, max=len(ring) - 1)]
        self.types.copy_(torch.where(is_new, metadata.type[row], self.types))
        difficulty = metadata.difficulty.to(self.difficulties.dtype)
        self.difficulties.copy_(torch.where(is_new, difficulty[row], self.difficulties))
        self.steps.copy_(torch.where(is_new, step, self.steps))
        mine = slice(self._rank, None, self._num_shards)
        own = self.z[:, : len(place[mine])]
        own.copy_(torch.where(is_new[:, mine, None], z.detach().to(self.z.dtype)[row[:, mine]], own))
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

    def signals(self, step: int) -> dict[str, Tensor]:
        """Scalars: fill in [0, 1] per side, and mean age in steps of the filled rows; none without a memory."""
        filled = self.steps >= 0
        if self.capacity == 0:
            return {}
        fill = {"queue_fill_inlier": filled[0::2].float().mean(), "queue_fill_anomaly": filled[1::2].float().mean()}
        return fill | {"queue_age_steps": ((step - self.steps) * filled).sum() / filled.sum().clamp(min=1)}

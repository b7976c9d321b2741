"""CACL, sample level: the cross-domain contrastive loss over sampled pixels.

    L_cacl = mean_i -1/|P_i| Σ_{p∈P_i} log( e^{z_i·z_p/T} / ( e^{z_i·z_p/T} + Σ_{n∈N_i} e^{z_i·z_n/T} ) )

P_i: rows of the anchor's type, other domains first; N_i: rows of the opposite side of anomaly/inlier, from any domain,
most difficult first plus a random share (`selection`). An anchor without a positive contributes nothing and is not
counted. With the memory `replicated` a rank scores its own anchors against all rows; `sharded`, it scores all anchors
against the rows it holds, and the Σ over n∈N_i is summed over ranks. Both give the same loss and gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mgcda_dist.choices import CaclDefaults
from mgcda_dist.method.cacl.projection import ProjectionHead
from mgcda_dist.method.cacl.queue import MemoryQueue, PixelMetadata
from mgcda_dist.method.cacl.sampler import Budget
from mgcda_dist.method.cacl.selection import Choice, Selection
from mgcda_dist.method.collectives import Collectives, PendingGather
from mgcda_dist.method.randomness import stream_key

__all__ = ["CACL", "GatheredSample", "pull", "push_apart"]

_MASKED = -1e9  # finite: a row of masked logits must give a zero gradient, not a NaN


class GatheredSample(NamedTuple):
    """The sampled pixels of the global batch, after the gather.

    Attributes:
        rows: what is known of the R filled rows.
        z: R×K, unit length; gradients cross ranks.
        own: R, bool: sampled by this rank.
        num_places: rows reserved in the global batch, filled or not; `rows.id` is the place.
    """

    rows: PixelMetadata
    z: Tensor
    own: Tensor
    num_places: int


class CACL(nn.Module):
    """Projection head, sampling budget, memory queue and the loss over them.

    Args:
        embedding_dim: D.
        num_domains: M.
        budget: how many pixels are sampled.
        selection: how positives and negatives are chosen.
        projection_dim: K.
        temperature: T; with a sharded memory in single precision at least 0.025, or e^{-2/T} leaves its range.
        queue_rows: memory rows per (domain, side).
        queue_shard: (rank, W) to shard the memory over ranks; None: replicated.
        unlabelled_confidence: see `sampler.describe_pixels`.
        seed: of all draws.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_domains: int,
        budget: Budget,
        selection: Selection,
        *,
        projection_dim: int = CaclDefaults.projection_dim,
        temperature: float = CaclDefaults.temperature,
        queue_rows: int = CaclDefaults.queue_rows,
        queue_shard: tuple[int, int] | None = None,
        unlabelled_confidence: float | None = CaclDefaults.unlabelled_confidence,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.num_domains, self.budget, self.selection = num_domains, budget, selection
        self.temperature, self.seed = temperature, seed
        self.unlabelled_confidence = unlabelled_confidence
        self.projection = ProjectionHead(embedding_dim, projection_dim)
        self.queue = MemoryQueue(num_domains, budget.num_classes, queue_rows, projection_dim, queue_shard)

    def project(self, embedding: Tensor, index: Tensor) -> Tensor:
        """z of the sampled pixels: N×D×h×w, N×R → N·R×K; empty rows (index -1) give a value that is masked later."""
        place = index.clamp(min=0).unsqueeze(1).expand(-1, embedding.shape[1], -1)  # N×D×R
        picked = embedding.flatten(2).gather(2, place)
        return self.projection(picked.transpose(1, 2).flatten(0, 1))

    def send(
        self, z: Tensor, index: Tensor, difficulty: Tensor, domain: Tensor, collectives: Collectives
    ) -> PendingGather:
        """Start the one gather of CACL: this rank's rows, fixed shape plus mask.

        Args:
            z: N·R×K from `project`.
            index: N×R from `sampler.sample_pixels`.
            difficulty: N×P from `sampler.describe_pixels`.
            domain: N, int64.
            collectives: the ranks.
        """
        rows_per_image = self.budget.rows_per_image
        # What is known of a row travels as further columns: small integers are exact in floating point.
        known = torch.stack(
            [
                (index >= 0).flatten().to(z.dtype),
                domain.repeat_interleave(rows_per_image).to(z.dtype),
                difficulty.gather(1, index.clamp(min=0)).flatten().to(z.dtype),
            ],
            dim=1,
        )
        return collectives.start_gather(torch.cat([z, known], dim=1), "cacl_rows")

    def receive(self, pending: PendingGather, collectives: Collectives) -> GatheredSample:
        """Every rank's filled rows, in global order."""
        everywhere = pending.wait()
        rows_per_image = self.budget.rows_per_image
        types = torch.arange(rows_per_image, device=everywhere.device) - self.budget.max_anomaly_pixels
        types = torch.where(types < 0, self.budget.num_classes, types // self.budget.max_inlier_pixels)
        known = everywhere[:, -3:].detach()
        filled = known[:, 0] > 0.5
        place = torch.arange(len(everywhere), device=everywhere.device)
        rows = PixelMetadata(
            types.repeat(len(everywhere) // rows_per_image)[filled],
            known[filled, 1].round().to(torch.int64),
            known[filled, 2],
            place[filled],
        )
        own = place // (len(everywhere) // collectives.size) == collectives.rank
        return GatheredSample(rows, everywhere[filled, :-3], own[filled], len(everywhere))

    def share(
        self, sample: GatheredSample, step: int, first_slot: Tensor, collectives: Collectives
    ) -> tuple[Tensor, Tensor]:
        """This rank's share of L_cacl, and the number of anchors over all ranks.

        Args:
            sample: from `receive`.
            step: of training.
            first_slot: scalar, int64: first slot of the global micro-batch.
            collectives: the ranks; used by the sharded memory only.
        """
        candidates = PixelMetadata.concat(sample.rows, self.queue.rows())
        choice = Choice.of(
            candidates,
            num_domains=self.num_domains,
            anomaly_type=self.budget.num_classes,
            selection=self.selection,
            key=stream_key(self.seed, step, "contrast"),
            counter=first_slot,
        )
        batch = torch.arange(len(sample.rows), device=sample.z.device)
        remembered, z_memory = self.queue.held()
        # Anchors × rows: own × all, or all × held. Either way a W-th of all pairs.
        anchors = batch if self.queue.is_sharded else batch[sample.own]
        from_batch = batch[sample.own] if self.queue.is_sharded else batch
        held = torch.cat([from_batch, len(batch) + remembered])
        z_held = torch.cat([sample.z[from_batch], z_memory.to(sample.z.dtype)])
        used = choice.in_use()[held]
        held, z_held = held[used], z_held[used]

        similarity = sample.z[anchors] @ z_held.T / self.temperature  # A×R'
        log_repulsion = push_apart(similarity, choice.negatives(anchors, held))
        if self.queue.is_sharded:
            log_repulsion = self._over_ranks(log_repulsion, sample, collectives)
        per_anchor = pull(similarity, choice.positives(anchors, held, candidates), log_repulsion)
        total = (per_anchor / choice.num_positives[anchors].clamp(min=1)).sum() + 0.0 * sample.z.sum()
        count = (choice.num_positives[batch] > 0).sum()
        return collectives.size * total / count.clamp(min=1), count

    def _over_ranks(self, log_repulsion: Tensor, sample: GatheredSample, collectives: Collectives) -> Tensor:
        """log Σ over ranks of e^{log_repulsion}, A → A: one sum of fixed shape that gradients cross."""
        # PixelMetadata have unit length, so no exponent exceeds 1/T, and shifting by it needs no maximum over ranks.
        shift = 1.0 / self.temperature
        places = log_repulsion.new_zeros(sample.num_places).index_copy(0, sample.rows.id, (log_repulsion - shift).exp())
        total = collectives.sum_with_gradient(places, "memory")[sample.rows.id]
        smallest = torch.finfo(total.dtype).tiny
        return torch.where(total > 0, total.clamp(min=smallest).log() + shift, _MASKED)


def push_apart(similarity: Tensor, is_negative: Tensor) -> Tensor:
    """log Σ_{n∈N_i} e^{z_i·z_n/T}: A×R, A×R → A; about -1e9 where there is no negative."""
    return torch.logsumexp(similarity.masked_fill(~is_negative, _MASKED), dim=1)


def pull(similarity: Tensor, is_positive: Tensor, log_repulsion: Tensor) -> Tensor:
    """Σ_{p∈P_i} -log( e^{s_ip} / (e^{s_ip} + e^{log_repulsion_i}) ): A×R, A×R, A → A."""
    # -log( e^s / (e^s + e^r) ) = softplus( r - s )
    return (F.softplus(log_repulsion.unsqueeze(1) - similarity) * is_positive).sum(dim=1)

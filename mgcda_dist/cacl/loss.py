"""CACL, sample level: the cross-domain contrastive loss over sampled pixels.

    L_cacl = mean_i -1/|P_i| Σ_{p∈P_i} log( e^{z_i·z_p/T} / ( e^{z_i·z_p/T} + Σ_{n∈N_i} e^{z_i·z_n/T} ) )

P_i: rows of the anchor's type, other domains first; N_i: rows of the opposite side of anomaly/inlier, from any domain,
nearest first plus a random share. An anchor without a positive contributes nothing and is not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mgcda_dist.cacl.projection import ProjectionHead
from mgcda_dist.cacl.queue import MemoryQueue, Rows
from mgcda_dist.cacl.sampler import Budget
from mgcda_dist.collectives import Collectives
from mgcda_dist.randomness import stream_key, uniform

__all__ = ["CACL", "Selection", "contrastive_sum", "count_anchors"]

_MASKED = -1e9  # finite: a row of masked logits must give a zero gradient, not a NaN


@dataclass(frozen=True)
class Selection:
    """How positives and negatives are chosen per anchor.

    Attributes:
        num_positives, num_negatives: at most so many per anchor.
        hard_negative_fraction: share of the negatives that are the nearest to the anchor; the rest is random.
        cross_domain: positives of other domains first; False: of the same domain first.
    """

    num_positives: int
    num_negatives: int
    hard_negative_fraction: float
    cross_domain: bool


class CACL(nn.Module):
    """Projection head, sampling budget, memory queue and the loss over them.

    Args:
        embedding_dim: D.
        num_domains: M.
        budget: how many pixels are sampled.
        selection: how positives and negatives are chosen.
        projection_dim: K.
        temperature: T.
        queue_rows: memory rows per (domain, side).
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
        projection_dim: int = 128,
        temperature: float = 0.1,
        queue_rows: int = 256,
        unlabelled_confidence: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.budget, self.selection, self.temperature, self.seed = budget, selection, temperature, seed
        self.unlabelled_confidence = unlabelled_confidence
        self.projection = ProjectionHead(embedding_dim, projection_dim)
        self.queue = MemoryQueue(num_domains, budget.num_classes, queue_rows, projection_dim)

    def project(self, embedding: Tensor, index: Tensor) -> Tensor:
        """z of the sampled pixels: N×D×h×w, N×R → N·R×K; empty rows (index -1) give a value that is masked later."""
        place = index.clamp(min=0).unsqueeze(1).expand(-1, embedding.shape[1], -1)  # N×D×R
        picked = embedding.flatten(2).gather(2, place)
        return self.projection(picked.transpose(1, 2).flatten(0, 1))

    def gather(self, z: Tensor, index: Tensor, domain: Tensor, collectives: Collectives) -> tuple[Rows, Tensor]:
        """The one gather of CACL: every rank's rows, fixed shape plus mask, in global order.

        Returns:
            The filled rows of the global batch, and for each whether this rank sampled it.
        """
        rows_per_image = self.budget.rows_per_image
        types = torch.arange(rows_per_image, device=z.device) - self.budget.max_anomaly_pixels
        types = torch.where(types < 0, self.budget.num_classes, types // self.budget.max_inlier_pixels)
        # Type and domain travel as further columns of the same rows: small integers are exact in floating point.
        packed = torch.cat(
            [
                z,
                (index >= 0).flatten().unsqueeze(1).to(z.dtype),
                domain.repeat_interleave(rows_per_image).unsqueeze(1).to(z.dtype),
            ],
            dim=1,
        )
        everywhere = collectives.gather(packed, "cacl_rows")
        filled = everywhere[:, -2].detach() > 0.5
        num_local = len(packed)
        place = torch.arange(len(everywhere), device=z.device)
        own = place // num_local == collectives.rank
        rows = Rows(
            everywhere[filled, :-2],
            types.repeat(len(everywhere) // rows_per_image)[filled],
            everywhere[filled, -1].detach().round().to(torch.int64),
            place[filled],
        )
        return rows, own[filled]

    def share(self, rows: Rows, own: Tensor, step: int, num_ranks: int) -> tuple[Tensor, Tensor]:
        """This rank's share of L_cacl and the number of anchors over all ranks.

        Every rank scores its own anchors against all rows of the batch and the memory, so the work divides by W.
        """
        candidates = Rows.concat(rows, self.queue.rows())
        anchors = Rows(rows.z[own], rows.type[own], rows.domain[own], rows.id[own])
        total = contrastive_sum(
            anchors,
            candidates,
            anomaly_type=self.budget.num_classes,
            temperature=self.temperature,
            selection=self.selection,
            key=stream_key(self.seed, step, "contrast"),
        )
        count = count_anchors(rows.type, candidates.type, self.budget.num_classes)
        return num_ranks * total / count.clamp(min=1), count


def contrastive_sum(
    anchors: Rows, candidates: Rows, *, anomaly_type: int, temperature: float, selection: Selection, key: int
) -> Tensor:
    """Σ over the anchors that have a positive of the inner term of L_cacl; a scalar that touches `anchors.z` always."""
    same_row = anchors.id.unsqueeze(1) == candidates.id
    is_positive = (anchors.type.unsqueeze(1) == candidates.type) & ~same_row  # A×R
    is_negative = (anchors.type == anomaly_type).unsqueeze(1) != (candidates.type == anomaly_type)
    similarity = anchors.z @ candidates.z.to(anchors.z.dtype).T / temperature  # A×R
    chance = uniform(key, anchors.id.unsqueeze(1), candidates.id)

    same_domain = anchors.domain.unsqueeze(1) == candidates.domain
    later = same_domain if selection.cross_domain else ~same_domain
    positives = _first(is_positive, chance + later.to(chance.dtype), selection.num_positives)
    num_hard = round(selection.num_negatives * selection.hard_negative_fraction)
    hard = _first(is_negative, -similarity.detach(), num_hard)
    negatives = hard | _first(is_negative & ~hard, chance, selection.num_negatives - num_hard)

    log_negatives = torch.logsumexp(similarity.masked_fill(~negatives, _MASKED), dim=1, keepdim=True)  # A×1
    # -log( e^s / (e^s + Σ e^n) ) = softplus( log Σ e^n - s )
    per_pair = F.softplus(log_negatives - similarity) * positives
    per_anchor = per_pair.sum(dim=1) / positives.sum(dim=1).clamp(min=1)
    return per_anchor.sum() + 0.0 * anchors.z.sum()


def count_anchors(anchor_types: Tensor, candidate_types: Tensor, anomaly_type: int) -> Tensor:
    """Number of anchors that have a positive: those whose type occurs a second time among the candidates."""
    occurs = torch.bincount(candidate_types, minlength=anomaly_type + 1)
    return (occurs[anchor_types] > 1).sum()


def _first(mask: Tensor, key: Tensor, count: int) -> Tensor:
    """The `count` elements of each row's mask with the smallest key: A×R bool."""
    count = min(count, mask.shape[1])
    if count == 0:
        return torch.zeros_like(mask)
    chosen = torch.topk(key.masked_fill(~mask, torch.inf), count, dim=1, largest=False, sorted=False).indices
    return torch.zeros_like(mask).scatter_(1, chosen, True) & mask

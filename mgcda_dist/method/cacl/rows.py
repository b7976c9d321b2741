"""Contrast of the sampled pixels with rows of the batch and of the memory.

    l_i = Σ_{p∈P_i} -log( e^{z_i·z_p/T} / ( e^{z_i·z_p/T} + Σ_{n∈N_i} e^{z_i·z_n/T} ) )

P_i: rows of the anchor's type, other domains first; N_i: rows of the opposite side of anomaly/inlier, from any domain,
most difficult first plus a random share (`selection`, `nearest`). With the memory `replicated` a rank scores its own
anchors against all rows; `sharded`, it scores all anchors against the rows it holds, and the Σ over n∈N_i is summed
over ranks. Both give the same loss and gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mgcda_dist.method.cacl.exchange import GatheredSample
from mgcda_dist.method.cacl.nearest import is_nearest, largest, nearness
from mgcda_dist.method.cacl.queue import MemoryQueue
from mgcda_dist.method.cacl.selection import Choice
from mgcda_dist.method.collectives import Collectives

__all__ = ["contrast_rows", "largest_over_ranks", "pull", "push_apart", "push_apart_few", "sum_over_ranks"]

_MASKED = -1e9  # finite: a row of masked logits must give a zero gradient, not a NaN


def contrast_rows(
    sample: GatheredSample, queue: MemoryQueue, choice: Choice, temperature: float, collectives: Collectives
) -> tuple[Tensor, Tensor]:
    """Anchors of this rank and their l_i, A int64 and A; with a sharded memory all anchors, and the part of its rows.

    Args:
        sample: of the global micro-batch; its rows are the first candidates.
        queue: the memory; its rows are the other candidates.
        choice: among the candidates.
        temperature: T.
        collectives: the ranks.
    """
    batch = torch.arange(len(sample.metadata), device=sample.z.device)
    remembered, z_memory = queue.local_rows()
    # Anchors × rows: local × all, or all × local. Either way a W-th of all pairs.
    anchors = batch if queue.is_sharded else batch[sample.is_local]
    from_batch = batch[sample.is_local] if queue.is_sharded else batch
    held = torch.cat([from_batch, len(batch) + remembered])
    z_anchors, z_held = sample.z[anchors], torch.cat([sample.z[from_batch], z_memory.to(sample.z.dtype)])
    used = choice.in_use[held]
    rows, z_rows = held[used], z_held[used]

    similarity = z_anchors @ z_rows.T / temperature  # A×R'
    may_be = choice.of_other_kind(anchors, rows)
    is_negative = may_be & choice.is_negative[rows]
    if choice.num_nearest:
        numbers = nearness(similarity, may_be, temperature)
        top = largest(numbers, choice.num_nearest)
        if queue.is_sharded:
            top = largest_over_ranks(top, sample, collectives)
        log_repulsion = push_apart_few(similarity, is_negative | is_nearest(numbers, top))
    else:
        log_repulsion = push_apart(similarity, is_negative)
    if queue.is_sharded:
        log_repulsion = sum_over_ranks(log_repulsion, sample, temperature, collectives)
    if choice.in_columns:
        return anchors, pull(similarity, choice.order.positives(anchors, rows), log_repulsion)
    anchor, nth, row = choice.order.pairs(anchors, held)
    near = (z_anchors[anchor] * z_held[row]).sum(dim=1) / temperature
    # A column for each of an anchor's positives: adding pairs up where they meet has no fixed order on a GPU.
    similarity = near.new_zeros(len(anchors), choice.order.limit + 1).index_put((anchor, nth), near)
    is_positive = torch.zeros_like(similarity, dtype=torch.bool).index_put((anchor, nth), torch.ones_like(nth) > 0)
    return anchors, pull(similarity, is_positive, log_repulsion)


def push_apart(similarity: Tensor, is_negative: Tensor) -> Tensor:
    """log Σ_{n∈N_i} e^{z_i·z_n/T}: A×R, A×R → A; about -1e9 where there is no negative."""
    return torch.logsumexp(similarity.masked_fill(~is_negative, _MASKED), dim=1)


def push_apart_few(similarity: Tensor, is_negative: Tensor) -> Tensor:
    """`push_apart` where few of many rows are negatives of an anchor: no exponential is taken of the others."""
    anchor, row = torch.nonzero(is_negative, as_tuple=True)
    count = is_negative.sum(dim=1)
    nth = torch.arange(len(anchor), device=anchor.device) - (count.cumsum(0) - count)[anchor]
    width = 1 + (int(count.max()) if len(count) else 0)
    chosen = similarity.new_full((len(count), width), _MASKED).index_put((anchor, nth), similarity[anchor, row])
    return torch.logsumexp(chosen, dim=1)


def pull(similarity: Tensor, is_positive: Tensor, log_repulsion: Tensor) -> Tensor:
    """Σ_{p∈P_i} -log( e^{s_ip} / (e^{s_ip} + e^{log_repulsion_i}) ): A×R, A×R, A → A."""
    # -log( e^s / (e^s + e^r) ) = softplus( r - s )
    return (F.softplus(log_repulsion.unsqueeze(1) - similarity) * is_positive).sum(dim=1)


def largest_over_ranks(top: Tensor, sample: GatheredSample, collectives: Collectives) -> Tensor:
    """The k largest of every rank's k largest numbers of each anchor, A×k → A×k: one gather of fixed shape."""
    k, row = top.shape[1], sample.metadata.id
    reserved = top.new_full((sample.num_reserved, k), -torch.inf).index_copy(0, row, top)
    everywhere = collectives.start_gather(reserved, "nearest").wait()
    per_rank = everywhere.view(collectives.size, sample.num_reserved, k)[:, row]  # W×A×k
    return largest(per_rank.transpose(0, 1).flatten(1), k)


def sum_over_ranks(
    log_repulsion: Tensor, sample: GatheredSample, temperature: float, collectives: Collectives
) -> Tensor:
    """log Σ over ranks of e^{log_repulsion}, A → A: one sum of fixed shape that gradients cross."""
    # Rows have unit length, so no exponent exceeds 1/T, and shifting by it needs no maximum over ranks.
    shift, row = 1.0 / temperature, sample.metadata.id
    reserved = log_repulsion.new_zeros(sample.num_reserved).index_copy(0, row, (log_repulsion - shift).exp())
    total = collectives.sum_with_gradient(reserved, "memory")[row]
    smallest = torch.finfo(total.dtype).tiny
    return torch.where(total > 0, total.clamp(min=smallest).log() + shift, _MASKED)

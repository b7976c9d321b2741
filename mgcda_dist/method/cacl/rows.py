"""Contrast of the sampled pixels with rows of the batch and of the memory.

    l_i = Σ_{p∈P_i} -log( e^{z_i·z_p/T} / ( e^{z_i·z_p/T} + Σ_{n∈N_i} e^{z_i·z_n/T} ) )

P_i: rows of the anchor's type, other domains first; N_i: rows of the opposite side of anomaly/inlier, from any domain,
most difficult first plus a random share (`selection`, `nearest`). With the memory `replicated` a rank scores its share
of the anchors against all rows; `sharded`, it scores all anchors against its share of the batch and the rows of memory
that it holds, and the Σ over n∈N_i is summed over ranks. Both give the same loss and gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mgcda_dist.method.batch import first_true
from mgcda_dist.method.cacl.exchange import GatheredSample
from mgcda_dist.method.cacl.nearest import is_nearest, largest, nearness
from mgcda_dist.method.cacl.queue import MemoryQueue
from mgcda_dist.method.cacl.selection import Choice
from mgcda_dist.method.collectives import Collectives

__all__ = ["contrast_rows", "largest_over_ranks", "pull", "push_apart", "share_of_rows", "sum_over_ranks"]

_MASKED = -1e9  # finite: a row without a negative must give a zero gradient, not a NaN


def contrast_rows(
    sample: GatheredSample, queue: MemoryQueue, choice: Choice, temperature: float, collectives: Collectives
) -> tuple[Tensor, Tensor]:
    """Anchors that fall to this rank and their l_i, A int64 and A; with a sharded memory all, and the part of its rows.

    A does not depend on the data: l_i of a row that is no anchor is 0.

    Args:
        sample: of the global micro-batch; its rows are the first candidates.
        queue: the memory; its rows are the other candidates.
        choice: among the candidates.
        temperature: T.
        collectives: the ranks.
    """
    batch = torch.arange(len(sample.metadata), device=sample.z.device)
    memory, exists, z_memory = queue.held()
    # Anchors × rows: share × all, or all × share. Either way a W-th of all pairs.
    share, is_there = share_of_rows(sample.metadata.is_filled, collectives.rank, collectives.size)
    everything = torch.ones_like(batch, dtype=torch.bool)
    anchors, is_anchor = (batch, everything) if queue.is_sharded else (share, is_there)
    from_batch, is_held = (share, is_there) if queue.is_sharded else (batch, everything)
    held, exists = torch.cat([from_batch, len(batch) + memory]), torch.cat([is_held, exists])
    z_anchors, z_held = sample.z[anchors], torch.cat([sample.z[from_batch], z_memory.to(sample.z.dtype)])

    def similarity(column: Tensor) -> Tensor:
        return z_anchors @ z_held[column].T / temperature

    if choice.num_nearest:
        column, rows = torch.arange(len(held), device=held.device), held
        may_be = choice.of_other_kind(anchors, rows) & exists
        to_rows = similarity(column)
        numbers = nearness(to_rows, may_be, temperature)
        top = largest(numbers, choice.num_nearest)
        if queue.is_sharded:
            top = largest_over_ranks(top, sample, collectives)
        is_negative = may_be & choice.is_negative[rows] | is_nearest(numbers, top)
    else:
        column, is_one = first_true(choice.is_negative[held] & exists, choice.max_negatives)
        to_rows, is_negative = similarity(column), choice.of_other_kind(anchors, held[column]) & is_one
    log_repulsion = push_apart(to_rows, is_negative)
    if queue.is_sharded:
        log_repulsion = sum_over_ranks(log_repulsion, sample, temperature, collectives)

    if choice.shares_positives:
        column, is_one = first_true(choice.order.in_use()[held] & exists, choice.order.max_in_use)
        place, is_positive = choice.order.columns(anchors, held[column], is_one)
        near = similarity(column).gather(1, place)
    else:
        place, is_positive = choice.order.columns(anchors, held, exists)
        near = (z_anchors.unsqueeze(1) * z_held[place]).sum(dim=2) / temperature
    return anchors, pull(near, is_positive, log_repulsion) * is_anchor


def share_of_rows(is_filled: Tensor, rank: int, size: int) -> tuple[Tensor, Tensor]:
    """Every W-th row, from that of the rank's number on: indices, ⌈R/W⌉ int64, and which of them count, bool.

    Not those that the rank has sampled: of them there may be twice as many, where its images are the harder ones.

    Args:
        is_filled: R, bool, the same on every rank.
        rank, size: r and W.
    """
    index = rank + size * torch.arange(-(-len(is_filled) // size), device=is_filled.device)
    row = index.clamp(max=len(is_filled) - 1)
    return row, is_filled[row] & (index < len(is_filled))


def push_apart(similarity: Tensor, is_negative: Tensor) -> Tensor:
    """log Σ_{n∈N_i} e^{z_i·z_n/T}: A×R, A×R → A; -1e9 where there is no negative."""
    if similarity.shape[1] == 0:
        return similarity.sum(dim=1) + _MASKED
    return _LogSumExp.apply(similarity, is_negative)


class _LogSumExp(torch.autograd.Function):
    """`torch.logsumexp` over the columns of a mask, without the exponential of what the mask leaves out.

    Of -1e9, as of all that has no normal exponential, processors compute it one number at a time: ten times as long.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor) -> Tensor:
        highest = torch.where(mask, x, _MASKED).amax(dim=1, keepdim=True)
        exponential = (x - highest).clamp_(max=0.0).exp_().mul_(mask)
        total = exponential.sum(dim=1).clamp_(min=1.0)  # where there is a column, the highest gives 1
        ctx.save_for_backward(exponential, total)
        return total.log() + highest.squeeze(1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        exponential, total = ctx.saved_tensors
        return exponential * (grad_outputs[0] / total).unsqueeze(1), None


def pull(similarity: Tensor, is_positive: Tensor, log_repulsion: Tensor) -> Tensor:
    """Σ_{p∈P_i} -log( e^{s_ip} / (e^{s_ip} + e^{log_repulsion_i}) ): A×P, A×P bool, A → A."""
    # -log( e^s / (e^s + e^r) ) = softplus( r - s )
    return (F.softplus(log_repulsion.unsqueeze(1) - similarity) * is_positive).sum(dim=1)


def largest_over_ranks(top: Tensor, sample: GatheredSample, collectives: Collectives) -> Tensor:
    """The k largest of every rank's k largest numbers of each anchor, A×k → A×k: one gather of fixed shape."""
    k, row = top.shape[1], torch.arange(len(sample.metadata), device=top.device)  # every rank has them in this order
    reserved = top.new_full((sample.num_reserved, k), -torch.inf).index_copy(0, row, top)
    everywhere = collectives.start_gather(reserved, "nearest").wait()
    per_rank = everywhere.view(collectives.size, sample.num_reserved, k)[:, row]  # W×A×k
    return largest(per_rank.transpose(0, 1).flatten(1), k)


def sum_over_ranks(
    log_repulsion: Tensor, sample: GatheredSample, temperature: float, collectives: Collectives
) -> Tensor:
    """log Σ over ranks of e^{log_repulsion}, A → A: one sum of fixed shape that gradients cross."""
    # Rows have unit length, so no exponent exceeds 1/T, and shifting by it needs no maximum over ranks.
    shift, row = 1.0 / temperature, torch.arange(len(sample.metadata), device=log_repulsion.device)
    reserved = log_repulsion.new_zeros(sample.num_reserved).index_copy(0, row, (log_repulsion - shift).exp())
    total = collectives.sum_with_gradient(reserved, "memory")[row]
    smallest = torch.finfo(total.dtype).tiny
    return torch.where(total > 0, total.clamp(min=smallest).log() + shift, _MASKED)

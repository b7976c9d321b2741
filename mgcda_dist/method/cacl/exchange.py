"""The one gather of CACL: the sampled pixels of every rank, fixed rows plus mask, in global sample order (law 3).

Every image sends the same number of rows, so the index of a row in the gathered tensor tells its image; its place among
the rows reserved for that image, which tells its type, its domain and difficulty are three more columns beside z.
Gradients of z cross ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mgcda_dist.choices import CaclDefaults, GatherDtype
from mgcda_dist.method.batch import Batch, first_true
from mgcda_dist.method.cacl.queue import PixelMetadata
from mgcda_dist.method.cacl.sampler import Budget
from mgcda_dist.method.collectives import Collectives, PendingGather

__all__ = ["GatheredSample", "PendingSample", "gathered_sample", "start_exchange"]

_NONE: Mapping[str, int] = MappingProxyType({})


class PendingSample(NamedTuple):
    """The sampled pixels of a micro-batch while their all-gather is in flight.

    Attributes:
        rows: the gather.
        step: of training.
        first_slot: scalar, int64: first slot of the global micro-batch.
        num_images: of this rank.
        keys: of the step's draws, by purpose.
        zero: scalar, added to the loss; NaN where the score of a pixel that may be sampled is no number.
    """

    rows: PendingGather
    step: int
    first_slot: Tensor
    num_images: int
    keys: Mapping[str, int]
    zero: Tensor | float = 0.0


class GatheredSample(NamedTuple):
    """The sampled pixels of a global micro-batch.

    Attributes:
        metadata: of R rows, as many as can be filled; `metadata.id` is a row's index among those reserved for all
            images.
        z: R×K, unit length; gradients cross ranks.
        num_reserved: rows sent in the global micro-batch.
        step, first_slot: as in `PendingSample`.
    """

    metadata: PixelMetadata
    z: Tensor
    num_reserved: int
    step: int
    first_slot: Tensor


def start_exchange(
    z: Tensor,
    index: Tensor,
    difficulty: Tensor,
    batch: Batch,
    collectives: Collectives,
    *,
    row: Tensor | None = None,
    dtype: GatherDtype = CaclDefaults.gather_dtype,
    keys: Mapping[str, int] = _NONE,
) -> PendingSample:
    """Start the all-gather of this rank's rows.

    Args:
        z: N·R×K of the sampled pixels.
        index: N×R from `sampler.sample_pixels`; -1 where a row is empty.
        row: N×R from `sampler.sent_rows`: which of the reserved rows these are; None: all.
        dtype: in which z travels, and to which it is rounded with one rank, too.
        keys: of the step's draws, for whoever waits for the rows.
        difficulty: N×P from `sampler.describe_pixels`.
        batch: of this rank.
        collectives: the ranks.
    """
    row = torch.arange(index.shape[1], device=index.device).expand_as(index) if row is None else row
    columns = {
        "row": torch.where(index >= 0, row, -1).flatten(),
        "domain": batch.domain.repeat_interleave(index.shape[1]),
        "difficulty": difficulty.gather(1, index.clamp(min=0)).flatten(),
    }
    # Small integers are exact in floating point.
    known = torch.stack([column.to(z.dtype) for column in columns.values()], dim=1)
    num_rounded = z.shape[1] if dtype == "bf16" else 0
    z = _Rounded.apply(z) if num_rounded else z
    pending = collectives.start_gather(torch.cat([z, known], dim=1), "cacl_rows", num_rounded)
    first_slot = batch.slot[0] - collectives.rank * len(batch.slot)
    return PendingSample(pending, batch.step, first_slot, len(batch.slot), keys)


class _Rounded(torch.autograd.Function):
    """Rounds to bfloat16, in the type that it is given; the gradient is that of the identity, in full."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        return z.to(torch.bfloat16).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return grad_outputs[0]


def gathered_sample(
    pending: PendingSample,
    budget: Budget,
    collectives: Collectives,
    max_rows: int | None = None,
    draw: Callable[[Tensor], Tensor] | None = None,
) -> GatheredSample:
    """The rows of all ranks, the filled ones first; waits for the all-gather.

    Args:
        pending: from `start_exchange`.
        budget: of the sample.
        collectives: the ranks.
        max_rows: so many of them at most, those with the smallest draws; None: all.
        draw: a number in [0, 1) per row id, R → R; needed for `max_rows`.
    """
    everywhere = pending.rows.wait()
    z, known = everywhere[:, :-3], everywhere[:, -3:].detach()
    num_reserved, num_images = len(everywhere), pending.num_images * collectives.size
    place = torch.arange(num_reserved, device=everywhere.device)
    row = known[:, 0].round().to(torch.int64)
    image = place // (num_reserved // num_images)
    # Within an image the anomalies come first, then each inlier class has its own rows.
    offset = row.clamp(min=0) - budget.max_anomaly_pixels
    types = torch.where(offset < 0, budget.num_classes, offset // budget.max_inlier_pixels)
    row_id = image * budget.rows_per_image + row.clamp(min=0)
    rows = PixelMetadata(types, known[:, 1].round().to(torch.int64), known[:, 2], row_id)
    is_kept, number = row >= 0, budget.max_rows(num_images)
    if max_rows is not None and draw is not None and max_rows < number:
        number, chance = max_rows, draw(row_id)
        first = torch.argsort(chance + (~is_kept).to(chance.dtype), stable=True)[:number]
        is_kept = is_kept & torch.zeros_like(is_kept).index_fill(0, first, True)
    index, is_filled = first_true(is_kept, number)
    metadata = rows.where(index).emptied(is_filled)
    return GatheredSample(metadata, z[index], num_reserved, pending.step, pending.first_slot)

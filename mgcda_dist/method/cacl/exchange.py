"""The one gather of CACL: the sampled pixels of every rank, fixed rows plus mask, in global sample order (law 3).

Every image has the same number of reserved rows, so the index of a row in the gathered tensor tells its image and its
type; its mask, domain and difficulty are three more columns beside z. Gradients of z cross ranks.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mgcda_dist.method.batch import Batch, first_true
from mgcda_dist.method.cacl.queue import PixelMetadata
from mgcda_dist.method.cacl.sampler import Budget
from mgcda_dist.method.collectives import Collectives, PendingGather

__all__ = ["GatheredSample", "PendingSample", "gathered_sample", "start_exchange"]


class PendingSample(NamedTuple):
    """The sampled pixels of a micro-batch while their all-gather is in flight.

    Attributes:
        rows: the gather.
        step: of training.
        first_slot: scalar, int64: first slot of the global micro-batch.
    """

    rows: PendingGather
    step: int
    first_slot: Tensor


class GatheredSample(NamedTuple):
    """The sampled pixels of a global micro-batch.

    Attributes:
        metadata: of R rows, as many as can be filled; `metadata.id` is a row's index among the reserved ones.
        z: R×K, unit length; gradients cross ranks.
        is_local: R, bool: sampled by this rank.
        num_reserved: rows reserved in the global micro-batch.
        step, first_slot: as in `PendingSample`.
    """

    metadata: PixelMetadata
    z: Tensor
    is_local: Tensor
    num_reserved: int
    step: int
    first_slot: Tensor


def start_exchange(
    z: Tensor, index: Tensor, difficulty: Tensor, batch: Batch, collectives: Collectives
) -> PendingSample:
    """Start the all-gather of this rank's rows.

    Args:
        z: N·R×K of the sampled pixels.
        index: N×R from `sampler.sample_pixels`; -1 where a row is empty.
        difficulty: N×P from `sampler.describe_pixels`.
        batch: of this rank.
        collectives: the ranks.
    """
    columns = {
        "is_filled": (index >= 0).flatten(),
        "domain": batch.domain.repeat_interleave(index.shape[1]),
        "difficulty": difficulty.gather(1, index.clamp(min=0)).flatten(),
    }
    # Small integers are exact in floating point.
    known = torch.stack([column.to(z.dtype) for column in columns.values()], dim=1)
    pending = collectives.start_gather(torch.cat([z, known], dim=1), "cacl_rows")
    return PendingSample(pending, batch.step, batch.slot[0] - collectives.rank * len(batch.slot))


def gathered_sample(pending: PendingSample, budget: Budget, collectives: Collectives) -> GatheredSample:
    """The rows of all ranks, the filled ones first; waits for the all-gather."""
    everywhere = pending.rows.wait()
    z, known = everywhere[:, :-3], everywhere[:, -3:].detach()
    num_reserved = len(everywhere)
    row = torch.arange(num_reserved, device=everywhere.device)
    # Within an image the anomalies come first, then each inlier class has its own rows.
    offset = row % budget.rows_per_image - budget.max_anomaly_pixels
    types = torch.where(offset < 0, budget.num_classes, offset // budget.max_inlier_pixels)
    rows = PixelMetadata(types, known[:, 1].round().to(torch.int64), known[:, 2], row)
    is_local = row // (num_reserved // collectives.size) == collectives.rank
    index, is_filled = first_true(known[:, 0] > 0.5, budget.max_rows(num_reserved // budget.rows_per_image))
    metadata = rows.where(index).emptied(is_filled)
    return GatheredSample(
        metadata, z[index], is_local[index] & is_filled, num_reserved, pending.step, pending.first_slot
    )

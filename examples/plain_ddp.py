"""MGCDA with plain torchrun and DistributedDataParallel: on any number of ranks it prints what one process prints.

torchrun --nproc-per-node 2 examples/plain_ddp.py
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from single_process import STEPS, batch, mgcda
from torch.nn.parallel import DistributedDataParallel


def main() -> None:
    """Train this rank's share."""
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    model = DistributedDataParallel(mgcda())  # the model finds the group by itself
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(STEPS):
        # A slice of the global batch gives a share of the loss: DDP's average is the gradient of the global loss.
        outcome = model(batch(step, rank, size), progress=step / STEPS)
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
        totals = model.module.total([outcome])
        model.module.commit([outcome], totals)
        if rank == 0:
            print(step, *(f"{name}={value:.4f}" for name, value in totals.scalars().items()))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

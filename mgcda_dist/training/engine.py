"""The training engine: one DeepSpeed engine around one module, the gradient reversal included. Only here: DeepSpeed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mgcda_dist.batch import Batch
from mgcda_dist.errors import CheckpointError
from mgcda_dist.mgcda import MGCDA, Outcome

__all__ = ["DeepSpeedEngine", "deepspeed_config"]

_TAG = "engine"


def deepspeed_config(
    *, micro_batch: int, accumulation: int, zero_stage: int, precision: Literal["fp32", "bf16"], clip_norm: float
) -> dict[str, Any]:
    """The DeepSpeed configuration; `micro_batch` is images per rank and micro-batch."""
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": clip_norm,
        "zero_optimization": {"stage": zero_stage},
        "bf16": {"enabled": precision == "bf16"},
        # SGD is not on DeepSpeed's own list of optimisers tested with ZeRO; the equivalence tests cover it here.
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


class DeepSpeedEngine:
    """A thin layer over DeepSpeed: forward, backward, step, learning rates, save, load.

    Args:
        model: on the CPU; moved to `device`.
        optimizer: torch optimiser over the model's parameters, one group per learning rate (`base_lr` in each group).
        config: from `deepspeed_config`.
        device: where to train.
    """

    def __init__(
        self, model: MGCDA, optimizer: torch.optim.Optimizer, config: dict[str, Any], device: torch.device
    ) -> None:
        if device.type == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import deepspeed

        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        # On CPUs DeepSpeed would compile its shared-memory collectives for inference at the first start: half a minute,
        # a compiler, a cache outside the run folder, and a lock that a killed worker leaves behind.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self.model, self.device = model, device
        _broadcast_buffers(model, device)
        self._engine, self._optimizer, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
        self._zero_stage = int(config["zero_optimization"]["stage"])

    def forward(self, batch: Batch, progress: float, signal: float = 0.0) -> Outcome:
        """Losses of one micro-batch."""
        return self._engine(batch.to(self.device), progress, signal)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of this rank's share."""
        self._engine.backward(loss)

    def step(self, rate: float) -> None:
        """Advance by one micro-batch; the last one of a step moves the parameters at `rate` × base rates."""
        for group in self._groups():
            group["lr"] = group["base_lr"] * rate
        self._engine.step()

    def gradient_norm(self) -> float | None:
        """Global gradient norm of the last optimiser step, before clipping; None where the engine does not tell."""
        norm = self._engine.get_global_grad_norm()
        return None if norm is None else float(norm)

    def learning_rates(self) -> dict[str, float]:
        """Current rate per parameter group."""
        return {f"lr/{group['name']}": float(group["lr"]) for group in self._groups()}

    def _groups(self) -> list[dict[str, Any]]:
        return self._optimizer.param_groups  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]

    def save(self, folder: Path) -> None:
        """Write model, optimiser and buffers; every rank writes its own files."""
        self._engine.save_checkpoint(str(folder), tag=_TAG, save_latest=False)
        if self.model.cacl is not None and self.model.cacl.queue.is_sharded:
            from safetensors.torch import save_file

            world = self.model.collectives
            file = folder / f"memory-{world.rank:05d}-of-{world.size:05d}.safetensors"
            save_file(self.model.cacl.queue.shard_state(), file)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote at the same world size.

        Raises:
            CheckpointError: DeepSpeed found nothing to read; it would go on with the weights it has.
        """
        found, _ = self._engine.load_checkpoint(str(folder), tag=_TAG)
        if found is None:
            raise CheckpointError(str(folder), "DeepSpeed finds no state in it", "remove it to use the one before")
        if self.model.cacl is not None and self.model.cacl.queue.is_sharded:
            from safetensors.torch import load_file

            try:
                self.model.cacl.queue.load_shards(load_file(f) for f in sorted(folder.glob("memory-*.safetensors")))
            except ValueError as error:
                raise CheckpointError(str(folder), str(error), "remove it to use the one before") from None

    @contextmanager
    def whole_parameters(self) -> Iterator[nn.Module]:
        """The model with all its parameters present (ZeRO 3 holds slices); a collective."""
        if self._zero_stage < 3:
            yield self.model
            return
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(self.model.parameters()), modifier_rank=None):
            yield self.model


def _broadcast_buffers(model: nn.Module, device: torch.device) -> None:
    """Start every rank from rank 0's buffers: DeepSpeed synchronises parameters only."""
    import torch.distributed as dist

    if not dist.is_initialized():
        return
    for buffer in model.buffers():
        moved = buffer.data.to(device)
        dist.broadcast(moved, src=0)
        buffer.data.copy_(moved)

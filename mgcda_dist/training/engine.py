"""The training engine: one DeepSpeed engine around one module, the gradient reversal included. Only here: DeepSpeed."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mgcda_dist.batch import Batch
from mgcda_dist.errors import CheckpointError
from mgcda_dist.mgcda import MGCDA, Outcome

__all__ = ["DeepSpeedEngine", "deepspeed_config", "to_universal"]

_TAG = "engine"


def deepspeed_config(
    *,
    micro_batch: int,
    accumulation: int,
    zero_stage: int,
    precision: Literal["fp32", "bf16"],
    clip_norm: float,
    load_universal: bool = False,
) -> dict[str, Any]:
    """The DeepSpeed configuration.

    Args:
        micro_batch: images per rank and micro-batch.
        accumulation, zero_stage, precision, clip_norm: as in the run's configuration.
        load_universal: the engine will load what `to_universal` wrote.
    """
    return {
        "checkpoint": {"load_universal": load_universal},
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
        self._save_buffers(folder)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote at the same world size, or with ZeRO 0; else what `to_universal` made of it.

        Raises:
            CheckpointError: DeepSpeed found nothing to read; it would go on with the weights it has.
        """
        settings = [{k: v for k, v in group.items() if k != "params"} for group in self._groups()]
        found, _ = self._engine.load_checkpoint(str(folder), tag=_TAG)
        if found is None:
            raise CheckpointError(str(folder), "DeepSpeed finds no state in it", "remove it to use the one before")
        # DeepSpeed's universal load of ZeRO 3 gives all groups the settings of the first, and all parameters one tensor
        # that counts steps, which each of them would advance.
        for group, own in zip(self._groups(), settings, strict=True):
            group.update(own)
        for state in self._optimizer.state.values():  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
            if isinstance(state.get("step"), Tensor):
                state["step"] = state["step"].clone()
        self._load_buffers(folder)

    def _save_buffers(self, folder: Path) -> None:
        # Files of our own: DeepSpeed's universal form loads parameters only, and knows no state that differs by rank.
        from safetensors.torch import save_file

        world = self.model.collectives
        if world.rank == 0:
            buffers = {name: tensor.detach().cpu().contiguous() for name, tensor in self._shared_buffers().items()}
            save_file(buffers, folder / "buffers.safetensors")
        if self.model.cacl is not None and self.model.cacl.queue.is_sharded:
            file = folder / f"memory-{world.rank:05d}-of-{world.size:05d}.safetensors"
            save_file(self.model.cacl.queue.shard_state(), file)

    def _load_buffers(self, folder: Path) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            found, wanted = load_file(folder / "buffers.safetensors"), self._shared_buffers()
            if found.keys() != wanted.keys():
                raise ValueError(f"its buffers are not the model's: {sorted(found.keys() ^ wanted.keys())}")
            for name, buffer in wanted.items():
                buffer.copy_(found[name])
            if self.model.cacl is not None and self.model.cacl.queue.is_sharded:
                self.model.cacl.queue.load_shards(load_file(f) for f in sorted(folder.glob("memory-*.safetensors")))
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(str(folder), str(error), "remove it to use the one before") from None

    def _shared_buffers(self) -> dict[str, Tensor]:
        """The buffers that are equal on every rank."""
        persistent = self.model.state_dict(keep_vars=True).keys()
        return {name: buffer for name, buffer in self.model.named_buffers() if name in persistent}

    @contextmanager
    def whole_parameters(self) -> Iterator[nn.Module]:
        """The model with all its parameters present (ZeRO 3 holds slices); a collective."""
        if self._zero_stage < 3:
            yield self.model
            return
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(self.model.parameters()), modifier_rank=None):
            yield self.model


def to_universal(source: Path, target: Path) -> None:
    """Convert what `save` wrote with ZeRO 1 to 3 into a form that loads at any number of ranks; for one process.

    Raises:
        CheckpointError: DeepSpeed's converter failed; the message ends with what it said last.
    """
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    command += ["--input_folder", str(source / _TAG), "--output_folder", str(target / _TAG)]
    # Its own process: it prints, and forks workers that must not inherit a process group or a GPU.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        problem = f"cannot be converted for another number of workers: {said}"
        raise CheckpointError(str(source), problem, "resume with the number of workers that wrote it")
    for file in source.glob("*.safetensors"):
        shutil.copy2(file, target / file.name)


def _broadcast_buffers(model: nn.Module, device: torch.device) -> None:
    """Start every rank from rank 0's buffers: DeepSpeed synchronises parameters only."""
    import torch.distributed as dist

    if not dist.is_initialized():
        return
    for buffer in model.buffers():
        moved = buffer.data.to(device)
        dist.broadcast(moved, src=0)
        buffer.data.copy_(moved)

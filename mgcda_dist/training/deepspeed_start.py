"""Start of DeepSpeed's engine: its configuration, and what its defaults and its start would leave wrong."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from mgcda_dist.choices import Precision
from mgcda_dist.method.mgcda import MGCDA

__all__ = ["deepspeed_config", "go_on_at_the_least_scale", "load_deepspeed", "start_deepspeed"]

_ALIGNMENT = 2  # numbers, of which DeepSpeed wants a multiple in a bucket


def deepspeed_config(
    *,
    micro_batch: int,
    accumulation: int,
    zero_stage: int,
    precision: Precision,
    clip_norm: float,
    bucket_mb: float | None = None,
    load_universal: bool = False,
) -> dict[str, Any]:
    """The DeepSpeed configuration.

    Args:
        micro_batch: images per rank and micro-batch.
        accumulation, zero_stage, precision, clip_norm: as in the run's configuration.
        bucket_mb: gradients are sent in buckets of so many megabytes while the backward pass goes on; None: all at
            once after it, but for ZeRO 3, which sends them while it goes on in any case.
        load_universal: the engine will load what `to_universal` wrote.
    """
    zero: dict[str, Any] = {"stage": zero_stage}
    if bucket_mb is not None:
        # DeepSpeed's default, 5·10⁸ numbers, holds any network, so that nothing is sent before the last gradient.
        elements = _ALIGNMENT * max(1, int(bucket_mb * 1e6 / (4 if precision == "fp32" else 2)) // _ALIGNMENT)
        zero |= {"overlap_comm": True, "reduce_bucket_size": elements, "allgather_bucket_size": elements}
    return {
        "checkpoint": {"load_universal": load_universal},
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": clip_norm,
        "zero_optimization": zero,
        "bf16": {"enabled": precision == "bf16"},
        # From 2¹⁶ down, by half at each overflow; doubled after 1000 steps without one.
        "fp16": {"enabled": precision == "fp16", "initial_scale_power": 16, "hysteresis": 1},
        # SGD is not on DeepSpeed's own list of optimisers tested with ZeRO; the equivalence tests cover it here.
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
        # On by default, it waits for all of the device before each forward pass and after each step, from the third on.
        "timers": {"throughput": {"enabled": False}},
    }


def start_deepspeed(
    model: MGCDA, optimizer: torch.optim.Optimizer, config: dict[str, Any], device: torch.device
) -> tuple[Any, Any]:
    """The engine and the optimiser of `deepspeed.initialize`, put right.

    Args:
        config: from `deepspeed_config`.
    """
    deepspeed = load_deepspeed(device)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if device.type == "cpu":
        # DeepSpeed would compile its shared-memory collectives for inference at the first start: half a minute, a
        # compiler, a cache outside the run folder, and a lock that a killed worker leaves behind.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    _without_numbers_of_gpus()
    _limit_collectives(model.collectives.timeout)
    zero = {**config["zero_optimization"]}
    if zero["stage"] in (1, 2):
        zero = _with_fitting_buckets(zero, [p.numel() for p in model.parameters() if p.requires_grad])
    with _index_of(device):
        engine, made, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config={**config, "zero_optimization": zero}
        )
    if zero["stage"] == 3:
        _clear_padding(engine.optimizer)
    go_on_at_the_least_scale(engine.optimizer)
    if zero["stage"] == 0 and any(config[name]["enabled"] for name in ("bf16", "fp16")):
        _forget_first_step(engine.optimizer)
    return engine, made


def load_deepspeed(device: torch.device) -> Any:
    """The package, loaded without MLflow: its autotuner, which nothing here uses, imports that where it is installed.

    It is most of what loading DeepSpeed takes, a second of each worker. The run's record loads MLflow in a thread of
    its own, later.

    Raises:
        ModuleNotFoundError: it, or a package that it needs, is not installed.
    """
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    hidden = "deepspeed" not in sys.modules and "mlflow" not in sys.modules
    if hidden:
        sys.modules["mlflow"] = None  # pyright: ignore[reportArgumentType]
    try:
        import deepspeed
    finally:
        if hidden:
            del sys.modules["mlflow"]
    return deepspeed


def _with_fitting_buckets(zero: dict[str, Any], sizes: list[int]) -> dict[str, Any]:
    """The section of ZeRO 1 or 2 with buckets that hold the largest gradient, and no more than all of them.

    DeepSpeed reserves memory for a bucket. A gradient that is larger is summed beside it, where ZeRO 2 with overlap
    lets go of its memory on ranks that own no part of it while the stream of the sums still reads it.

    Args:
        sizes: of the parameters that learn, numbers.
    """
    largest, all_of_them = (n + n % _ALIGNMENT for n in (max(sizes), sum(sizes)))
    most = dict.fromkeys(("reduce_bucket_size", "allgather_bucket_size"), all_of_them)
    zero = most | zero
    return zero | {"reduce_bucket_size": max(zero["reduce_bucket_size"], largest)}


def _limit_collectives(timeout: timedelta | None) -> None:
    """Give DeepSpeed's group of all ranks the limit of ours.

    It makes its own with torch's default, which for NCCL is ten minutes: less than a first step that compiles may take,
    and NCCL's end of the process names no culprit.
    """
    from deepspeed.utils import groups

    if timeout is not None and dist.is_initialized() and groups._WORLD_GROUP is None:
        groups._WORLD_GROUP = dist.new_group(range(dist.get_world_size()), timeout=timeout)


def _without_numbers_of_gpus() -> None:
    """Let DeepSpeed ask torch for free memory where GPUs are named by UUID, which it would take for numbers."""
    from deepspeed.accelerator import cuda_accelerator

    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if not all(name.strip().isdecimal() for name in names if name):
        cuda_accelerator.pynvml = None


@contextmanager
def _index_of(device: torch.device) -> Iterator[None]:
    """Let DeepSpeed take this GPU: its own choice is the one whose index is the rank within the node."""
    before = os.environ.get("LOCAL_RANK")
    if device.index is not None:
        os.environ["LOCAL_RANK"] = str(device.index)
    try:
        yield
    finally:
        if device.index is not None and before is None:
            del os.environ["LOCAL_RANK"]
        elif before is not None:
            os.environ["LOCAL_RANK"] = before


def go_on_at_the_least_scale(optimizer: Any) -> None:
    """Leave it to the loop to end a run whose gradients overflow at the least scale of fp16; DeepSpeed would raise."""
    scaler: Any = getattr(optimizer, "loss_scaler", None)
    if getattr(scaler, "dynamic", False):
        scaler.raise_error_at_min_scale = False


@torch.no_grad()
def _forget_first_step(optimizer: Any) -> None:
    """With ZeRO 0 DeepSpeed allocates the state by a step of zeros: Adam would take the next one for its second."""
    optimizer.optimizer.state.clear()
    for rounded, masters in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
        for parameter, master in zip(rounded, masters, strict=True):
            master.copy_(parameter)  # weight decay has moved it


@torch.no_grad()
def _clear_padding(optimizer: Any) -> None:
    """ZeRO 3 fills up slices to equal length with whatever memory holds; equal runs shall have equal checkpoints."""
    rank = dist.get_rank()
    for parameters, flat in zip(optimizer.fp16_groups, optimizer.fp32_partitioned_groups_flat, strict=True):
        start = 0
        for parameter in parameters:
            length = parameter.ds_tensor.numel()
            valid = min(max(parameter.ds_numel - rank * length, 0), length)
            parameter.ds_tensor[valid:] = 0
            flat[start + valid : start + length] = 0
            start += length

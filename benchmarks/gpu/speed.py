"""Speed of a training step on the device: waits of the host, launches, images per second, MFU, busy share, memory."""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any
from unittest.mock import patch

import torch
from torch.cuda import nccl
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.setting import Network, Setting, Trainer, method, scene, segmenter
from benchmarks.sections import Findings
from mgcda_dist.method import Batch
from mgcda_dist.models.compiling import compile_blocks
from mgcda_dist.training.device import set_up
from mgcda_dist.training.flops import micro_batch_flops, peak_flops
from mgcda_dist.training.profiler import device_work

__all__ = ["GpuDefaults", "host_waits", "machine", "recorded_work", "throughput", "waits"]


class GpuDefaults:
    """The switches of `engine` as a run on GPUs has them."""

    tf32, cudnn_benchmark, deterministic = True, True, False


def machine(setting: Setting, found: Findings) -> None:
    """Machine, versions and flags, and what a large product of matrices reaches."""
    import os
    import platform

    import timm

    import mgcda_dist

    if setting.on_gpu:  # first: where none is found, the check ends here
        properties = torch.cuda.get_device_properties(setting.device)
        found.fact("card", properties.name)
        found.fact("memory, GiB", properties.total_memory / 2**30)
        found.fact("cards", torch.cuda.device_count())
    facts: dict[str, Any] = {"mgcda_dist": mgcda_dist.__version__, "torch": torch.__version__}
    facts |= {"timm": timm.__version__, "Python": platform.python_version(), "processors": os.cpu_count()}
    if setting.on_gpu:
        facts |= {"CUDA": torch.version.cuda, "cuDNN": torch.backends.cudnn.version()}
        facts |= {
            "NCCL": ".".join(map(str, nccl.version())),
            "capability": str(torch.cuda.get_device_capability()),
        }
    facts |= {
        "TF32 of convolutions, by default": torch.backends.cudnn.allow_tf32,
        "TF32 of products, by default": torch.backends.cuda.matmul.allow_tf32,
    }
    for name, value in facts.items():
        found.fact(name, value)
    set_up(setting.device, GpuDefaults())
    side = 64 if setting.tiny else 8192
    for dtype, tf32 in ((torch.bfloat16, True), (torch.float32, True), (torch.float32, False)):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = (torch.randn(side, side, device=setting.device).to(dtype) for _ in range(2))
        reached, peak = 2 * side**3 / setting.timed(partial(torch.mm, a, b)), _peak(setting, dtype, tf32=tf32)
        name = "bf16" if dtype == torch.bfloat16 else "float32 with TF32" if tf32 else "float32"
        table = f"product of matrices of {side}×{side}"
        found.row(table, type=name, **{"TFLOP/s": reached / 1e12, "of the peak": peak and reached / peak})


def waits(setting: Setting, found: Findings) -> None:
    """Places at which the host waits for the GPU within a step; one look is wanted."""
    set_up(setting.device, GpuDefaults())
    network = setting.small
    for dtype, taught in ((torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)):
        average = segmenter(network) if taught else None
        trainer = Trainer(method(segmenter(network), network.size, average=average), setting, dtype)
        for step in range(2):
            trainer.step(_shown(scene(network, step, setting), taught))
        batch = _shown(scene(network, 2, setting), taught)
        name = str(dtype).removeprefix("torch.") + (", with a teacher" if taught else "")
        setting.wait()
        places = host_waits(partial(trainer.step, batch), setting)
        launches, busy_s = recorded_work(partial(trainer.step, batch), setting)
        busy_ms = None if busy_s is None else 1e3 * busy_s
        number = None if places is None else places.total()
        row = {"waits of the host": number, "launches": launches, "GPU busy, ms": busy_ms}
        found.row(f"one step of {network.backbone} with the whole method", type=name, **row)
        for place, times in (places or {}).items():
            found.row("waits by line", type=name, line=place, waits=times)
        if number is not None and number > 1:
            found.problem(f"{name}: the host waits {number} times in a step, where 1 is wanted")


def _shown(batch: Batch, taught: bool) -> Batch:
    """The batch; with views for a teacher, whose number the host knows: the last image."""
    return replace(batch, weak=batch.image[-1:]) if taught else batch


def throughput(network: Network, setting: Setting, found: Findings, *, compiled: bool) -> None:
    """The whole method and the baseline in bf16: one network, which the compiler sees once."""
    set_up(setting.device, GpuDefaults())
    bare = segmenter(network)
    models = {name: method(bare, network.size, full=name == "full") for name in ("full", "baseline")}
    flops = {name: micro_batch_flops(model, network.images, network.size) for name, model in models.items()}
    peak, seconds = _peak(setting, torch.bfloat16, tf32=True), dict[str, float]()
    if compiled:
        compile_blocks(bare, bare.example_size, backend=setting.backend)
    batches = [scene(network, step, setting) for step in range(2)]
    size = f"{network.images} × {network.size[0]}×{network.size[1]}"
    for name in ("full", "baseline"):
        trainer = Trainer(models.pop(name), setting, torch.bfloat16)
        setting.forget_peak()
        action = partial(_next_step, trainer, batches, count())
        seconds[name] = s = setting.timed(action)
        gib = setting.peak_gib()
        launches, busy_s = recorded_work(action, setting)
        row = {"images": size, "model": name, "ms": 1e3 * s, "images/s": network.images / s}
        row |= {"TFLOP/s": flops[name] / s / 1e12, "MFU": peak and flops[name] / s / peak}
        row |= {"GPU busy": busy_s and busy_s / s, "launches": launches, "peak GiB": gib}
        found.row("bf16, one step", **row)
        del trainer, action
    found.fact("price of the method, full / baseline", seconds["full"] / seconds["baseline"])
    found.fact("compiler", setting.backend if compiled else "none")


def _next_step(trainer: Trainer, batches: list[Batch], number: Iterator[int]) -> None:
    trainer.step(batches[next(number) % len(batches)])


def _peak(setting: Setting, dtype: torch.dtype, *, tf32: bool) -> float | None:
    if not setting.on_gpu:
        return None
    precision = "bf16" if dtype == torch.bfloat16 else "fp32"
    return peak_flops(torch.cuda.get_device_name(setting.device), precision, tf32=tf32)


def host_waits(action: Callable[[], Any], setting: Setting) -> Counter[str] | None:
    """Lines of the package at which the host waits for the GPU, by torch's own account; None: there is no GPU."""
    if not setting.on_gpu:
        action()
        return None
    asked = Counter[str]()

    def counted(wait: Callable[..., None]) -> Callable[..., None]:
        def called(*given: Any, **named: Any) -> None:
            caller = next(f for f in reversed(traceback.extract_stack()[:-1]) if "accelerator" not in f.filename)
            asked[_line(caller.filename, caller.lineno)] += 1
            wait(*given, **named)

        return called

    torch.cuda.set_sync_debug_mode("warn")
    try:
        with (
            warnings.catch_warnings(record=True) as caught,
            # What is asked for in so many words, torch does not warn of.
            patch.object(torch.cuda, "synchronize", counted(torch.cuda.synchronize)),
            patch.object(torch.cuda.Stream, "synchronize", counted(torch.cuda.Stream.synchronize)),
        ):
            warnings.simplefilter("always")
            action()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    seen = [w for w in caught if "synchroniz" in str(w.message)]
    return asked + Counter(_line(w.filename, w.lineno) for w in seen)


def _line(file: str, number: int | None) -> str:
    """FILE:LINE, of the package, or as its own package has it."""
    return f"{file.rpartition('mgcda_dist/')[2].rpartition('site-packages/')[2]}:{number}"


def recorded_work(action: Callable[[], Any], setting: Setting) -> tuple[int | None, float | None]:
    """Number of kernels and copies of an action, and the seconds in which the GPU ran any.

    Both None: there is no GPU, or the driver gives no account of it.
    """
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if setting.on_gpu else [])
    setting.wait()
    with profile(activities=activities) as recorded:
        action()
        setting.wait()
    return device_work(recorded)

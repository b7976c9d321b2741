"""Use of a rank's GPU: operations a second and their share of what the card can do, busy time, peak memory.

Nothing here looks at what the GPU computes, so the host waits for nothing. On processors there is no meter: to count
the operations of a step takes a second or two at the start.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from mgcda_dist.config.run import EngineConfig
from mgcda_dist.config.schema import Config
from mgcda_dist.errors import in_one_line
from mgcda_dist.method.mgcda import MGCDA
from mgcda_dist.training.flops import micro_batch_flops, peak_flops

__all__ = ["GpuMeter", "gpu_meter"]

_SAMPLED_EVERY_S = 0.5
"""The driver averages over at most a second."""


class GpuMeter:
    """Metrics of one GPU.

    Args:
        flops: operations of one optimizer step on this GPU; None: unknown.
        peak: operations a second that the card can do; None: unknown.
    """

    def __init__(self, device: torch.device, flops: float | None, peak: float | None) -> None:
        self._device, self._flops, self._peak = device, flops, peak
        self._busy, self._can_sample, self._sampled_s = list[float](), True, 0.0

    def sample(self) -> None:
        """Ask the driver for the load of the last moments, now and then."""
        now = time.perf_counter()
        if not self._can_sample or now - self._sampled_s < _SAMPLED_EVERY_S:
            return
        self._sampled_s = now
        try:
            self._busy.append(torch.cuda.utilization(self._device) / 100)
        except Exception:  # the driver's library is missing, or a slice of a card has no load of its own: every kind
            self._can_sample = False

    def read(self, step_s: float) -> dict[str, float]:
        """Metrics since the last reading, as far as they are known; the peak of memory is that of the process."""
        metrics = {"gpu/peak_memory_gib": torch.cuda.max_memory_allocated(self._device) / 2**30}
        if self._busy:
            metrics["time/busy_share"] = sum(self._busy) / len(self._busy)
            self._busy = []
        if self._flops is not None:
            metrics["time/tflop_per_s"] = self._flops / step_s / 1e12
            if self._peak is not None:
                metrics["time/mfu"] = self._flops / step_s / self._peak
        return metrics


def gpu_meter(
    config: Config,
    engine: EngineConfig,
    model: MGCDA,
    device: torch.device,
    say: Callable[[str], None],
) -> GpuMeter | None:
    """The meter of a rank; None: it trains on processors.

    Args:
        engine: from `EngineConfig.on`.
        model: before an engine has it.
        say: told what cannot be measured.
    """
    if device.type != "cuda":
        return None
    parts = model.collectives.size * engine.accumulation
    images = config.data.global_batch // parts
    unlabelled = sum(stream.per_step for stream in config.data.streams if not stream.labelled)
    flops: int | None = None
    try:
        share = round(unlabelled / parts)
        flops = engine.accumulation * micro_batch_flops(model, images, config.data.crop_px, num_unlabelled=share)
    except Exception as error:  # networks and losses of others raise every kind
        say(f"operations of a step are not counted, nor time/mfu: {in_one_line(error)}")
    name = torch.cuda.get_device_name(device)
    peak = peak_flops(name, engine.precision, tf32=engine.tf32)
    if peak is None and flops is not None:
        say(f"time/mfu is not logged: the peak of {name} is not known; time/tflop_per_s is")
    return GpuMeter(device, flops, peak)

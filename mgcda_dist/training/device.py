"""Settings of torch for the GPU of a worker; on processors nothing is set."""

from __future__ import annotations

import os
from typing import Protocol

import torch

__all__ = ["Switches", "set_up"]


class Switches(Protocol):
    """The switches of `EngineConfig` that are torch's, as `EngineConfig.on` gives them."""

    @property
    def tf32(self) -> bool:
        """Products of float32 use TF32."""
        ...

    @property
    def cudnn_benchmark(self) -> bool:
        """cuDNN tries its kernels."""
        ...

    @property
    def deterministic(self) -> bool:
        """Only kernels that give the same bits each time."""
        ...


def set_up(device: torch.device, engine: Switches) -> None:
    """Set torch's switches for this process, before anything runs on the GPU."""
    if device.type != "cuda":
        return
    # Not the newer `fp32_precision`: torch's compiler asks for the older one, which then refuses to answer.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = engine.tf32
    torch.backends.cudnn.benchmark = engine.cudnn_benchmark
    torch.backends.cudnn.deterministic = engine.deterministic
    if engine.deterministic:
        # cuBLAS reads it when it starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(engine.deterministic, warn_only=True)

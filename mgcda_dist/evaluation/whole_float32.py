"""Scores in whole float32 on GPUs, whatever precision the process trains in."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["whole_float32"]


@contextmanager
def whole_float32() -> Generator[None]:
    """Within it GPUs multiply float32 without TF32, and cuDNN does not try kernels for every size of frame.

    A process that trains has other settings (`engine.tf32`, `engine.cudnn_benchmark`) than one that only evaluates: the
    same weights shall have the same scores in both.
    """
    before = _switches()
    _switch(False, False, False)
    try:
        yield
    finally:
        _switch(*before)


def _switches() -> tuple[bool, bool, bool]:
    # The module as it is: torch's stubs do not know the switches of cuDNN.
    cudnn: Any = torch.backends.cudnn
    return bool(torch.backends.cuda.matmul.allow_tf32), bool(cudnn.allow_tf32), bool(cudnn.benchmark)


def _switch(products_tf32: bool, convolutions_tf32: bool, benchmark: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = products_tf32
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = convolutions_tf32, benchmark

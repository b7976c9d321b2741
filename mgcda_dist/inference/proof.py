"""Proof that an exported model is the segmenter alone (law 5): tensors, parameters, operations and latency."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from mgcda_dist.inference.model import ExportedModel
from mgcda_dist.models.exported import bare_segmenter

__all__ = ["Check", "compare_with_baseline"]

_TURNS = 15
_LATENCY_TOLERANCE = 1.1
_WARM_UP = 3
_ROUNDS = 4


@dataclass(frozen=True)
class Check:
    """Result of one check: its subject, whether it passed, and what was found, with numbers."""

    name: str
    passed: bool
    found: str


def compare_with_baseline(model: ExportedModel, size: tuple[int, int]) -> list[Check]:
    """Compare tensors, parameters, operations, FLOPs and latency with a newly built network without MDAT and CACL.

    Args:
        model: strictly loaded.
        size: height and width of the image for FLOPs and latency, pixels.
    """
    with torch.random.fork_rng(devices=[]):
        baseline = bare_segmenter(**model.metadata.architecture).to(model.device).eval()
    image = torch.zeros(1, 3, *size, dtype=torch.uint8, device=model.device)
    tensors, expected = (set(network.state_dict()) for network in (model.network, baseline))
    parameters, baseline_parameters = (sum(x.numel() for x in n.parameters()) for n in (model.network, baseline))
    (flops, calls), (baseline_flops, baseline_calls) = (_counted(n, image) for n in (model.network, baseline))
    ratio, milliseconds = _latency(model.network, baseline, image)
    where = f"at {size[1]}×{size[0]}"
    return [
        Check(
            "tensors",
            tensors == expected,
            f"{len(tensors)}, strictly loaded; exactly those of the baseline"
            if tensors == expected
            else f"not of the baseline: {', '.join(sorted(tensors ^ expected)[:3])}",
        ),
        Check("parameters", parameters == baseline_parameters, f"{parameters:,}, baseline {baseline_parameters:,}"),
        Check(
            "operations",
            calls == baseline_calls,
            f"{sum(calls.values())} calls, baseline {sum(baseline_calls.values())}",
        ),
        Check("FLOPs", flops == baseline_flops, f"{flops / 1e9:.3f} G {where}, baseline {baseline_flops / 1e9:.3f} G"),
        Check("latency", ratio < _LATENCY_TOLERANCE, f"{milliseconds:.1f} ms {where}, {ratio:.2f} of the baseline's"),
    ]


@torch.no_grad()
def _counted(network: nn.Module, image: torch.Tensor) -> tuple[int, dict[str, int]]:
    """FLOPs, and number of calls of each operation."""
    calls = _Calls()
    with FlopCounterMode(display=False) as counter:
        network(image)
    with calls:
        network(image)
    return counter.get_total_flops(), calls.count


class _Calls(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[str(func)] = self.count.get(str(func), 0) + 1
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def _latency(network: nn.Module, baseline: nn.Module, image: torch.Tensor) -> tuple[float, float]:
    """Median ratio of the network's to the baseline's time in alternating calls, and the network's median time in ms.

    On a CPU the ratio is of processor time, which depends less on other programs, and is measured again where they have
    disturbed it: a network that is slower is slower each time.
    """
    found = float("inf"), 0.0
    for _ in range(_ROUNDS):
        own: list[float] = []
        ratios: list[float] = []
        for turn in range(_WARM_UP + _TURNS):
            (elapsed, first), (_, second) = _time(network, image), _time(baseline, image)
            if turn >= _WARM_UP:
                own.append(elapsed)
                ratios.append(first / second)
        found = min(found, (statistics.median(ratios), 1e3 * statistics.median(own)))
        if found[0] < _LATENCY_TOLERANCE:
            break
    return found


def _time(network: nn.Module, image: torch.Tensor) -> tuple[float, float]:
    """Seconds of one call: elapsed, and for the comparison."""
    start, start_processor = time.perf_counter(), time.process_time()
    network(image)
    if image.is_cuda:
        torch.cuda.synchronize(image.device)
    elapsed, processor = time.perf_counter() - start, time.process_time() - start_processor
    return elapsed, elapsed if image.is_cuda else processor

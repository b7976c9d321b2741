"""Numbers on the device: agreement with the host, bitwise repetition, every norm in every precision."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from benchmarks.gpu.setting import Setting, Trainer, method, scene, segmenter
from benchmarks.sections import Findings
from mgcda_dist.choices import NormMode
from mgcda_dist.training.device import set_up

__all__ = ["LIMITS", "Switches", "Trained", "agreement", "compare", "norms", "repetition"]

_STEPS = 3
LIMITS = {"float64": 1e-9, "float32": 1e-4, "float32 with TF32": None, "bf16": None}
"""Largest relative difference to the same step in float64 on the host; None: it is printed.

That of float32 holds where rows are drawn: where the hardest are chosen, rounding may choose another one.
"""


@dataclass(frozen=True)
class Switches:
    """Switches of `set_up`; by default exact."""

    tf32: bool = False
    cudnn_benchmark: bool = False
    deterministic: bool = False


@dataclass(frozen=True)
class Trained:
    """Values of every step by name, parameters before and after, and the types of the rows in the memory."""

    values: list[dict[str, float]]
    before: Tensor
    after: Tensor
    memory: Tensor


def _train(setting: Setting, dtype: torch.dtype, optimizer: str = "sgd", *, by_draw: bool = False) -> Trained:
    network = setting.small
    trainer = Trainer(method(segmenter(network), network.size, by_draw=by_draw), setting, dtype, optimizer)
    before = trainer.weights()
    values = [trainer.step(scene(network, step, setting)) for step in range(_STEPS)]
    cacl = trainer.model.cacl
    assert cacl is not None
    return Trained(values, before, trainer.weights(), cacl.queue.types.cpu())


def agreement(setting: Setting, found: Findings) -> None:
    """Three steps of the whole method against the same in float64 on the host."""
    kinds = {"float64": torch.float64, "bf16": torch.bfloat16}
    for by_draw in (False, True):
        host = _train(Setting(torch.device("cpu"), setting.tiny), torch.float64, by_draw=by_draw)
        for name, limit in LIMITS.items():
            if by_draw and name != "float32":
                continue
            set_up(setting.device, Switches(tf32=name.endswith("TF32")))
            here = _train(setting, kinds.get(name, torch.float32), by_draw=by_draw)
            label = f"{name}, rows by draw" if by_draw else name
            compare(found, label, here, host, limit if by_draw or name == "float64" else None)


def compare(found: Findings, name: str, here: Trained, host: Trained, limit: float | None) -> None:
    """Note differences, as problems where they are over the limit."""
    terms = [term for term in host.values[0] if term.startswith(("loss/", "norm"))]
    largest = max(_relative(a[term], b[term]) for a, b in zip(here.values, host.values, strict=True) for term in terms)
    moved = float((here.after - host.after).norm() / (host.after - host.before).norm())
    same = torch.equal(here.memory, host.memory)
    row = {"largest of the terms and the gradient's norm": largest, "limit": limit, "way of the parameters": moved}
    found.row("relative difference after three steps", precision=name, **row, **{"same rows in memory": same})
    if limit is not None:
        found.bounded(f"{name}: a term or the gradient's norm differs from the host's", largest, limit)
    if name == "float64":  # what a parameter of float32 cannot hold is already a share of so short a way
        found.bounded(f"{name}: the way of the parameters differs from the host's", moved, limit or 0.0)


def _relative(a: float, b: float) -> float:
    return abs(a - b) / max(abs(b), 1e-12)


def repetition(setting: Setting, found: Findings) -> None:
    """The same three steps twice, with `engine.deterministic` and, for what it costs to leave it out, without."""
    for deterministic in (True, False):
        set_up(setting.device, Switches(cudnn_benchmark=not deterministic, deterministic=deterministic))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            first, second = (_train(setting, torch.float32, "adamw") for _ in range(2))
        equal = torch.equal(first.after, second.after) and first.values == second.values
        found.row("", deterministic=deterministic, **{"equal bit by bit": equal})
        texts = {str(w.message).split(" does not have")[0] for w in caught if "deterministic" in str(w.message)}
        if deterministic:
            found.fact("operations without a deterministic kernel", ", ".join(sorted(texts)) or "none")
            if not equal:
                found.problem("two runs with deterministic kernels differ")


def norms(setting: Setting, found: Findings) -> None:
    """Two steps with every norm in every precision."""
    for norm in get_args(NormMode):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            name = f"{norm}, {str(dtype).removeprefix('torch.')}"
            if norm == "sync" and not setting.on_gpu:
                found.row("loss of the second step", norm=name, loss=None, note="trains on GPUs only")
                continue
            try:
                network = setting.small
                trainer = Trainer(method(segmenter(network, norm), network.size), setting, dtype)
                losses = [trainer.step(scene(network, step, setting))["loss/total"] for step in range(2)]
            except Exception as error:  # one that fails says nothing of the others
                found.problem(f"{name}: {type(error).__name__}: {str(error).splitlines()[0]}")
                continue
            found.row("loss of the second step", norm=name, loss=losses[-1], note="")
            if not all(map(math.isfinite, losses)):
                found.problem(f"{name}: the loss is {losses}")

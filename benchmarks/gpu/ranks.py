"""The engine under every stage of ZeRO against a plain optimizer, and every collective of the method, with one rank."""

from __future__ import annotations

import gc
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.gpu.numbers import Switches
from benchmarks.gpu.setting import CLIP_NORM, Network, Setting, Trainer, method, scene, segmenter
from benchmarks.gpu.speed import host_waits
from benchmarks.sections import Findings, SkippedError
from mgcda_dist.method import MGCDA, Batch
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.training.device import set_up

__all__ = ["collectives", "engine", "waits"]

_STEPS, _STAGES = 3, (0, 1, 2, 3)
_LIMIT = 1e-4
_BUCKET_MB = 25
_WAITED: tuple[tuple[int, str, float | None], ...] = (
    (0, "fp32", None),
    (0, "bf16", None),
    (1, "bf16", None),
    (1, "bf16", _BUCKET_MB),
    (3, "bf16", _BUCKET_MB),
)
"""ZeRO stage, precision, megabytes of a bucket: None: without overlap."""


def engine(setting: Setting, found: Findings) -> None:
    """DeepSpeed's engine: its terms, its memory, and a snapshot that is loaded by another engine."""
    _need_deepspeed(setting)
    set_up(setting.device, Switches())
    network = setting.small
    batches = [scene(network, step, setting) for step in range(_STEPS)]
    plain = Trainer(method(segmenter(network), network.size, by_draw=True), setting)
    wanted = [plain.step(batch) for batch in batches]
    with _group(setting), tempfile.TemporaryDirectory() as name:
        for stage in _STAGES:
            made = _engine(setting, stage, "fp32")
            values = [_step(made, batch) for batch in batches]
            worst = max(
                abs(a["loss/total"] - b["loss/total"]) / abs(b["loss/total"])
                for a, b in zip(values, wanted, strict=True)
            )
            folder = Path(name) / str(stage)
            made.save(folder)
            loaded = _engine(setting, stage, "fp32")
            loaded.load(folder)
            equal = _same(_states(made), _states(loaded))
            row: dict[str, Any] = {"loss against AdamW": worst, "equal after save and load": equal}
            del made, loaded
            rounded = _engine(setting, stage, "bf16", export_masters=True)
            row["bf16: loss of the third step"] = [_step(rounded, batch)["loss/total"] for batch in batches][-1]
            del rounded
            found.row(f"three steps of {network.backbone}, one rank", ZeRO=stage, **row)
            buckets = {f"bucket of {_BUCKET_MB} MB": _BUCKET_MB, "all gradients at once": None}
            held = {title: _at_rest_mib(setting, stage, mb) for title, mb in buckets.items()}
            found.row(f"MiB of an engine at rest, {setting.networks[0].backbone} in bf16", ZeRO=stage, **held)
            found.bounded(f"ZeRO {stage}: the loss differs from plain AdamW's", worst, _LIMIT)
            if not equal:
                found.problem(f"ZeRO {stage}: what is loaded is not what was saved")


def waits(setting: Setting, found: Findings) -> None:
    """Places at which the host waits for the GPU within a step of DeepSpeed's engine."""
    _need_deepspeed(setting)
    set_up(setting.device, Switches())
    network = setting.small
    batches = [scene(network, step, setting) for step in range(3)]
    with _group(setting):
        for stage, precision, bucket_mb in _WAITED:
            made = _engine(setting, stage, precision, bucket_mb=bucket_mb)
            for batch in batches[:2]:
                _step(made, batch)
            setting.wait()
            places = host_waits(partial(_step, made, batches[2]), setting)
            what = {"ZeRO": stage, "type": precision, "overlap": bucket_mb is not None}
            number = None if places is None else places.total()
            found.row(f"one step of {network.backbone} in DeepSpeed's engine, one rank", **what, waits=number)
            for place, times in (places or {}).items():
                found.row("waits by line", **what, line=place, waits=times)
            if stage == 0 and number is not None and number > 1:
                found.problem(f"ZeRO 0, {precision}: the host waits {number} times in a step, where 1 is wanted")
            del made


def _need_deepspeed(setting: Setting) -> None:
    """Skip a section that cannot have it.

    Raises:
        SkippedError: it is not installed, or a package that it needs: a wheel that was carried along brings none.
    """
    if find_spec("deepspeed") is None:
        raise SkippedError("deepspeed is not installed")
    from mgcda_dist.training.deepspeed_start import load_deepspeed

    try:
        load_deepspeed(setting.device)
    except ModuleNotFoundError as error:
        raise SkippedError(f"deepspeed needs {error.name}, which is not installed") from None


def _engine(
    setting: Setting,
    stage: Any,
    precision: Any,
    network: Network | None = None,
    bucket_mb: float | None = _BUCKET_MB,
    **options: Any,
) -> Any:
    from mgcda_dist.training.deepspeed_start import deepspeed_config
    from mgcda_dist.training.engine import DeepSpeedEngine

    network = network or setting.small
    # Rows by draw: rounding may choose another of the hardest, and the loss of later steps with it.
    model = method(segmenter(network), network.size, by_draw=True)
    config = deepspeed_config(
        micro_batch=network.images,
        accumulation=1,
        zero_stage=stage,
        precision=precision,
        clip_norm=CLIP_NORM,
        bucket_mb=bucket_mb,
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    group = {"params": trained, "name": "all", "lr": 1e-3, "base_lr": 1e-3}
    fused = True if setting.on_gpu else None
    return DeepSpeedEngine(model, torch.optim.AdamW([group], fused=fused), config, setting.device, **options)


def _step(made: Any, batch: Batch) -> dict[str, float]:
    model: MGCDA = made.model
    outcome = made.forward(batch, 0.5, model.count([batch]))
    totals = model.total([outcome])
    made.backward(outcome.loss)
    made.step(1.0, totals)
    made.commit([outcome], totals)
    return totals.scalars()


def _at_rest_mib(setting: Setting, stage: int, bucket_mb: float | None) -> float | None:
    """Memory that a new engine holds, its buckets included."""
    if not setting.on_gpu:
        return None
    gc.collect()  # of engines before, which hold themselves
    before = torch.cuda.memory_allocated(setting.device)
    made = _engine(setting, stage, "bf16", setting.networks[0], bucket_mb)
    held = torch.cuda.memory_allocated(setting.device) - before
    del made
    return held / 2**20


def _states(made: Any) -> dict[str, Any]:
    return {name: copy.state for name, copy in made.snapshot().items()}


def _same(a: Any, b: Any) -> bool:
    """Equal bit by bit, through nested mappings and lists."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return not isinstance(a, int | float | str) or a == b


def collectives(setting: Setting, found: Findings) -> None:
    """Every collective of the method through its process group, and a step whose terms are those without one."""
    set_up(setting.device, Switches())
    generator = torch.Generator().manual_seed(0)
    rows, weights = (torch.randn(64, 131, generator=generator).to(setting.device) for _ in range(2))
    with _group(setting) as backend:
        world = _ThroughTheGroup()
        found.fact("backend", backend)
        for rounded in (0, 128):
            sent = rows.clone().requires_grad_()
            got = world.start_gather(sent, "rows", rounded).wait()
            (got * weights).sum().backward()
            exact = torch.equal(got[:, rounded:], rows[:, rounded:])
            arrived = exact and sent.grad is not None and torch.equal(sent.grad, weights)
            found.row("", collective=f"gather, {rounded} columns rounded, and its gradient", arrives=arrived)
        summed = world.start_sum(rows, "sum").wait()
        found.row("", collective="sum", arrives=torch.equal(summed, rows))
        sent = rows.clone().requires_grad_()
        (world.sum_with_gradient(sent, "memory") * weights).sum().backward()
        found.row(
            "", collective="sum with gradient", arrives=bool(sent.grad is not None and (sent.grad == weights).all())
        )
        thing = {"a": [1, 2]}
        found.row("", collective="objects of all", arrives=world.gather_objects(thing, "objects") == [thing])
        found.row("", collective="object of the first", arrives=world.from_first(thing, "first") == thing)
        network = setting.small
        batch = scene(network, 0, setting)
        here, there = (
            Trainer(method(segmenter(network), network.size, world=w), setting).step(batch) for w in (world, None)
        )
        worst = max(abs(here[name] - there[name]) for name in there)
        found.fact("largest difference of a value of a step", worst)
        found.bounded("a step through the group differs from one without", worst, _LIMIT)
        found.fact("bytes sent in a step", sum(world.stats.num_bytes.values()))
    for row in found.tables[""]:
        if not row["arrives"]:
            found.problem(f"{row['collective']}: something else arrives")


class _One(int):
    """One that says that it is not: nothing goes around the process group."""

    def __eq__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return int.__hash__(self)


class _ThroughTheGroup(Collectives):
    @property
    def size(self) -> int:
        return _One(1)


@contextmanager
def _group(setting: Setting) -> Iterator[str]:
    """A process group of this process alone, with the backend of its device."""
    backend = "nccl" if setting.on_gpu else "gloo"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    if setting.on_gpu:
        torch.cuda.set_device(setting.device)
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}  # DeepSpeed looks there
    dist.init_process_group(backend, init_method=address, rank=0, world_size=1, timeout=timedelta(seconds=60))
    try:
        yield backend
    finally:
        dist.destroy_process_group()

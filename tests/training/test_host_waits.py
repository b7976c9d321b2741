"""A step on a GPU: the host looks at it once, when all of it is handed over, and nothing lies on the wrong device.

The GPU is a pretended one (`tests.support.pretended`), and all else is real: the loop, DeepSpeed, the method, networks.
The waits of every family of configurations are written down below. They may only fall: a test that finds fewer asks for
the new number.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from mgcda_dist import build
from mgcda_dist.config.schema import Config
from mgcda_dist.evaluation.test_time import TestTimeAugmentation, score_maps
from mgcda_dist.inference.model import load_exported
from mgcda_dist.method.batch import Batch
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.models.scores import scorer
from mgcda_dist.training.deepspeed_start import deepspeed_config
from mgcda_dist.training.engine import DeepSpeedEngine
from mgcda_dist.training.gpu_meter import gpu_meter
from mgcda_dist.training.loop import Hooks, fit
from mgcda_dist.training.progress import Progress, StopRequest
from mgcda_dist.training.state import TrainState
from tests.support.configs import plain_config
from tests.support.distributed import run_distributed
from tests.support.pretended import DEVICE, PretendedDevice, pretended_device

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(300)]

IMAGES, HEIGHT, WIDTH, STEPS = 4, 64, 96, 4  # DeepSpeed begins to measure at its third

FAMILIES: dict[str, dict[str, Any]] = {
    "default": {},
    "teacher": {
        "engine": {"accumulation": 2, "zero_stage": 0},
        "teacher": {"enabled": True, "contrast": True, "outlier_weight": 0.1, "confidence": 0.1},
    },
    "similarity": {
        "cacl": {"negatives_by": "similarity", "positives": "per_anchor", "balance": "sides", "queue_layout": "sharded",
                 "unlabelled_confidence": 0.2, "queue_rows_per_image": 2},
        "mdat": {"target": "hard", "condition": "class", "certainty": True, "mask_width": "receptive_field"},
        "loss": {"class_weights": {"road": 2.0}},
        "engine": {"zero_stage": 0},
    },
    "distribution": {
        "cacl": {"contrast": "distribution", "image_aware": False},
        "mdat": {"target": "uniform", "condition": "outer", "smoothing": {"mode": "adaptive_sample"}},
        "loss": {"outlier": "abstention"},
        "model": {"norm": "group"},
        "engine": {"zero_stage": 2, "precision": "bf16"},
    },
    "rounded": {"engine": {"zero_stage": 0, "precision": "bf16"}, "model": {"norm": "sync"}},
    "overlapped": {"engine": {"zero_stage": 1, "overlap_comm": True}, "model": {"norm": "local"}},
    "sliced": {"engine": {"zero_stage": 3}},
}  # fmt: skip

METERED = "default"
"""The family whose steps have the meter of a GPU."""
READ = "optimizer training/engine.py _read read"
"""The one look at a step: its gradient norm and its values, after the backward pass of the last micro-batch."""
LOGGED = {"validation method/mgcda.py MGCDA.health read": 1}
"""One more, of a step that is logged."""
STEP = "optimizer training/engine.py DeepSpeedEngine.step"
ZERO = {f"{STEP} copy": 6, f"{STEP} read": 7}
"""DeepSpeed's own, with ZeRO: it looks at the norm of every group of parameters, and marks what is not finite."""
GRADIENTS = {**ZERO, f"{STEP} read": 8}
"""In bf16 it looks at the gradients as well."""
ALL = "backward training/engine.py DeepSpeedEngine.backward synchronize"
"""With overlap, and with slices of the parameters, it waits at the end of each backward pass for all of the device."""
SLICES = {f"{STEP} copy": 6, f"{STEP} read": 1}
GATHERED = "forward training/engine.py DeepSpeedEngine.forward"
WAITS: dict[str, list[dict[str, int]]] = {  # of the first step, which is logged, the second, and those after it
    "default": [{READ: 1, **LOGGED}, {READ: 1}],
    "teacher": [{READ: 1, **LOGGED}, {READ: 1}],
    "similarity": [
        {READ: 1, **LOGGED, "forward models/segmentation_loss.py SegmentationLoss._weight_like copy": 1},
        {READ: 1},
    ],
    "distribution": [{READ: 1, **GRADIENTS, **LOGGED}, {READ: 1, **GRADIENTS}],
    "rounded": [{READ: 1, **LOGGED}, {READ: 1}],
    "overlapped": [{READ: 1, **ZERO, ALL: 1, **LOGGED}, {READ: 1, **ZERO, ALL: 1}],
    "sliced": [
        {READ: 1, **SLICES, ALL: 1, f"{GATHERED} copy": 2, f"{GATHERED} read": 2, **LOGGED},
        {READ: 1, **SLICES, ALL: 1, f"{GATHERED} copy": 6, f"{GATHERED} read": 6},
        {READ: 1, **SLICES, ALL: 1},  # it knows in which order the network wants its parameters
    ],
}
SCORED = "evaluation/test_time.py"
SCORING: dict[str, dict[str, int]] = {  # of two frames
    "evaluation": {f"{SCORED} _look copy": 1, f"{SCORED} _scored read": 4},
    "augmented": {f"{SCORED} _look copy": 4, f"{SCORED} _scored read": 4},
    "windows": {f"{SCORED} _slide copy": 2, f"{SCORED} _scored read": 4},
    "predict": {f"{SCORED} _look copy": 1, f"{SCORED} _scored read": 4},
}


class Phases(Progress):
    """Tells the device in which phase of which step it is."""

    def __init__(self, gpu: PretendedDevice | None, steps: list[Counter[str]]) -> None:
        super().__init__()
        self._gpu, self._waits = gpu, steps

    def enter(self, phase: str, step: int) -> None:
        super().enter(phase, step)
        if self._gpu is not None:
            self._gpu.phase, self._gpu.waits = phase, self._waits[step]


def train(config: Config, *, on_gpu: bool, metered: bool = False) -> tuple[list[Counter[str]], list[dict[str, float]]]:
    """Train: the waits of each step, and its metrics."""
    waits, metrics = [Counter[str]() for _ in range(STEPS)], list[dict[str, float]]()
    engine_config = deepspeed_config(
        micro_batch=IMAGES // config.engine.accumulation,
        accumulation=config.engine.accumulation,
        zero_stage=config.engine.zero_stage,
        precision=config.engine.precision,
        clip_norm=config.optim.clip_norm,
        bucket_mb=config.engine.bucket_mb if config.engine.overlap_comm else None,
    )
    taken, taken_before = list[Batch](), list[int]()

    def wait_for_all(*_: Any) -> None:
        assert gpu is not None
        gpu.wait_for_all()
        taken_before.append(len(taken))

    gpu: PretendedDevice | None = None
    with ExitStack() as stack:
        model, device, state = build.mgcda(config, Collectives()), torch.device("cpu"), TrainState()
        meter = None
        if metered:
            stack.enter_context(patch.object(torch.cuda, "get_device_name", lambda device: "NVIDIA H200"))
            stack.enter_context(patch.object(torch.cuda, "utilization", lambda device: 50))
            meter = gpu_meter(config, config.engine, model, DEVICE if on_gpu else device, print)
        if on_gpu:
            os.environ["DS_ACCELERATOR"] = "cpu"
            from deepspeed.accelerator import get_accelerator

            gpu, device = stack.enter_context(pretended_device()), DEVICE
            for name in ("device_name", "current_device_name"):
                stack.enter_context(patch.object(get_accelerator(), name, lambda *_: str(DEVICE)))
            stack.enter_context(patch.object(get_accelerator(), "resolves_data_dependency", _not_after_backward))
            stack.enter_context(patch.object(get_accelerator(), "synchronize", wait_for_all))
            model.to(device)
        engine = DeepSpeedEngine(model, build.optimizer(config, model), engine_config, device)
        optimizer: Any = engine._engine.optimizer
        if gpu is not None and hasattr(optimizer, "reduce_and_partition_stream"):
            optimizer.reduce_and_partition_stream = SimpleNamespace(synchronize=wait_for_all)
        hooks = Hooks(
            log=lambda step, logged: None,
            say=lambda text: None,
            say_everywhere=lambda text: None,
            alarm=lambda name, text: None,
            stop_request=lambda: StopRequest.STOP if state.step == STEPS - 1 else StopRequest.NONE,
            local_sums=lambda: {"written": 0.0},
            summed=lambda sums: None,
            validate=dict,
            checkpoint=lambda numbers: None,
            last_good=str,
            progress=Phases(gpu, waits),
            stepped=lambda step, all_of_it, numbers: metrics.append(all_of_it),
            meters=[meter] if meter is not None else [],
        )
        fit(engine, (taken.append(batch) or batch for batch in micro_batches(config)), state, config, hooks)
    assert taken_before == [min(step + 2, STEPS) for step in range(len(taken_before))], "the next batch is on its way"
    return waits, metrics


def _not_after_backward() -> bool:
    """The CPU's accelerator has no streams to wait for; let the place be seen where DeepSpeed waits for all of them."""
    return sys._getframe(1).f_code.co_name != "independent_gradient_partition_epilogue"


def micro_batches(config: Config) -> Iterator[Batch]:
    """Scenes with anomalies, the last one unlabelled."""
    size = IMAGES // config.engine.accumulation
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        image = torch.randint(0, 256, (IMAGES, HEIGHT, WIDTH, 3), dtype=torch.uint8, generator=generator)
        label = torch.randint(0, 8, (IMAGES, HEIGHT // 8, WIDTH // 8), generator=generator)
        label = label.repeat_interleave(8, 1).repeat_interleave(8, 2)
        label[-1], label[:, :4] = 255, 255
        label[::3, 16:40, 16:48] = 254
        told = torch.arange(IMAGES) == IMAGES - 1
        whole = image.permute(0, 3, 1, 2)
        for first in range(0, IMAGES, size):
            own = slice(first, first + size)
            slot = torch.arange(first, first + size)
            batch = Batch(whole[own], label[own].to(torch.uint8), slot % 2, slot, step, unlabelled=told[own])
            yield replace(batch, weak=whole[own][told[own]]) if config.teacher.enabled else batch


def configured(name: str) -> Config:
    sections: dict[str, Any] = {
        "model": {"backbone": "test_resnet.r160_in1k", "decoder_channels": 16},
        "cacl": {"projection_dim": 16, "anomaly_pixels": 8, "inlier_pixels": 2, "queue_rows": 32, "warmup": 0},
        "optim": {"steps": STEPS + 1, "lr_backbone": 1e-3, "lr_heads": 1e-3},
        "tracking": {"log_every_steps": 2},
    }
    for section, values in FAMILIES[name].items():
        sections[section] = sections.get(section, {}) | values
    return plain_config(data={"crop_px": [HEIGHT, WIDTH]}, **sections)


def score(run: Path) -> dict[str, Counter[str]]:
    """The waits of two frames, scored as by an evaluation, with its augmentations, and as by a prediction."""
    frames = [np.zeros((64, 96, 3), np.uint8)] * 2
    found: dict[str, Counter[str]] = {}
    ways = {
        "evaluation": TestTimeAugmentation(),
        "augmented": TestTimeAugmentation(scales=(1.0, 0.5), flip=True),
        "windows": TestTimeAugmentation(window_px=(64, 64)),
    }
    with pretended_device() as gpu:
        model = load_exported(run, DEVICE)
        of_logits = scorer("energy")
        for name, augmentation in ways.items():
            gpu.waits = found[name] = Counter()
            score_maps(model.network, frames, (128, 192), score=of_logits, augmentation=augmentation, device=DEVICE)
        gpu.waits = found["predict"] = Counter()
        model.predict_batch(frames)
    return found


def _all(run: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    found: dict[str, Any] = {name: train(configured(name), on_gpu=True, metered=name == METERED) for name in FAMILIES}
    return {**found, "on the CPU": train(configured("default"), on_gpu=False, metered=True), "scoring": score(run)}


@pytest.fixture(scope="module")
def found(run: Path) -> dict[str, Any]:
    """All of it, in one process of a group of one, which DeepSpeed wants."""
    (result,) = run_distributed(_all, 1, run, timeout_s=240)
    return result


@pytest.mark.parametrize("name", FAMILIES)
def test_the_host_looks_at_a_step_once(found: dict[str, Any], name: str):
    waits, _ = found[name]
    first, second, *later = WAITS[name]
    plain = later[0] if later else second
    wanted = [first, second, {**plain, **LOGGED}, plain]
    assert [dict(step) for step in waits] == wanted, "more: find another way; fewer: write the new number down"


@pytest.mark.parametrize("name", SCORING)
def test_a_score_map_is_read_once(found: dict[str, Any], name: str):
    assert dict(found["scoring"][name]) == SCORING[name], "more: find another way; fewer: write the new number down"


def test_the_use_of_the_device_costs_no_wait(found: dict[str, Any]):
    """The waits of this family are those above."""
    logged = found[METERED][1][0]
    assert logged["time/tflop_per_s"] > 0
    assert logged["time/mfu"] == pytest.approx(logged["time/tflop_per_s"] / 495), "of an H200 with TF32"
    assert logged["time/busy_share"] == 0.5 and "gpu/peak_memory_gib" in logged
    assert "time/mfu" not in found["on the CPU"][1][0]


def test_the_pretended_device_computes_what_the_cpu_does(found: dict[str, Any]):
    (_, there), (_, here) = found["default"], found["on the CPU"]
    assert len(there) == len(here) == STEPS and there[0]["loss/total"] != there[1]["loss/total"]
    for step in range(STEPS):
        wanted = {name: value for name, value in here[step].items() if not name.startswith("time/")}
        assert {name: there[step][name] for name in wanted} == pytest.approx(wanted, rel=1e-4, abs=1e-6)


# ----------------------------------------------------------------------------------------- what the pretended one finds


def waits_of(action: Any) -> dict[str, int]:
    with pretended_device() as gpu:
        there = torch.arange(6.0).pin_memory().to(DEVICE, non_blocking=True)
        assert not gpu.waits and there.device == DEVICE
        action(there)
        return dict(gpu.waits)


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        (lambda x: x.sum().item(), "read"),
        (lambda x: bool(x.isfinite().all()), "read"),
        (lambda x: x.cpu(), "read"),
        (lambda x: torch.zeros(6).copy_(x), "read"),
        (lambda x: torch.equal(x, x), "read"),
        (lambda x: x.nonzero(), "shape"),
        (lambda x: x[x > 2], "shape"),
        (lambda x: x.unique(), "shape"),
        (lambda x: torch.ones(6).to(DEVICE, non_blocking=True), "copy"),
        (lambda x: torch.ones(6).pin_memory().to(DEVICE), "copy"),
        (lambda x: torch.tensor([1.0], device=DEVICE), "copy"),
        (lambda x: x.new_tensor([1.0]), "copy"),
        (lambda x: x.copy_(torch.ones(6)), "copy"),
        (lambda x: x[torch.tensor([1, 2])], "copy"),
    ],
)  # fmt: skip
def test_what_stops_the_host_is_counted(action: Any, kind: str):
    assert waits_of(action) == {kind: 1}


@pytest.mark.parametrize(
    "action",
    [
        lambda x: (x * 2).sum(),
        lambda x: torch.where(x > 2, x, 0.0),
        lambda x: x.masked_fill_(x > 2, 0.0),
        lambda x: x[torch.arange(3, device=DEVICE)],
        lambda x: x + torch.tensor(1.0),  # a number of the host is an argument of the kernel
        lambda x: x.requires_grad_().square().sum().backward(),
        lambda x: torch.ones(2).sum().item(),
    ],
)
def test_what_does_not_is_not(action: Any):
    assert waits_of(action) == {}


@pytest.mark.parametrize("action", [lambda x: x.long() @ x.long(), lambda x: x.bool().view(2, 3) @ x.view(3, 2).bool()])
def test_a_gpu_has_no_products_of_integers(action: Any):
    with pytest.raises(RuntimeError, match=r"not implemented for torch\.(int64|bool)"):
        waits_of(action)


@pytest.mark.parametrize("action", [partial(torch.add, torch.ones(6)), lambda x: torch.ones(6)[x.long()]])
def test_tensors_of_two_devices_do_not_meet(action: Any):
    with pytest.raises(RuntimeError, match="same device"):
        waits_of(action)

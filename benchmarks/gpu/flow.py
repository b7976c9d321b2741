"""Images in and scores out: the loader at several numbers of processes, and a prediction in several precisions."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.gpu.setting import CLASSES, Setting, segmenter
from benchmarks.gpu.speed import GpuDefaults
from benchmarks.sections import Findings, SkippedError
from mgcda_dist.data.augment import Transform
from mgcda_dist.data.plan import Plan, StreamPlan
from mgcda_dist.evaluation.test_time import score_maps
from mgcda_dist.method import Batch
from mgcda_dist.models.compiling import compile_blocks
from mgcda_dist.models.scores import scorer
from mgcda_dist.training.ahead import CopiedAhead
from mgcda_dist.training.device import set_up

__all__ = ["loading", "predicting"]

_FRAMES, _PER_STEP, _MEASURED_S = 24, 8, 6.0


class Photographs:
    """Frames of a camera as JPEG, and their labels as PNG, both in memory: a Dataset that decodes."""

    def __init__(self, size: tuple[int, int], number: int) -> None:
        self._files = [_encoded(size, seed) for seed in range(number)]

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        image, label = self._files[index]
        pixels, ids = cv2.imdecode(image, cv2.IMREAD_COLOR_RGB), cv2.imdecode(label, cv2.IMREAD_UNCHANGED)
        assert pixels is not None and ids is not None
        return pixels.astype(np.uint8, copy=False), ids.astype(np.uint8, copy=False)


def _encoded(size: tuple[int, int], seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Smooth colours under a little noise, and areas of one class each."""
    height, width = size
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (max(2, height // 32), max(2, width // 32), 3)).astype(np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    image = cv2.add(image, generator.integers(0, 16, image.shape, dtype=np.uint8))
    classes = generator.integers(0, CLASSES, coarse.shape[:2]).astype(np.uint8)
    label = cv2.resize(classes, (width, height), interpolation=cv2.INTER_NEAREST)
    return cv2.imencode(".jpg", image)[1].ravel(), cv2.imencode(".png", label)[1].ravel()


def loading(setting: Setting, found: Findings) -> None:
    """Images per second of the loader, decoded from memory, augmented and copied to the device."""
    if find_spec("pydantic") is None:
        raise SkippedError("pydantic is not installed, and readers of data need it")
    from mgcda_dist.data.dataset import DatasetReader, LabelIds
    from mgcda_dist.data.loader import make_loader
    from mgcda_dist.data.stream import FrameSource, TrainingStream

    ids = LabelIds.train_ids(CLASSES)
    frames = 2 if setting.tiny else _FRAMES
    reader = DatasetReader(Photographs(setting.frame_px, frames), "photographs", ids)
    plan = Plan([StreamPlan("photographs", reader.shard_sizes, _PER_STEP)], 0, 1)
    crop = (32, 64) if setting.tiny else (512, 1024)
    sources = [FrameSource("photographs", reader, ids.table)]
    found.fact("processors", os.cpu_count())
    found.fact("frames", f"{setting.frame_px[1]}×{setting.frame_px[0]}, crops {crop[1]}×{crop[0]}")
    seconds = 0.2 if setting.tiny else _MEASURED_S
    for processes in (1,) if setting.tiny else (1, 4, 16):
        stream = TrainingStream(plan, sources, Transform(crop), num_steps=10**6)
        batches = iter(make_loader(stream, workers=processes, prefetch_steps=2, pin_memory=setting.on_gpu))
        for _ in range(3 * processes):  # prepared before anybody asked
            next(batches)
        ahead = CopiedAhead(batches, setting.device)
        images, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            images += len(next(ahead).slot)
            ahead.fetch()
        setting.wait()
        rate = images / (time.perf_counter() - began)
        del batches
        found.row("", processes=processes, **{"images/s": rate, "images/s per process": rate / processes})
    stream = TrainingStream(plan, sources, Transform(crop), num_steps=8)
    few = [stream[step] for step in range(2 if setting.tiny else 8)]
    found.bounded("values that differ in batches copied ahead", copied_wrong(few, setting), 0)


def copied_wrong(batches: Sequence[Batch], setting: Setting) -> int:
    """Values of the batches that differ on the device, where they were copied while it computed something else."""
    ahead = CopiedAhead((batch.pin_memory() if setting.on_gpu else batch for batch in batches), setting.device)
    side = 64 if setting.tiny else 4096
    busy = torch.ones(side, side, device=setting.device)
    differ: list[Tensor] = []
    for batch in batches:
        moved = next(ahead)
        for _ in range(8):
            busy = busy @ busy / side
        ahead.fetch()
        again = batch.to(setting.device)  # on the stream that computes
        differ += [(moved.image != again.image).sum(), (moved.label != again.label).sum()]
    return int(torch.stack(differ).sum())


def predicting(setting: Setting, found: Findings) -> None:
    """Score maps of whole frames, as `mgcda predict` makes them; the scores against those in float32."""
    set_up(setting.device, GpuDefaults())
    network, size = setting.networks[0], setting.frame_px
    generator = np.random.default_rng(0)
    frame = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
    exact: NDArray[np.float32] | None = None
    for dtype, compiled in (
        (torch.float32, False),
        (torch.bfloat16, False),
        (torch.float16, False),
        (torch.bfloat16, True),
    ):
        bare = segmenter(network).eval().requires_grad_(False)
        for parameter in bare.parameters():
            parameter.data = parameter.data.to(dtype)
        bare.to(setting.device)
        if compiled:  # block by block: equal ones are compiled once, and a deep network's whole graph takes minutes
            compile_blocks(bare, bare.example_size, backend=setting.backend)
        predict = partial(score_maps, bare, [frame], size, score=scorer("energy"), device=setting.device)
        setting.forget_peak()
        seconds = setting.timed(predict)
        ((scores, _),) = predict()
        exact = scores if exact is None else exact
        name = str(dtype).removeprefix("torch.") + (", compiled" if compiled else "")
        difference = float(np.abs(scores - exact).max() / np.abs(exact).max())
        row = {"images/s": 1 / seconds, "peak GiB": setting.peak_gib(), "largest difference to float32": difference}
        found.row(f"{network.backbone}, {size[1]}×{size[0]}", type=name, **row)
        if not np.isfinite(scores).all():
            found.problem(f"{name}: scores that are not finite")

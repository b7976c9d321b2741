"""The setting of a check: device, networks and sizes, scenes, and a plain training step around the method.

The step is that of the training loop without its engine: the host looks at the device once, when all but the update of
the parameters is handed over; bf16 and fp16 have float32 masters, fp16 a scaled loss. All of it needs torch, timm and
NumPy alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partialmethod
from inspect import signature
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from mgcda_dist.choices import ANOMALY, VOID, NormMode
from mgcda_dist.method import CACL, MDAT, MGCDA, Batch
from mgcda_dist.method.cacl import Budget, Selection
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.method.teacher import Teacher
from mgcda_dist.models.backbone import timm_backbone
from mgcda_dist.models.decoder import Decoder
from mgcda_dist.models.scores import scorer
from mgcda_dist.models.seeding import seeded
from mgcda_dist.models.segmentation_loss import segmentation_loss
from mgcda_dist.models.segmenter import Segmenter

__all__ = ["CLASSES", "Network", "Setting", "Trainer", "bridge_older_torch", "method", "scene", "segmenter"]

CLASSES, DOMAINS, CLIP_NORM = 19, 3, 5.0
_COARSE = 16
"""Pixels that share a label."""
_LOSS_SCALE = 2.0**8
"""Of fp16, whose least numbers would swallow small gradients; one that does not change is enough for some steps."""


def bridge_older_torch() -> None:
    """Give torch from 2.11 on what the package takes from 2.14: names of collectives, and a limit of recompilations.

    The machine has the torch that belongs to its driver, which need not be the one that the package asks for.
    """
    older: Any = dist
    if not hasattr(dist, "all_gather_single"):
        older.all_gather_single = older.all_gather_into_tensor
        older.reduce_scatter_single = older.reduce_scatter_tensor
    if "recompile_limit" not in signature(torch.compile).parameters:
        nn.Module.compile = partialmethod(_compiled, nn.Module.compile)  # pyright: ignore[reportAttributeAccessIssue]


def _compiled(
    module: nn.Module, compiled: Callable[..., None], *, recompile_limit: int | None = None, **options: Any
) -> None:
    """Compile in place, with a limit that older torch knows for all modules alone."""
    if recompile_limit is not None:
        from torch._dynamo import config  # seconds, which sections that compile nothing are spared

        config.recompile_limit = recompile_limit
    compiled(module, **options)


@dataclass(frozen=True)
class Network:
    """A network of the check, with images and sizes that fill a card of 80 GB.

    Attributes:
        width: channels of the decoder.
        images: per step.
        size: height and width of crops.
    """

    backbone: str
    width: int
    images: int
    size: tuple[int, int]


@dataclass(frozen=True)
class Setting:
    """Device and extent.

    Attributes:
        tiny: of everything the smallest, for a trial on processors.
    """

    device: torch.device
    tiny: bool

    @property
    def on_gpu(self) -> bool:
        """True where there are kernels, memory and waits to count."""
        return self.device.type == "cuda"

    @property
    def small(self) -> Network:
        """For comparisons of numbers."""
        if self.tiny:
            return Network("test_resnet.r160_in1k", 16, 4, (64, 96))
        return Network("resnet18", 32, 4, (128, 256))

    @property
    def networks(self) -> tuple[Network, ...]:
        """For measurements of speed: a convolutional network, a light one, a transformer."""
        if self.tiny:
            return (self.small,)
        return (
            Network("resnet101", 256, 8, (512, 1024)),
            Network("tf_efficientnet_lite0", 64, 16, (192, 256)),
            Network("swin_large_patch4_window12_384", 256, 4, (704, 704)),
        )

    @property
    def frame_px(self) -> tuple[int, int]:
        """Height and width of frames that are decoded or predicted."""
        return (64, 128) if self.tiny else (1024, 2048)

    @property
    def backend(self) -> str:
        """Of torch's compiler; the tiny trial leaves out the compiler of C++."""
        return "aot_eager" if self.tiny else "inductor"

    def wait(self) -> None:
        """Wait for the device."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def timed(self, action: Callable[[], Any]) -> float:
        """Seconds of one call, after some first ones: median over blocks of calls with all of the device's work."""
        for _ in range(1 if self.tiny else 3):
            action()
        self.wait()
        calls, seconds = 1 if self.tiny else 5, list[float]()
        for _ in range(1 if self.tiny else 3):
            began = time.perf_counter()
            for _ in range(calls):
                action()
            self.wait()
            seconds.append((time.perf_counter() - began) / calls)
        return median(seconds)

    def peak_gib(self) -> float | None:
        """Peak of the device's memory since `forget_peak`."""
        return torch.cuda.max_memory_allocated(self.device) / 2**30 if self.on_gpu else None

    def forget_peak(self) -> None:
        """Begin a new peak."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)


def segmenter(network: Network, norm: NormMode = "frozen") -> Segmenter:
    """The network with random weights, on the host, equal each time."""
    backbone = timm_backbone(network.backbone, norm=norm)
    decoder = Decoder(backbone.channels, CLASSES, network.width)
    return Segmenter(backbone, decoder, backbone.mean, backbone.std)


def method(
    network: Segmenter,
    size: tuple[int, int],
    *,
    full: bool = True,
    by_draw: bool = False,
    average: Segmenter | None = None,
    world: Collectives | None = None,
) -> MGCDA:
    """MGCDA with its defaults around a segmenter.

    Args:
        size: height and width of the images.
        full: with MDAT and CACL; else the segmentation loss alone, the baseline.
        by_draw: rows and negatives are drawn, and none chosen for its difficulty.
        average: a second network, for a teacher; None: there is none.
        world: the ranks.
    """
    channels = network.stage_channels
    middle = "stride16" if "stride16" in channels else next(iter(channels))
    with seeded("gpu check"):
        mdat = MDAT({name: channels[name] for name in (middle, "embedding")}, DOMAINS, num_classes=CLASSES)
        budget, choice = Budget(CLASSES), Selection()
        if by_draw:
            budget = replace(budget, hard_fraction=0.0, image_aware=False)
            choice = replace(choice, hard_negative_fraction=0.0)
        cacl = CACL(channels["embedding"], DOMAINS, budget, choice)
    parts: dict[str, Any] = {"mdat": mdat, "cacl": cacl} if full else {}
    if average is not None:
        parts |= {"teacher": Teacher(average, network), "teacher_warmup": 0.0}
    loss = segmentation_loss("energy_hinge", CLASSES)
    model = MGCDA(network, loss, scorer("energy"), **parts, cacl_warmup=0.0, mdat_warmup=0.0, collectives=world)
    if full or average is not None:
        model.stage_sizes(*size)
    return model.train()


def scene(network: Network, step: int, setting: Setting) -> Batch:
    """A batch on the device, a function of the step: objects on every third image, the last one without labels."""
    generator = torch.Generator().manual_seed(step)
    (height, width), images = network.size, network.images
    image = torch.randint(0, 256, (images, height, width, 3), dtype=torch.uint8, generator=generator)
    coarse = torch.randint(0, CLASSES, (images, height // _COARSE, width // _COARSE), generator=generator)
    label = coarse.repeat_interleave(_COARSE, 1).repeat_interleave(_COARSE, 2).to(torch.uint8)
    label[-1], label[:, : height // 16] = VOID, VOID
    label[::3, height // 4 : height // 2, width // 4 : width // 2] = ANOMALY
    number = torch.arange(images)
    told = number == images - 1
    return Batch(image.permute(0, 3, 1, 2), label, number % DOMAINS, number, step, unlabelled=told).to(setting.device)


class Trainer:
    """Plain training of a model.

    Args:
        model: on the host; moved to the device.
        dtype: of parameters, as an engine casts them: buffers stay as they are, but for float64.
        optimizer: `adamw`, or `sgd`, whose step does not magnify what is small.
    """

    def __init__(
        self, model: MGCDA, setting: Setting, dtype: torch.dtype = torch.float32, optimizer: str = "adamw"
    ) -> None:
        self.model = model.to(torch.float64) if dtype == torch.float64 else model
        self.model.to(setting.device)
        self._trained = [p for p in self.model.parameters() if p.requires_grad]
        self._masters: list[Tensor] | None = None
        self._scale = _LOSS_SCALE if dtype == torch.float16 else 1.0
        if dtype in (torch.bfloat16, torch.float16):
            self._masters = [nn.Parameter(p.detach().float().clone()) for p in self._trained]
            for master in self._masters:
                master.grad = torch.zeros_like(master)
            for parameter in self.model.parameters():
                parameter.data = parameter.data.to(dtype)
        stepped = self._masters or self._trained
        fused = True if setting.on_gpu and dtype != torch.float64 else None
        if optimizer == "adamw":
            self._optimizer: torch.optim.Optimizer = torch.optim.AdamW(stepped, lr=1e-3, fused=fused)
        else:
            self._optimizer = torch.optim.SGD(stepped, lr=1e-2, fused=fused)

    def step(self, batch: Batch) -> dict[str, float]:
        """One step; its values."""
        outcome = self.model(batch, 0.5, self.model.count([batch]))
        totals = self.model.total([outcome])
        finite = totals.wait()["loss/total"].isfinite()
        (outcome.loss * torch.where(finite, self._scale, torch.nan).to(outcome.loss.dtype)).backward()
        gradients = [p.grad for p in self._trained if p.grad is not None]
        assert len(gradients) == len(self._trained), "every parameter is trained"
        if self._masters is not None:
            whole = [m.grad for m in self._masters if m.grad is not None]
            torch._foreach_copy_(whole, gradients)  # pyright: ignore[reportPrivateImportUsage]
            torch._foreach_div_(whole, self._scale)  # pyright: ignore[reportPrivateImportUsage]
            gradients = whole
        norm = get_total_norm(gradients)
        values = totals.scalars({"norm": norm})  # the host waits here
        clip_grads_with_norm_(self._masters or self._trained, CLIP_NORM, norm)
        self._optimizer.step()
        if self._masters is not None:
            trained = [p.detach() for p in self._trained]
            torch._foreach_copy_(trained, self._masters)  # pyright: ignore[reportPrivateImportUsage]
        for parameter in self._trained:
            parameter.grad = None
        self.model.commit([outcome], totals)
        return values

    def weights(self) -> Tensor:
        """All trained parameters in a row, before they are rounded, on the host, float64."""
        return torch.cat([p.detach().flatten().cpu().double() for p in self._masters or self._trained])

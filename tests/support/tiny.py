"""A tiny segmenter and batches: the method without any vendor."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mgcda_dist.choices import (
    Balance,
    Condition,
    Contrast,
    FeatureTarget,
    GatherDtype,
    Negatives,
    NegativesBy,
    Positives,
    SmoothingMode,
)
from mgcda_dist.method.batch import ANOMALY, VOID, Batch, Prediction
from mgcda_dist.method.cacl import CACL, Budget, Selection
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.method.mdat import MDAT, LabelSmoothing
from mgcda_dist.method.mgcda import MGCDA
from mgcda_dist.method.randomness import torch_generator
from mgcda_dist.method.teacher import Teacher
from mgcda_dist.method.terms import LossContext, Weight

NUM_CLASSES = 3
NUM_DOMAINS = 3
QueueLayout = Literal["replicated", "sharded"]


class TinySegmenter(nn.Module):
    """Three convolutions; smooth activations, so that rounding cannot flip a unit."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, stride=2, padding=1)
        self.body = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.classifier = nn.Conv2d(channels, NUM_CLASSES, 1)
        self.stage_channels = {"stride4": channels, "embedding": channels}

    def forward(self, image: Tensor) -> Prediction:
        x = image.to(self.stem.weight.dtype) / 255.0
        mid = F.silu(self.body(F.silu(self.stem(x))))
        embedding = F.tanh(mid)
        return Prediction(self.classifier(embedding), {"stride4": mid, "embedding": embedding}, embedding)


class PlainSegmentationLoss:
    """Cross-entropy over inliers and an energy hinge, as named sums."""

    num_classes = NUM_CLASSES
    weights: Mapping[str, Weight] = {"classification": 1.0, "hinge_inlier": 0.1, "hinge_anomaly": 0.1}
    reported: Collection[str] = ()

    def counts(self, label: Tensor) -> dict[str, Tensor]:
        inlier, anomaly = (label < NUM_CLASSES).sum(), (label == ANOMALY).sum()
        return {"classification": inlier, "hinge_inlier": inlier, "hinge_anomaly": anomaly}

    def __call__(self, prediction: Prediction, label: Tensor, context: LossContext) -> dict[str, Tensor]:
        logits = prediction.logits
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        logits = F.interpolate(logits, size=label.shape[-2:], mode="bilinear")
        inlier, anomaly = label < NUM_CLASSES, label == ANOMALY
        ce = F.cross_entropy(logits, torch.where(inlier, label, 0), reduction="none")
        energy = -torch.logsumexp(logits, dim=1)
        return {
            "classification": (ce * inlier).sum(),
            "hinge_inlier": (F.relu(energy + 1.5) ** 2 * inlier).sum(),
            "hinge_anomaly": (F.relu(-0.5 - energy) ** 2 * anomaly).sum(),
        }

    def inlier_sum(self, logits: Tensor, inlier: Tensor) -> Tensor:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return (F.relu(energy(logits) + 1.5) ** 2 * inlier).sum()


def energy(logits: Tensor) -> Tensor:
    """-logsumexp."""
    return -torch.logsumexp(logits, dim=1)


def tiny_mgcda(
    seed: int = 0,
    *,
    smoothing: SmoothingMode = "adaptive_stage",
    queue_rows: int = 20,
    queue_rows_per_image: int | None = None,
    queue_layout: QueueLayout = "replicated",
    with_mdat: bool = True,
    with_cacl: bool = True,
    dtype: torch.dtype = torch.float64,
    image_aware: bool = True,
    cross_domain: bool = True,
    negatives: Negatives = "opposite_side",
    positives: Positives = "shared",
    negatives_by: NegativesBy = "difficulty",
    balance: Balance = "anchors",
    contrast: Contrast = "rows",
    unlabelled_confidence: float | None = None,
    max_rows: int | None = None,
    gather_dtype: GatherDtype = "fp32",
    mask_anomalies: bool = True,
    target: FeatureTarget = "smoothed",
    condition: Condition = "none",
    certainty: bool = False,
    reach_px: tuple[int, ...] | None = None,
    teacher_decay: float | None = None,
    teacher_weight: float = 0.7,
    teacher_outlier_weight: float = 0.0,
    teacher_confidence: float = 0.4,
    teacher_contrast: bool = False,
    collectives: Collectives | None = None,
) -> MGCDA:
    """MGCDA around the tiny segmenter, equal on every rank."""
    world = collectives or Collectives()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        segmenter = TinySegmenter()
        mdat = MDAT(
            segmenter.stage_channels,
            NUM_DOMAINS,
            smoothing=LabelSmoothing(smoothing, 0.3),
            lambda_max=1.0,
            channels=8,
            mask_anomalies=mask_anomalies,
            target=target,
            condition=condition,
            certainty=certainty,
            num_classes=NUM_CLASSES,
            reach_px=reach_px,
        )
        cacl = CACL(
            8,
            NUM_DOMAINS,
            Budget(NUM_CLASSES, anomaly_pixels=6, inlier_pixels=3, hard_fraction=0.5, image_aware=image_aware),
            Selection(5, 12, 0.5, cross_domain, negatives, positives, negatives_by),
            projection_dim=6,
            queue_rows=queue_rows,
            queue_rows_per_image=queue_rows_per_image,
            queue_shard=(world.rank, world.size) if queue_layout == "sharded" else None,
            balance=balance,
            contrast=contrast,
            distribution_momentum=0.8,
            unlabelled_confidence=unlabelled_confidence,
            max_rows=max_rows,
            gather_dtype=gather_dtype,
            seed=seed,
        )
        teacher = None
        if teacher_decay is not None:
            limits = {"confidence": teacher_confidence, "score_quantile": 0.75}
            teacher = Teacher(TinySegmenter(), segmenter, teacher_decay, **limits)
    model = MGCDA(
        segmenter,
        PlainSegmentationLoss(),
        lambda prediction: energy(prediction.logits),
        mdat=mdat if with_mdat else None,
        cacl=cacl if with_cacl else None,
        teacher=teacher,
        teacher_weight=teacher_weight,
        teacher_outlier_weight=teacher_outlier_weight,
        teacher_contrast=teacher_contrast,
        cacl_warmup=0.0,
        collectives=world,
    )
    return model.to(dtype)


def lively(**options: Any) -> MGCDA:
    """`tiny_mgcda` whose pixels differ: an untrained network sees all alike, and choices would not matter."""
    model = tiny_mgcda(**options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    return model


def tiny_batch(step: int, size: int = 8, height: int = 16, width: int = 24) -> Batch:
    """A global batch, a pure function of the step: domain 2 is unlabelled, only some images have anomalies."""
    generator = torch_generator("batch", step)
    image = torch.randint(0, 256, (size, 3, height, width), generator=generator, dtype=torch.uint8)
    coarse = torch.randint(0, NUM_CLASSES, (size, 1, height // 4, width // 4), generator=generator)
    label = F.interpolate(coarse.float(), size=(height, width), mode="nearest").long().squeeze(1)
    domain = torch.arange(size) % NUM_DOMAINS
    label[:, :2] = VOID
    for i in range(0, size, 4):  # only some images, so that some ranks have none
        label[i, 4:9, 4:12] = ANOMALY
    label[domain == 2] = VOID
    return Batch(image, label, domain, torch.arange(size), step)


def part_of(batch: Batch, rank: int, size: int) -> Batch:
    """The contiguous part of a global batch that one rank reads."""
    n = len(batch.slot) // size
    own = slice(rank * n, (rank + 1) * n)
    told, weak = batch.unlabelled, batch.weak
    if weak is not None:
        own_weak = [int(batch.is_unlabelled[:end].sum()) for end in (own.start, own.stop)]
        weak = weak[slice(*own_weak)]
    return Batch(
        batch.image[own],
        batch.label[own],
        batch.domain[own],
        batch.slot[own],
        batch.step,
        unlabelled=None if told is None else told[own],
        weak=weak,
    )

"""Anomaly-aware sampling: the pixels that become anchors, positives and negatives.

A pixel's *type* is its inlier class (0 … C-1) or anomaly (C). Its *difficulty* comes from the detached anomaly score a:
an anomaly is hard when a is low, an inlier when a is high. From each type present in an image a quota is drawn, a share
`hard_fraction` from the hardest pixels and the rest at random; harder images of a micro-batch get a larger quota.
Nothing depends on the rank that holds the image: choices are keyed by (seed, step, slot, pixel).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mgcda_dist.choices import CaclDefaults
from mgcda_dist.method.batch import ANOMALY, VOID, Batch, label_on_grid
from mgcda_dist.method.randomness import stream_key, uniform

__all__ = [
    "NO_TYPE",
    "PIXEL",
    "Budget",
    "Pixels",
    "describe_pixels",
    "image_difficulty",
    "image_quota",
    "num_sent",
    "order_within",
    "rank_within",
    "sample_pixels",
    "sent_rows",
]

NO_TYPE = -1
"""Type of a pixel that is never sampled."""
PIXEL = "pixel"
"""Purpose of the draws among the pixels of an image."""


@dataclass(frozen=True)
class Budget:
    """Numbers of pixels to sample.

    Attributes:
        num_classes: C.
        anomaly_pixels: per image, on average over the images that have anomalies.
        inlier_pixels: per image and inlier class, on average over the images that have labels.
        hard_fraction: share drawn from the hardest.
        image_aware: harder images get more, up to twice the average.
    """

    num_classes: int
    anomaly_pixels: int = CaclDefaults.anomaly_pixels
    inlier_pixels: int = CaclDefaults.inlier_pixels
    hard_fraction: float = CaclDefaults.hard_fraction
    image_aware: bool = CaclDefaults.image_aware

    @property
    def max_anomaly_pixels(self) -> int:
        """Rows reserved for anomalies per image."""
        return self.anomaly_pixels * (2 if self.image_aware else 1)

    @property
    def max_inlier_pixels(self) -> int:
        """Rows reserved per inlier class and image."""
        return self.inlier_pixels * (2 if self.image_aware else 1)

    @property
    def rows_per_image(self) -> int:
        """Rows reserved per image: fixed, so that the gather has one shape at every step on every rank."""
        return self.max_anomaly_pixels + self.num_classes * self.max_inlier_pixels

    def max_rows(self, num_images: int) -> int:
        """Rows that so many images, a global micro-batch, fill at most: harder images get more, others get less."""
        return num_images * (self.anomaly_pixels + self.num_classes * self.inlier_pixels)


@dataclass(frozen=True)
class Pixels:
    """Type and difficulty of every pixel at the resolution of the embedding.

    Attributes:
        type: N×P, int64: 0 … C-1, C for anomaly, -1 for pixels that are never sampled.
        difficulty: N×P, float: higher is harder.
    """

    type: Tensor
    difficulty: Tensor


@torch.no_grad()
def describe_pixels(
    batch: Batch,
    logits: Tensor,
    score: Tensor,
    unlabelled_confidence: float | None,
    taught: Tensor | None = None,
) -> Pixels:
    """Types and difficulties from labels and the current prediction.

    Args:
        batch: its labels N×H×W are read at the nearest pixel of the embedding's grid. Pixels from another domain's
            image have no type: they would stand for the domain that they lie in.
        logits: N×C×h×w.
        score: N×h×w, higher is more anomalous.
        unlabelled_confidence: in images without any label, pixels whose top probability exceeds it take the predicted
            class as type; None: such images are not sampled for that.
        taught: labels of a teacher, N×h×w, int64, for pixels that have none; void where it gives none either.
    """
    num_classes, size = logits.shape[1], (logits.shape[2], logits.shape[3])
    foreign = batch.is_foreign
    types = label_on_grid(torch.where(foreign, VOID, batch.label), size)
    types = torch.where(types == ANOMALY, num_classes, torch.where(types < num_classes, types, NO_TYPE))
    if unlabelled_confidence is not None:
        top, predicted = logits.softmax(dim=1).max(dim=1)
        own = batch.is_unlabelled.view(-1, 1, 1) & (label_on_grid(batch.label, size) == VOID)
        surely = own & (top > unlabelled_confidence)
        types = torch.where(surely, predicted, types)
    if taught is not None:
        types = torch.where((types == NO_TYPE) & (taught != VOID), taught, types)
    difficulty = torch.where(types == num_classes, -score, score)
    return Pixels(types.flatten(1), difficulty.flatten(1))


def image_difficulty(pixels: Pixels, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mean difficulty per image and side, and whether the side is present.

    Returns:
        (N×2, N×2): float64 means and 0/1 presence; side 0 is inlier, side 1 anomaly.
    """
    anomaly = pixels.type == num_classes
    inlier = (pixels.type != NO_TYPE) & ~anomaly
    sides = torch.stack([inlier, anomaly], dim=1)  # N×2×P
    count = sides.sum(dim=2)
    # A product with the mask would turn an infinite score of a pixel that is no candidate into NaN.
    mean = torch.where(sides, pixels.difficulty.to(torch.float64).unsqueeze(1), 0).sum(dim=2) / count.clamp(min=1)
    return mean, (count > 0).to(torch.float64)


def image_quota(mean: Tensor, present: Tensor, budget: Budget) -> Tensor:
    """Pixels that each image of the global micro-batch may give, per side.

    The budget of a side is its average n̄ times the images that have it, b. With `image_aware` it is shared by a softmax
    over half of the standardised mean difficulty m (free of the score's scale and offset), in the order of the slots:

        c_i = Σ_{j ≤ i} softmax_j((m_j - mean m) / (2·std m + 1e-6)),   n_i = min(⌊c_i·n̄·b + ½⌋ - ⌊c_{i-1}·n̄·b + ½⌋, 2n̄)

    No image gets more than twice the average, which bounds its rows; what that takes from the hardest ones is left out
    of the sample.

    Args:
        mean, present: B×2 from `image_difficulty`, over the global micro-batch.

    Returns:
        B×2, int64: per image, pixels per inlier class and anomaly pixels.
    """
    side = torch.arange(2, device=mean.device)
    average = torch.where(side == 0, budget.inlier_pixels, budget.anomaly_pixels).to(mean.dtype)
    if not budget.image_aware:
        return (present * average).to(torch.int64)
    num_images = present.sum(dim=0).clamp(min=1)
    centre = (mean * present).sum(dim=0) / num_images
    spread = (((mean - centre) ** 2 * present).sum(dim=0) / num_images).sqrt()
    # Absent images are zeroed before the exponential: 0 · inf would be NaN. Two standard deviations per e-fold keep
    # the easiest images in the sample.
    weight = torch.exp((mean - centre) * present / (2.0 * spread + 1e-6)) * present
    weight = weight / weight.sum(dim=0).clamp(min=1e-12)
    # Rounding the running total keeps the sum of the quotas, before the bound, at the budget.
    total = torch.floor(weight.cumsum(dim=0) * average * num_images + 0.5)
    quota = torch.diff(total, dim=0, prepend=torch.zeros_like(total[:1]))
    return torch.minimum(quota, 2 * average).to(torch.int64)


@torch.no_grad()
def sample_pixels(
    pixels: Pixels, quota: Tensor, budget: Budget, slot: Tensor, seed: int, step: int, key: int | None = None
) -> Tensor:
    """Draw the pixels.

    Args:
        pixels: of this rank's images.
        quota: N×2 of this rank's images, from `image_quota`.
        slot: N, position in the global batch.
        key: of the draws; None: that of seed and step.

    Returns:
        N×rows_per_image, int64: pixel index, or -1 where a row stays empty. The first rows are anomalies, then each
        inlier class has its own.
    """
    num_images, num_pixels = pixels.type.shape
    classes = torch.arange(budget.num_classes + 1, device=slot.device)
    is_anomaly = classes == budget.num_classes
    wanted = torch.where(is_anomaly, quota[:, 1:], quota[:, :1])  # N×(C+1)
    hard = torch.round(wanted * budget.hard_fraction)
    first_row = torch.where(is_anomaly, 0, budget.max_anomaly_pixels + classes * budget.max_inlier_pixels)

    type_or_first = pixels.type.clamp(min=0)
    sampled = pixels.type != NO_TYPE
    by_difficulty = rank_within(pixels.type, -pixels.difficulty)
    is_hard = by_difficulty < hard.gather(1, type_or_first)
    key = stream_key(seed, step, PIXEL) if key is None else key
    chance = uniform(key, slot.view(-1, 1), torch.arange(num_pixels, device=slot.device))
    # The hardest come first, in order of difficulty; all others follow at random.
    order = rank_within(pixels.type, torch.where(is_hard, by_difficulty.to(chance.dtype) - num_pixels, chance))
    taken = sampled & (order < wanted.gather(1, type_or_first))

    row = torch.where(taken, first_row[type_or_first] + order, budget.rows_per_image)
    table = slot.new_full((num_images, budget.rows_per_image + 1), -1)
    table.scatter_(1, row, torch.arange(num_pixels, device=slot.device).expand_as(row))
    return table[:, :-1].contiguous()


def num_sent(budget: Budget, num_images: int, max_rows: int | None) -> int:
    """Rows that each image of a global micro-batch sends: all that are reserved, or twice its share of `max_rows`."""
    share = budget.rows_per_image if max_rows is None else -(-2 * max_rows // num_images)
    return min(budget.rows_per_image, share)


@torch.no_grad()
def sent_rows(index: Tensor, number: int, slot: Tensor, key: int) -> Tensor:
    """Of each image's rows so many by draw, in their order, the filled ones first.

    Args:
        index: N×R from `sample_pixels`.
        number: of rows.
        slot: N, position in the global batch.
        key: of the draws, from `stream_key`.

    Returns:
        N×number, int64: rows of `index`.
    """
    row = torch.arange(index.shape[1], device=index.device)
    if number == len(row):
        return row.expand_as(index)
    chance = uniform(key, slot.view(-1, 1), row)
    return torch.argsort(chance + (index < 0).to(chance.dtype), dim=1, stable=True)[:, :number].sort(dim=1).values


def order_within(group: Tensor, key: Tensor) -> Tensor:
    """Indices that sort by (group, key), ties by index: N×P → N×P."""
    by_key = torch.argsort(key, dim=1, stable=True)
    by_group = torch.argsort(group.gather(1, by_key), dim=1, stable=True)
    return by_key.gather(1, by_group)


def rank_within(group: Tensor, key: Tensor) -> Tensor:
    """Position of each element among the elements of its own group, by ascending key, ties by index: N×P → N×P."""
    order = order_within(group, key)
    sorted_group = group.gather(1, order)
    position = torch.arange(group.shape[1], device=group.device).expand_as(order)
    start = torch.searchsorted(sorted_group, sorted_group, side="left")
    return torch.empty_like(order).scatter_(1, order, position - start)

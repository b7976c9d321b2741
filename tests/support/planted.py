"""Losses, scores and heads with one planted fault each, which `mgcda laws` has to name; and one without."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mgcda_dist.method.batch import ANOMALY, Prediction
from mgcda_dist.method.terms import LossContext, Term

__all__: list[str] = []


class Sound:
    """The energy, down on inliers and up on anomalies; keyed noise on its target."""

    terms: Mapping[str, Term] = {"down": Term("inlier", 0.1), "up": Term("anomaly", 0.1)}

    def __call__(self, prediction: Prediction, label: Tensor, context: LossContext) -> dict[str, Tensor]:
        energy = -torch.logsumexp(prediction.logits, dim=1)
        noise = context.uniform("target", *energy.shape[1:]).to(energy.dtype)
        down, up = torch.nn.functional.softplus(energy + noise), torch.nn.functional.softplus(noise - energy)
        return {"down": self._sum(down, label < 253, context), "up": self._sum(up, label == ANOMALY, context)}

    def _sum(self, value: Tensor, mask: Tensor, context: LossContext) -> Tensor:
        return torch.where(mask, value, 0).sum()


class MeanOverImages(Sound):
    def _sum(self, value: Tensor, mask: Tensor, context: LossContext) -> Tensor:
        return super()._sum(value, mask, context) / len(value)


class MeanOverPixels(Sound):
    def _sum(self, value: Tensor, mask: Tensor, context: LossContext) -> Tensor:
        return super()._sum(value, mask, context) / mask.sum().clamp(min=1)


class NothingIsNoNumber(Sound):
    """A mean over nothing, multiplied by the count of nothing."""

    def _sum(self, value: Tensor, mask: Tensor, context: LossContext) -> Tensor:
        return value[mask].mean() * mask.sum()


class NothingIsNoGraph(Sound):
    """Without pixels a constant; with the head `unknown` that it reads, whose gradient is then lacking."""

    reads: Collection[str] = ("unknown",)

    def __call__(self, prediction: Prediction, label: Tensor, context: LossContext) -> dict[str, Tensor]:
        found = super().__call__(prediction, label, context)
        unknown = nn.functional.interpolate(prediction.extra["unknown"], size=label.shape[1:], mode="bilinear")
        if not bool((label == ANOMALY).any()):
            return found
        return {**found, "up": found["up"] + nn.functional.softplus(-unknown[:, 0])[label == ANOMALY].sum()}


class Rank(Sound):
    def _sum(self, value: Tensor, mask: Tensor, context: LossContext) -> Tensor:
        rank = dist.get_rank() if dist.is_initialized() else 0
        return (1 + 0.1 * rank) * super()._sum(value, mask, context)


class RankWithoutAsking(Sound):
    """Fails in one process."""

    def _sum(self, value: Tensor, mask: Tensor, context: LossContext) -> Tensor:
        return (1 + 0.1 * dist.get_rank()) * super()._sum(value, mask, context)


class PlaceInBatch(Sound):
    def _sum(self, value: Tensor, mask: Tensor, context: LossContext) -> Tensor:
        weight = 1 + 0.1 * torch.arange(len(value), dtype=value.dtype).view(-1, 1, 1)
        return super()._sum(weight * value, mask, context)


class GlobalGenerator(Sound):
    def _sum(self, value: Tensor, mask: Tensor, context: LossContext) -> Tensor:
        return super()._sum(value * torch.rand_like(value), mask, context)


class Memory(Sound):
    """A running weight, in no buffer."""

    def __init__(self) -> None:
        self.calls = 0

    def _sum(self, value: Tensor, mask: Tensor, context: LossContext) -> Tensor:
        self.calls += 1
        return super()._sum(value, mask, context) * (1 + 0.01 * self.calls)


class Sign(Sound):
    """Both halves push towards anomalies."""

    def __call__(self, prediction: Prediction, label: Tensor, context: LossContext) -> dict[str, Tensor]:
        flipped = super().__call__(prediction._replace(logits=-prediction.logits), label, context)
        return {**super().__call__(prediction, label, context), "down": flipped["down"]}


class Named(Sound):
    """Reads a head."""

    reads: Collection[str] = ("unknown",)

    def __call__(self, prediction: Prediction, label: Tensor, context: LossContext) -> dict[str, Tensor]:
        found = super().__call__(prediction, label, context)
        unknown = nn.functional.interpolate(prediction.extra["unknown"], size=label.shape[1:], mode="bilinear")
        return {
            **found,
            "up": found["up"] + self._sum(nn.functional.softplus(-unknown[:, 0]), label == ANOMALY, context),
        }


class CountingHead(nn.Module):
    """A buffer that every forward pass moves."""

    calls: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(channels, 1, 1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(x)


class MixingScore:
    """Of an image, against the others of its batch."""

    reads: Collection[str] = ()

    def __call__(self, prediction: Prediction) -> Tensor:
        energy = -torch.logsumexp(prediction.logits, dim=1)
        return energy - energy.mean()

    def maps(self, prediction: Prediction) -> Tensor:
        return self(prediction).unsqueeze(1)

    def of(self, maps: Tensor) -> Tensor:
        return maps[:, 0]

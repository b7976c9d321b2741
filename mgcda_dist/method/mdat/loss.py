"""MDAT, scene level: the multi-source, multi-stage domain adversarial loss, as local sums that ranks can add.

    L_mdat = Σ_s w_s · mean over domains m of mean over locations of images with d = m of CE(D_s(R_λ(f_s)), q_s(d))

Balanced over domains by construction: a domain with more images does not win.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mgcda_dist.choices import MdatDefaults
from mgcda_dist.method.batch import ANOMALY, VOID, unlabelled
from mgcda_dist.method.collectives import global_mean_share
from mgcda_dist.method.mdat.discriminators import PatchDiscriminator
from mgcda_dist.method.mdat.reversal import reversal_strength, reverse_gradient
from mgcda_dist.method.mdat.smoothing import LabelSmoothing, smoothed_cross_entropy

__all__ = ["MDAT", "DomainSums", "alignable"]


class DomainSums(NamedTuple):
    """Local sums of the adversarial term, per stage and domain.

    Attributes:
        loss: S×M, Σ of the cross-entropy over locations, with gradient.
        correct: S×M, locations whose domain was recognised.
        epsilon: S×M, Σ of ε over locations.
    """

    loss: Tensor
    correct: Tensor
    epsilon: Tensor


class MDAT(nn.Module):
    """One discriminator per stage behind a gradient reversal.

    Args:
        stage_channels: channels of each discriminated stage, in order; the keys name the stages.
        num_domains: M ≥ 2.
        stage_weights: w_s, in the same order; None: all 1.
        smoothing: how ε is chosen.
        lambda_max: ceiling of λ(p).
        channels: width of a discriminator.
        momentum: of the running accuracy A_s.
        mask_anomalies: leave anomalous and void pixels out (align roads, not pasted toasters).
    """

    accuracy: Tensor

    def __init__(
        self,
        stage_channels: Mapping[str, int],
        num_domains: int,
        *,
        stage_weights: Sequence[float] | None = None,
        smoothing: LabelSmoothing | None = None,
        lambda_max: float = MdatDefaults.lambda_max,
        channels: int = MdatDefaults.channels,
        momentum: float = MdatDefaults.momentum,
        mask_anomalies: bool = MdatDefaults.mask_anomalies,
    ) -> None:
        super().__init__()
        if num_domains < 2:
            raise ValueError(f"MDAT needs at least two domains, not {num_domains}: there is nothing to align")
        self.num_domains = num_domains
        self.stages = tuple(stage_channels)
        self.weights = tuple(stage_weights) if stage_weights is not None else (1.0,) * len(self.stages)
        self.smoothing = smoothing or LabelSmoothing()
        self.lambda_max, self.momentum, self.mask_anomalies = lambda_max, momentum, mask_anomalies
        self.discriminators = nn.ModuleDict(
            {name: PatchDiscriminator(width, num_domains, channels) for name, width in stage_channels.items()}
        )
        self.register_buffer("accuracy", torch.full((len(self.stages),), 1.0 / num_domains))

    def kept(self, stages: Mapping[str, Tensor], label: Tensor) -> list[Tensor]:
        """Per stage, N×h×w bool at the discriminator's resolution: the locations that count."""
        keep = alignable(label) if self.mask_anomalies else torch.ones_like(label, dtype=torch.bool)
        sizes = [PatchDiscriminator.output_size(*stages[name].shape[-2:]) for name in self.stages]
        share = keep.to(torch.float32).unsqueeze(1)
        return [F.adaptive_avg_pool2d(share, size).squeeze(1) >= 0.5 for size in sizes]

    def counts(self, kept: Sequence[Tensor], domain: Tensor) -> Tensor:
        """S×M: local number of locations per stage and domain."""
        return torch.stack([self._per_domain(mask.sum(dim=(1, 2)), domain) for mask in kept])

    def forward(
        self, stages: Mapping[str, Tensor], domain: Tensor, kept: Sequence[Tensor], progress: float
    ) -> DomainSums:
        """Local sums over the locations of this rank's images; `progress` is p in [0, 1]."""
        strength = reversal_strength(progress, self.lambda_max)
        loss: list[Tensor] = []
        correct: list[Tensor] = []
        epsilon: list[Tensor] = []
        for s, (name, mask) in enumerate(zip(self.stages, kept, strict=True)):
            logits = self.discriminators[name](reverse_gradient(stages[name], strength))
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # N×M×h×w
            eps = self.smoothing.per_image(logits, domain, mask, self.accuracy[s], progress)  # N
            ce = smoothed_cross_entropy(logits, domain, eps)  # N×h×w
            hit = logits.detach().argmax(dim=1) == domain.view(-1, 1, 1)
            loss.append(self._per_domain((ce * mask).sum(dim=(1, 2)), domain))
            correct.append(self._per_domain((hit & mask).sum(dim=(1, 2)), domain))
            epsilon.append(self._per_domain(eps * mask.sum(dim=(1, 2)), domain))
        return DomainSums(torch.stack(loss), torch.stack(correct), torch.stack(epsilon))

    def share(self, sums: DomainSums, counts: Tensor, num_ranks: int) -> Tensor:
        """This rank's share of L_mdat, given the counts (S×M) over all ranks."""
        shares = [global_mean_share(sums.loss[s], counts[s], num_ranks) for s in range(len(self.stages))]
        return torch.stack([w * share for w, share in zip(self.weights, shares, strict=True)]).sum()

    @torch.no_grad()
    def update(self, correct: Tensor, counts: Tensor) -> None:
        """Move A_s towards this step's domain-balanced accuracy; `correct`, `counts` are S×M over all ranks."""
        present = counts > 0
        balanced = (correct / counts.clamp(min=1) * present).sum(dim=1) / present.sum(dim=1).clamp(min=1)
        moved = self.momentum * self.accuracy + (1.0 - self.momentum) * balanced
        self.accuracy.copy_(torch.where(present.any(dim=1), moved, self.accuracy))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MDAT:
        # Cast to bf16, a running mean would stand still: a step moves it by less than the format resolves.
        exact = self.accuracy
        super()._apply(fn, recurse)  # pyright: ignore[reportUnknownMemberType]
        if self.accuracy.element_size() < 4:
            self.accuracy = exact.to(self.accuracy.device, torch.float32)
        return self

    def _per_domain(self, per_image: Tensor, domain: Tensor) -> Tensor:
        """Sum of a value per image over the images of each domain: N, N → M."""
        # float64: location counts of large clusters pass 2^24, where float32 stops counting.
        return F.one_hot(domain, self.num_domains).to(torch.float64).T @ per_image.to(torch.float64)


def alignable(label: Tensor) -> Tensor:
    """N×H×W bool: what MDAT aligns. Anomalies never; void neither, except in images without any label."""
    return (label != ANOMALY) & (unlabelled(label).view(-1, 1, 1) | (label != VOID))

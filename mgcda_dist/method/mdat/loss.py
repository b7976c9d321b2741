"""MDAT, scene level: the multi-source, multi-stage domain adversarial loss.

    L_mdat = Σ_s w_s · mean over domains m of mean over locations of images with d = m of CE(D_s(R_λ(f_s)), q_s(d))

Balanced over domains by construction: a domain with more images does not win.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mgcda_dist.choices import MdatDefaults
from mgcda_dist.method.batch import ANOMALY, VOID, Batch, unlabelled
from mgcda_dist.method.collectives import to_host
from mgcda_dist.method.mdat.discriminators import PatchDiscriminator
from mgcda_dist.method.mdat.reversal import reversal_strength, reverse_gradient
from mgcda_dist.method.mdat.smoothing import LabelSmoothing, smoothed_cross_entropy
from mgcda_dist.method.reduce import LossTerm, StepCounts, local_mean

__all__ = ["MDAT", "alignable"]

_LOCATIONS, _HITS, _EPSILON = "mdat/locations", "mdat/hits", "mdat/epsilon"


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

    def masks(self, label: Tensor, stage_sizes: Mapping[str, tuple[int, int]]) -> list[Tensor]:
        """Per stage the locations that count, N×h×w bool at the discriminator's resolution.

        Args:
            label: N×H×W.
            stage_sizes: height and width of the feature map of every stage.
        """
        aligned = alignable(label) if self.mask_anomalies else torch.ones_like(label, dtype=torch.bool)
        share = aligned.to(torch.float32).unsqueeze(1)
        sizes = [PatchDiscriminator.output_size(*stage_sizes[name]) for name in self.stages]
        return [F.adaptive_avg_pool2d(share, size).squeeze(1) >= 0.5 for size in sizes]

    def counts(self, batch: Batch, stage_sizes: Mapping[str, tuple[int, int]]) -> dict[str, Tensor]:
        """Local number of locations per stage and domain, S×M: it follows from the labels, before any forward pass."""
        masks = self.masks(batch.label, stage_sizes)
        return {_LOCATIONS: torch.stack([self._per_domain(mask.sum(dim=(1, 2)), batch.domain) for mask in masks])}

    def forward(self, stages: Mapping[str, Tensor], batch: Batch, progress: float, counts: StepCounts) -> LossTerm:
        """L_mdat as this rank and micro-batch has it.

        Args:
            stages: feature maps N×c×h×w by name.
            batch: labels and domains.
            progress: p in [0, 1].
            counts: of the step, with those of `counts`.
        """
        masks = self.masks(batch.label, {name: (x.shape[2], x.shape[3]) for name, x in stages.items()})
        locations, domain = counts.total()[_LOCATIONS], batch.domain
        strength = reversal_strength(progress, self.lambda_max)
        local_losses: list[Tensor] = []
        hits: list[Tensor] = []
        epsilons: list[Tensor] = []
        for s, (name, mask) in enumerate(zip(self.stages, masks, strict=True)):
            logits = self.discriminators[name](reverse_gradient(stages[name], strength))
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # N×M×h×w
            epsilon = self.smoothing.per_image(logits, domain, mask, self.accuracy[s], progress)  # N
            ce = smoothed_cross_entropy(logits, domain, epsilon)  # N×h×w
            hit = logits.detach().argmax(dim=1) == domain.view(-1, 1, 1)
            per_domain = self._per_domain((ce * mask).sum(dim=(1, 2)), domain)
            local_losses.append(self.weights[s] * local_mean(per_domain, locations[s], counts.num_parts))
            hits.append(self._per_domain((hit & mask).sum(dim=(1, 2)), domain))
            epsilons.append(self._per_domain(epsilon * mask.sum(dim=(1, 2)), domain))
        local_loss = torch.stack(local_losses).sum()
        sums = {"loss/mdat": local_loss / counts.num_parts, _HITS: torch.stack(hits), _EPSILON: torch.stack(epsilons)}
        return LossTerm(local_loss, sums)

    @torch.no_grad()
    def update(self, totals: Mapping[str, Tensor], counts: StepCounts) -> None:
        """Move A_s towards the domain-balanced accuracy of a step, given its sums over ranks and micro-batches."""
        locations = counts.total()[_LOCATIONS]
        present = locations > 0
        balanced = (totals[_HITS] / locations.clamp(min=1) * present).sum(dim=1) / present.sum(dim=1).clamp(min=1)
        moved = self.momentum * self.accuracy + (1.0 - self.momentum) * balanced
        self.accuracy.copy_(torch.where(present.any(dim=1), moved, self.accuracy))

    def health(self, totals: Mapping[str, Tensor], counts: StepCounts, progress: float) -> dict[str, float]:
        """λ, and per stage A_s, A_s over chance, the mean ε and the proxy A-distance, named as they are logged."""
        locations, chance = counts.total()[_LOCATIONS], 1.0 / self.num_domains
        mean_epsilon = totals[_EPSILON].sum(dim=1) / locations.sum(dim=1).clamp(min=1)
        signals = {"mdat/lambda": reversal_strength(progress, self.lambda_max)}
        for stage, accuracy, epsilon in zip(self.stages, to_host(self.accuracy), to_host(mean_epsilon), strict=True):
            signals[f"mdat/{stage}/accuracy"] = accuracy
            signals[f"mdat/{stage}/accuracy_over_chance"] = accuracy / chance
            signals[f"mdat/{stage}/epsilon"] = epsilon
            signals[f"mdat/{stage}/a_distance"] = max(0.0, 2.0 * (1.0 - (1.0 - accuracy) / (1.0 - chance)))
        return signals

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

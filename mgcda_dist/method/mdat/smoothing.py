"""Dynamic label smoothing: the discriminator's target q_s(d), and one function per way to choose ε.

    q_s(d)_k = 1-ε  if k = d  else  ε/(M-1)

Every mode is clamped to `choices.smoothing_cap`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mgcda_dist.choices import FeatureTarget, MdatDefaults, SmoothingMode, smoothing_cap

__all__ = ["SMOOTHING_FUNCTIONS", "LabelSmoothing", "SmoothingInputs", "feature_epsilon", "smoothed_cross_entropy"]


@dataclass(frozen=True)
class SmoothingInputs:
    """Quantities that ε may depend on.

    Attributes:
        logits: N×M×h×w of the discriminator, detached.
        domain: N, int64.
        mask: N×h×w, bool: the locations that count.
        accuracy: scalar, A_s, the running domain-balanced accuracy over all ranks.
        progress: p in [0, 1].
    """

    logits: Tensor
    domain: Tensor
    mask: Tensor
    accuracy: Tensor
    progress: float

    @property
    def ones(self) -> Tensor:
        """N, of the logits' type."""
        return self.logits.new_ones(self.logits.shape[0])


def constant(epsilon: float, x: SmoothingInputs) -> Tensor:
    """ε."""
    return epsilon * x.ones


def annealed(epsilon: float, x: SmoothingInputs) -> Tensor:
    """ε_max · p (environment label smoothing, ICLR 2023)."""
    return epsilon * x.progress * x.ones


def adaptive_sample(epsilon: float, x: SmoothingInputs) -> Tensor:
    """ε_i = α · mean of softmax(D)_{d_i}: the surer the discriminator, the softer its next target."""
    own = _of_own_domain(x.logits.softmax(dim=1), x.domain)  # N×h×w
    return epsilon * (own * x.mask).sum(dim=(1, 2)) / x.mask.sum(dim=(1, 2)).clamp(min=1)


def adaptive_stage(epsilon: float, x: SmoothingInputs) -> Tensor:
    """ε_s = ε_max · clip((A_s - 1/M) / (1 - 1/M), 0, 1)."""
    chance = 1.0 / x.logits.shape[1]
    return epsilon * ((x.accuracy - chance) / (1.0 - chance)).clamp(0, 1) * x.ones


SMOOTHING_FUNCTIONS: dict[SmoothingMode, Callable[[float, SmoothingInputs], Tensor]] = {
    "constant": constant,
    "annealed": annealed,
    "adaptive_sample": adaptive_sample,
    "adaptive_stage": adaptive_stage,
}


@dataclass(frozen=True)
class LabelSmoothing:
    """A mode and its parameter.

    Attributes:
        mode: a key of `choices.SMOOTHING_MODES`.
        epsilon: ε, ε_max or α of the mode.
    """

    mode: SmoothingMode = MdatDefaults.smoothing
    epsilon: float = MdatDefaults.epsilon

    def per_image(self, logits: Tensor, domain: Tensor, mask: Tensor, accuracy: Tensor, progress: float) -> Tensor:
        """ε of each image: N, without gradient; the arguments are those of `SmoothingInputs`."""
        inputs = SmoothingInputs(logits.detach(), domain, mask, accuracy, progress)
        return SMOOTHING_FUNCTIONS[self.mode](self.epsilon, inputs).clamp(max=smoothing_cap(logits.shape[1]))


def smoothed_cross_entropy(log_p: Tensor, domain: Tensor, epsilon: Tensor) -> Tensor:
    """CE(D(f), q(d)) per location, of the log-probabilities of the domains: N×M×h×w, N, N → N×h×w."""
    num_domains = log_p.shape[1]
    own = _of_own_domain(log_p, domain)  # N×h×w
    others = log_p.sum(dim=1) - own
    epsilon = epsilon.view(-1, 1, 1)
    return -(1.0 - epsilon) * own - epsilon / (num_domains - 1) * others


def feature_epsilon(target: FeatureTarget, epsilon: Tensor, num_domains: int) -> Tensor:
    """ε of the *features'* target, as which the reversed or, for `uniform`, the plain cross-entropy is taken: N → N.

    Smoothing is for the discriminator. With the smoothed target the features are pushed the other way wherever the
    discriminator is surer than 1-ε, hence `hard`: q = 1 at the own domain (DANN, arXiv 1409.7495), and `uniform`:
    q = 1/M, which the features approach (domain confusion, arXiv 1510.02192).
    """
    share = {"smoothed": None, "hard": 0.0, "uniform": (num_domains - 1) / num_domains}[target]
    return epsilon if share is None else torch.full_like(epsilon, share)


def _of_own_domain(values: Tensor, domain: Tensor) -> Tensor:
    """The channel of each image's own domain: N×M×h×w, N → N×h×w."""
    return values.gather(1, domain.view(-1, 1, 1, 1).expand(-1, 1, *values.shape[2:])).squeeze(1)

"""Dynamic label smoothing: the discriminator's target q_s(d) and the three ways to choose ε.

    q_s(d)_k = 1-ε  if k = d  else  ε/(M-1)

- `constant`: ε.
- `annealed`: ε_max · p (environment label smoothing, ICLR 2023), capped.
- `adaptive_sample`: ε_i = α · softmax(D)_{d_i}, detached: the surer the discriminator, the softer its next target.
- `adaptive_stage`: ε_s = ε_max · clip((A_s - 1/M) / (1 - 1/M), 0, 1), with A_s the running accuracy over all ranks.

No mode exceeds half of (M-1)/M: at the uniform label, ε = (M-1)/M, the discriminator gets no signal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

__all__ = ["LabelSmoothing", "SmoothingMode", "smoothed_cross_entropy", "smoothing_cap"]

SmoothingMode = Literal["constant", "annealed", "adaptive_sample", "adaptive_stage"]


def smoothing_cap(num_domains: int) -> float:
    """Largest ε any mode may use: half of (M-1)/M."""
    return 0.5 * (num_domains - 1) / num_domains


@dataclass(frozen=True)
class LabelSmoothing:
    """How ε is chosen.

    Attributes:
        mode: see the module.
        epsilon: ε, ε_max or α of the mode.
    """

    mode: SmoothingMode
    epsilon: float

    def per_image(self, logits: Tensor, domain: Tensor, kept: Tensor, accuracy: Tensor, progress: float) -> Tensor:
        """ε of each image.

        Args:
            logits: N×M×h×w of the discriminator.
            domain: N, int64.
            kept: N×h×w, bool: the locations that count.
            accuracy: scalar, A_s, the running domain-balanced accuracy over all ranks.
            progress: p in [0, 1].

        Returns:
            N, without gradient.
        """
        num_domains = logits.shape[1]
        one = logits.detach().new_ones(logits.shape[0])
        match self.mode:
            case "constant":
                epsilon = self.epsilon * one
            case "annealed":
                epsilon = self.epsilon * progress * one
            case "adaptive_sample":
                own = _of_own_domain(logits.detach().softmax(dim=1), domain)  # N×h×w
                epsilon = self.epsilon * (own * kept).sum(dim=(1, 2)) / kept.sum(dim=(1, 2)).clamp(min=1)
            case "adaptive_stage":
                chance = 1.0 / num_domains
                epsilon = self.epsilon * ((accuracy - chance) / (1.0 - chance)).clamp(0, 1) * one
        return epsilon.clamp(max=smoothing_cap(num_domains))


def smoothed_cross_entropy(logits: Tensor, domain: Tensor, epsilon: Tensor) -> Tensor:
    """CE(D(f), q(d)) per location: N×M×h×w, N, N → N×h×w."""
    num_domains = logits.shape[1]
    log_p = F.log_softmax(logits, dim=1)
    own = _of_own_domain(log_p, domain)  # N×h×w
    others = log_p.sum(dim=1) - own
    epsilon = epsilon.view(-1, 1, 1)
    return -(1.0 - epsilon) * own - epsilon / (num_domains - 1) * others


def _of_own_domain(values: Tensor, domain: Tensor) -> Tensor:
    """The channel of each image's own domain: N×M×h×w, N → N×h×w."""
    return values.gather(1, domain.view(-1, 1, 1, 1).expand(-1, 1, *values.shape[2:])).squeeze(1)

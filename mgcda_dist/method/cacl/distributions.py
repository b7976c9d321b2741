"""The memory as distributions: mean and variance of z per (domain, type) instead of rows (SePiCo, arXiv 2204.08808).

If positives and negatives of an anchor are drawn from Gaussians N(μ_g, Σ_g), one per (domain, type) g, with diagonal
Σ_g, the expected contrastive loss has an upper bound in closed form (Jensen; E e^{z·x/T} = e^{z·μ/T + zᵀΣz/2T²}):

    l_i = 1/|P_i| Σ_{p∈P_i} [ log( e^{e_ip} + Σ_{n∈N_i} e^{e_in} ) - a_ip ]
    a_ig = z_i·μ_g/T,   e_ig = a_ig + z_iᵀΣ_g z_i/(2T²)

P_i: distributions of the anchor's type, those of other domains if there are any; N_i: distributions of another kind.
Each stands for one row of which all draws are looked at, and costs as much as one: there are M·(C+1).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mgcda_dist.method.cacl.queue import PixelMetadata
from mgcda_dist.method.cacl.rows import pull, push_apart
from mgcda_dist.method.cacl.selection import Selection

__all__ = ["Distributions", "contrast_expected", "expected_similarity", "merged_moments"]


class Distributions(nn.Module):
    """Running mean and variance of the sampled z of each (domain, type), and how many rows they are of.

    They are those of the pixels that are sampled, of which `hard_fraction` are the hardest.

    Args:
        num_domains: M.
        num_classes: C; type C is anomaly.
        dim: K.
        momentum: share γ of its weight that a distribution keeps when rows of it come in; 1: all rows weigh alike.

    Attributes:
        weight: G = M·(C+1): rows, weighed by age; 0: the distribution is not known yet.
        mean, variance: G×K.
    """

    weight: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, num_domains: int, num_classes: int, dim: int, momentum: float) -> None:
        super().__init__()
        self.num_types, self.momentum = num_classes + 1, momentum
        size = num_domains * self.num_types
        self.register_buffer("weight", torch.zeros(size))
        self.register_buffer("mean", torch.zeros(size, dim))
        self.register_buffer("variance", torch.zeros(size, dim))

    def groups(self) -> tuple[Tensor, Tensor]:
        """Domain and type of each distribution, G int64 each."""
        index = torch.arange(len(self.weight), device=self.weight.device)
        return index // self.num_types, index % self.num_types

    def choose(self, types: Tensor, domain: Tensor, selection: Selection) -> tuple[Tensor, Tensor]:
        """P_i and N_i of A anchors of these types and domains, each A×G bool."""
        its_domain, its_type, known = *self.groups(), self.weight > 0
        types, domain = types.unsqueeze(1), domain.unsqueeze(1)
        same = known & (its_type == types)  # none of an empty row, whose type is -1
        first = same & ((its_domain != domain) == selection.cross_domain)
        positives = torch.where(first.any(dim=1, keepdim=True), first, same)
        if selection.negatives == "other_type":
            return positives, known & (its_type != types)
        anomaly = self.num_types - 1
        return positives, known & ((its_type == anomaly) != (types == anomaly))

    @torch.no_grad()
    def update(self, rows: PixelMetadata, z: Tensor) -> None:
        """Move the distributions that have rows, R×K: of all ranks and micro-batches of a step, once per step."""
        its_domain, its_type = (of.unsqueeze(1) for of in self.groups())
        # G×R. Products, because scattered sums have no fixed order on a GPU: ranks would drift apart.
        members = ((rows.domain == its_domain) & (rows.type == its_type)).to(torch.float64)
        z = z.detach().to(torch.float64)
        count = members.sum(dim=1)
        mean = members @ z / count.clamp(min=1).unsqueeze(1)
        variance = (members @ z**2 / count.clamp(min=1).unsqueeze(1) - mean**2).clamp(min=0)
        old = (self.weight.double(), self.mean.double(), self.variance.double())
        for buffer, new in zip(
            self.buffers(), merged_moments(old, (count, mean, variance), self.momentum), strict=True
        ):
            buffer.copy_(new)

    def signals(self) -> dict[str, Tensor]:
        """Share of the (domain, type) whose distribution is known, a scalar."""
        return {"distributions_known": (self.weight > 0).float().mean()}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Distributions:
        # Cast to bf16, running moments would stand still: a step moves them by less than the format resolves.
        exact = dict(self.named_buffers())
        super()._apply(fn, recurse)  # pyright: ignore[reportUnknownMemberType]
        for name, buffer in exact.items():
            if getattr(self, name).element_size() < 4:
                setattr(self, name, buffer.to(getattr(self, name).device, torch.float32))
        return self


def merged_moments(
    old: tuple[Tensor, Tensor, Tensor], new: tuple[Tensor, Tensor, Tensor], momentum: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Weight G, mean and variance G×K of old and new rows together; where there is no new row, the old ones.

        w ← γw + n,   a = n/w,   Σ ← (1-a)Σ + a·Σ_n + a(1-a)(μ_n - μ)²,   μ ← μ + a(μ_n - μ)

    Args:
        old: w, μ, Σ so far.
        new: n, μ_n, Σ_n of the rows that come in.
        momentum: γ in [0, 1].
    """
    (weight, mean, variance), (count, new_mean, new_variance) = old, new
    total = torch.where(count > 0, momentum * weight + count, weight)
    share = (count / total.clamp(min=torch.finfo(total.dtype).tiny)).unsqueeze(1)
    step = new_mean - mean
    merged = (1 - share) * variance + share * new_variance + share * (1 - share) * step**2
    return total, mean + share * step, merged


def expected_similarity(z: Tensor, mean: Tensor, variance: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """a = z·μ/T, the mean of z·x/T for x of N(μ, Σ), and e = log E e^{z·x/T}: A×K, G×K, G×K → A×G, A×G."""
    # Copies: the buffers move in `update`, before the backward pass of an accumulated loss may have run.
    mean, variance = mean.to(z.dtype, copy=True), variance.to(z.dtype, copy=True)
    expected = z @ mean.T / temperature
    return expected, expected + z**2 @ variance.T / (2.0 * temperature**2)


def contrast_expected(expected: Tensor, log_expected: Tensor, is_positive: Tensor, is_negative: Tensor) -> Tensor:
    """Σ_{p∈P_i} [ log( e^{e_ip} + Σ_{n∈N_i} e^{e_in} ) - a_ip ] from a and e: A×G each, A×G bool each → A."""
    # log( e^{e_p} + … ) - a_p = -log( e^{e_p} / ( e^{e_p} + … ) ) + e_p - a_p
    bound = pull(log_expected, is_positive, push_apart(log_expected, is_negative))
    return bound + ((log_expected - expected) * is_positive).sum(dim=1)

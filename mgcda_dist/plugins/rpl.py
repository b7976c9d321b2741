"""RPL, residual pattern learning (Liu et al., ICCV 2023, arXiv 2211.14512), on a network that is frozen.

    z = v + r,   L = E_A[-log softmax(z)_{argmax v}] + E_A[(H(z) - H(v))²] + 0.05 E_O[relu(lse z)]
    score = -lse z

v are the logits of the network, r the C channels of a head on deep features: `extra["residual"]`; A is all that is
neither anomaly nor void, H the entropy in nats. Classes stay those of v. In the released code the residual is added to
the input of the last, linear layer, which runs twice; the product of the two is one linear map, which the head has.
RPL+CoroCL adds a contrast within the batch of a rank; CACL, whose draws know no rank, takes its place.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgcda_dist.method.batch import VOID, Prediction
from mgcda_dist.method.terms import LossContext, Term
from mgcda_dist.models.norm import num_groups
from mgcda_dist.models.scores import Outputs
from mgcda_dist.plugins.pixels import anomaly_mask, at_label, sum_over

__all__ = ["ResidualBlock", "RplLoss", "RplScore"]


class ResidualBlock(nn.Module):
    """The head: atrous pyramid pooling, then C channels, N×c×h×w → N×C×h×w. Its last layer begins with zeros, so z = v.

    Args:
        channels: of its input.
        outputs: C, the number of classes.
        width: of each branch.
        rates: dilations; those of the released code suit features of stride 8.
    """

    def __init__(self, channels: int, outputs: int, width: int = 256, rates: Collection[int] = (12, 24, 36)) -> None:
        super().__init__()
        self.branches = nn.ModuleList([_branch(channels, width, 1, 0)])
        self.branches.extend(_branch(channels, width, 3, rate) for rate in rates)
        self.whole = nn.Conv2d(channels, width, 1)
        self.mixed = _branch(width * (len(self.branches) + 1), width, 1, 0)
        self.last = nn.Conv2d(width, outputs, 1, bias=False)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        whole = F.relu(self.whole(x.mean(dim=(2, 3), keepdim=True))).expand(-1, -1, *x.shape[2:])
        return self.last(self.mixed(torch.cat([*(branch(x) for branch in self.branches), whole], dim=1)))


def _branch(channels: int, width: int, kernel: int, rate: int) -> nn.Module:
    layer = nn.Conv2d(channels, width, kernel, padding=rate, dilation=max(1, rate), bias=False)
    return nn.Sequential(layer, nn.GroupNorm(num_groups(width), width), nn.ReLU())


class RplLoss:
    """See the module. Args: `level`, the weight of the third term."""

    reads: Collection[str] = ("residual",)

    def __init__(self, level: float = 0.05) -> None:
        self.terms: Mapping[str, Term] = {
            "agreement": Term("no_anomaly"),
            "entropy": Term("no_anomaly"),
            "level": Term("anomaly", level),
        }

    def counts(self, label: Tensor) -> dict[str, Tensor]:
        """The number of pixels in A."""
        return {"no_anomaly": _settled(label).sum()}

    def __call__(self, prediction: Prediction, label: Tensor, context: LossContext) -> dict[str, Tensor]:
        """Sums of the terms, which reach the residual alone; see `OutlierLoss`."""
        del context
        v, settled = prediction.logits.detach(), _settled(label)
        log_v = torch.log_softmax(v, dim=1)
        z = v + at_label(prediction.extra["residual"], label)
        log_z = torch.log_softmax(z, dim=1)
        agreement = -log_z.gather(1, v.argmax(dim=1, keepdim=True)).squeeze(1)
        return {
            "agreement": sum_over(agreement, settled),
            "entropy": sum_over((_entropy(log_z) - _entropy(log_v)).square(), settled),
            "level": sum_over(F.relu(torch.logsumexp(z, dim=1)), anomaly_mask(label)),
        }


class RplScore(Outputs):
    """-lse(v + r); released results blur it: evaluation.blur."""

    reads: Collection[str] = ("residual",)

    def of(self, maps: Tensor) -> Tensor:
        """See `Score`."""
        v, residual = maps.chunk(2, dim=1)  # as many channels as classes
        return -torch.logsumexp(v + residual, dim=1)


def _settled(label: Tensor) -> Tensor:
    return ~anomaly_mask(label) & (label != VOID)


def _entropy(log_p: Tensor) -> Tensor:
    return -(log_p.exp() * log_p).sum(dim=1)

"""The set loss of Mask2Former (Cheng et al., CVPR 2022, arXiv 2112.01527, section 3.3), as sums over ranks.

Per image and decoder layer, targets are one binary mask per class that is present. A matching of minimal cost, without
gradient, over P points that all masks of the image share:

    cost(q, j) = 2·(-P_q(class_j)) + 5·mean_points bce(m_q, t_j) + 5·dice(m_q, t_j)
    dice(m, t) = 1 - (2 Σ σ(m) t + 1) / (Σ σ(m) + Σ t + 1)

    L = Σ_layers 2·(Σ w·nll / Σ w) + 5·(Σ_pairs mean_points bce / M) + 5·(Σ_pairs dice / M)

w is 1 for a matched query and 0.1 for "no object"; M is the number of target masks over all ranks. The points of a pair
are those of 3 P candidates whose mask logit is nearest to 0, three quarters of them, and the rest at random. All points
are keyed by (seed, step, image, layer, class), so matching is the same at every number of ranks. Both denominators are
whole numbers that follow from the labels: with 10 and 1 in the place of 1 and 0.1, Σ w is 10 M + (Q - M) per image.
Published recipes clip the whole model's gradient to 0.01.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mgcda_dist.errors import ConfigError
from mgcda_dist.method.batch import ANOMALY, INLIER, VOID, Prediction
from mgcda_dist.method.terms import LossContext, Term
from mgcda_dist.plugins.masks import LAST, Queries, layers

__all__ = ["SetLoss", "matched_queries", "sampled"]

_OBJECT, _NO_OBJECT = 10, 1
"""Weights of a query in the classification, ten times those of the publication."""
_CLASS, _MASK, _DICE = 2.0, 5.0, 5.0
_OVERSAMPLE, _UNCERTAIN = 3, 0.75


class SetLoss:
    """See the module.

    Args:
        num_queries: Q of the network.
        num_points: P; 12544 in the publication.
        void: pixels without a class, and anomalies: `background` of every mask, as published, or no points of any
            (`ignore`: their part of a point's target is left out). EAM needs `background`.
        anomalies_are_a_class: anomalies are the target mask of the column behind the inlier classes (UNO).
    """

    reads: Collection[str] = LAST
    logits = "mask"
    classifying: Collection[str] = ("mask", "dice")

    def __init__(
        self,
        num_queries: int = 100,
        num_points: int = 12544,
        void: Literal["background", "ignore"] = "background",
        *,
        anomalies_are_a_class: bool = False,
    ) -> None:
        if void not in ("background", "ignore"):
            raise ConfigError("loss.arguments.void", f"is {void!r}", "background or ignore")
        self.num_queries, self.num_points, self.void = num_queries, num_points, void
        self.columns: Collection[str] = ("negative",) if anomalies_are_a_class else ()
        self.terms: Mapping[str, Term] = {
            "classification": Term("set_weights", _CLASS),
            "mask": Term("set_masks", _MASK),
            "dice": Term("set_masks", _DICE),
        }

    def counts(self, label: Tensor) -> dict[str, Tensor]:
        """Σ w, times ten, and M, over the images of labels N×h×w."""
        kinds = torch.arange(INLIER, device=label.device)
        if self.columns:
            kinds = torch.cat([kinds, kinds.new_tensor([ANOMALY])])
        flat = label.flatten(1)
        present = torch.zeros(len(label), VOID + 1, dtype=torch.bool, device=label.device)
        present.scatter_(1, flat, True)
        number = present[:, kinds].sum(dim=1).clamp(max=self.num_queries)
        weights = _OBJECT * number + _NO_OBJECT * (self.num_queries - number)
        return {"set_weights": weights.sum(), "set_masks": number.sum()}

    def __call__(self, prediction: Prediction, label: Tensor, context: LossContext) -> dict[str, Tensor]:
        """Sums of the terms over layers and images; see `OutlierLoss`."""
        num_classes = prediction.logits.shape[1]
        targets, present = self._targets(label, num_classes)
        found = dict(layers(prediction))
        for each in found.values():
            if each.classes.shape[1] != self.num_queries or each.classes.shape[2] != targets.shape[1] + 1:
                shown = f"{each.classes.shape[1]} queries of {each.classes.shape[2]} columns"
                wanted = f"num_queries={self.num_queries} and {targets.shape[1] + 1} columns"
                raise ConfigError("loss.arguments.num_queries", f"the network has {shown}, not {wanted}", "set it so")
        costs = {name: self._cost(name, each, targets, present, context) for name, each in found.items()}
        matches = matched_queries(costs, present)
        sums = [self._sums(name, each, matches[name], targets, present, context) for name, each in found.items()]
        return {name: torch.stack([layer[name] for layer in sums]).sum() for name in sums[0]}

    def _targets(self, label: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Binary masks N×T×H×W, float, and which of the T classes an image shows, N×T bool."""
        kinds = torch.arange(num_classes, device=label.device)
        if self.columns:
            kinds = torch.cat([kinds, kinds.new_tensor([ANOMALY])])
        masks = label.unsqueeze(1) == kinds.view(1, -1, 1, 1)
        present = masks.flatten(2).any(dim=2)
        masks = masks.float()
        if self.void == "ignore":
            masks = torch.where((label == VOID).unsqueeze(1), torch.nan, masks)
        return masks, present

    @torch.no_grad()
    def _cost(self, layer: str, of: Queries, targets: Tensor, present: Tensor, context: LossContext) -> Tensor:
        """N×Q×T."""
        points = context.uniform(f"matching/{layer}", self.num_points, 2).to(of.masks.dtype)
        m, t = sampled(of.masks, points), sampled(targets.to(of.masks.dtype), points)
        known = torch.isfinite(t)
        t, number = torch.nan_to_num(t), known.sum(dim=2).clamp(min=1).unsqueeze(1)
        positive, negative = F.softplus(-m), F.softplus(m)
        kept = known.to(t.dtype)
        bce = (positive @ t.transpose(1, 2) + negative @ (kept - t).transpose(1, 2)) / number
        s = m.sigmoid()
        overlap, size = 2 * s @ t.transpose(1, 2), s @ kept.transpose(1, 2) + t.sum(dim=2).unsqueeze(1)
        dice = 1 - (overlap + 1) / (size + 1)
        cost = _CLASS * -of.classes.softmax(dim=2)[:, :, : present.shape[1]] + _MASK * bce + _DICE * dice
        return torch.nan_to_num(cost, nan=torch.finfo(cost.dtype).max)

    def _sums(
        self, layer: str, of: Queries, match: Tensor, targets: Tensor, present: Tensor, context: LossContext
    ) -> dict[str, Tensor]:
        """Sums of one layer; `match` N×T: the query of every class, -1 where the class has none."""
        num_images, num_targets = present.shape
        nothing = of.classes.shape[2] - 1
        target = match.new_full((num_images, self.num_queries + 1), nothing)
        slots = torch.where(match >= 0, match, self.num_queries)
        kinds = torch.arange(num_targets, device=match.device).expand_as(match)
        target = target.scatter(1, slots, kinds)[:, :-1]
        nll = F.cross_entropy(of.classes.transpose(1, 2), target, reduction="none")
        weights = torch.where(target == nothing, _NO_OBJECT, _OBJECT)
        pairs = match >= 0
        image, kind = torch.nonzero(pairs, as_tuple=True)
        m = of.masks[image, match[image, kind]].unsqueeze(1)
        t = targets[image, kind].to(m.dtype).unsqueeze(1)
        points = self._pair_points(layer, m.detach(), image, kind, num_targets, context)
        logit, truth = sampled(m, points).squeeze(1), sampled(t, points).squeeze(1)
        known = torch.isfinite(truth)
        truth = torch.nan_to_num(truth)
        bce = F.binary_cross_entropy_with_logits(logit, truth, reduction="none")
        bce = (bce * known).sum(dim=1) / known.sum(dim=1).clamp(min=1)
        s = logit.sigmoid() * known
        dice = 1 - (2 * (s * truth).sum(dim=1) + 1) / (s.sum(dim=1) + truth.sum(dim=1) + 1)
        nowhere = of.masks.sum() * 0  # law 3: an image without a class touches the masks, too
        return {
            "classification": (weights * nll).sum(),
            "mask": bce.sum() + nowhere,
            "dice": dice.sum() + nowhere,
        }

    @torch.no_grad()
    def _pair_points(
        self, layer: str, m: Tensor, image: Tensor, kind: Tensor, num_targets: int, context: LossContext
    ) -> Tensor:
        """P points of every pair: the most uncertain of the candidates, and random ones; pairs×P×2."""
        num_uncertain = int(_UNCERTAIN * self.num_points)

        def drawn(purpose: str, number: int) -> Tensor:
            return context.uniform(f"{purpose}/{layer}", num_targets, number, 2)[image, kind].to(m.dtype)

        candidates = drawn("candidates", _OVERSAMPLE * self.num_points)
        nearest = sampled(m, candidates).squeeze(1).abs().topk(num_uncertain, dim=1, largest=False).indices
        chosen = candidates.gather(1, nearest.unsqueeze(2).expand(-1, -1, 2))
        return torch.cat([chosen, drawn("random", self.num_points - num_uncertain)], dim=1)


def sampled(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of N×c×h×w at points N×P×2, (x, y) in 0…1 of the image: N×c×P; zeros outside of the centres."""
    return F.grid_sample(maps, 2 * points.unsqueeze(2) - 1, align_corners=False).squeeze(3)


@torch.no_grad()
def matched_queries(costs: Mapping[str, Tensor], present: Tensor) -> dict[str, Tensor]:
    """The query of every class that is present, of minimal total cost: N×Q×T costs per layer → N×T int64, else -1.

    The matrices of all layers and images reach the host in one copy.
    """
    packed = torch.stack([*costs.values()])
    host, shown = packed.cpu().numpy(), present.cpu().numpy()
    found = np.full((*packed.shape[:2], present.shape[1]), -1)
    for layer, image in np.ndindex(*packed.shape[:2]):
        (kinds,) = np.nonzero(shown[image])
        queries, order = linear_sum_assignment(host[layer, image][:, kinds])
        found[layer, image, kinds[order]] = queries
    on_device = torch.from_numpy(found).to(present.device)
    return dict(zip(costs, on_device, strict=True))

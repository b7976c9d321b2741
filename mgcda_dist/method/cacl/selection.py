"""Selection of positives (per type and domain) and negatives (per side of anomaly/inlier) of a step.

The choice reads metadata of the rows (type, domain, difficulty, a random draw) and never their embeddings. It is the
same on every rank wherever the embeddings are stored, costs R log R for R rows, and all anchors of a kind share it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mgcda_dist.choices import CaclDefaults, Negatives
from mgcda_dist.method.cacl.queue import PixelMetadata
from mgcda_dist.method.cacl.sampler import rank_within
from mgcda_dist.method.randomness import uniform

__all__ = ["Choice", "Selection"]


@dataclass(frozen=True)
class Selection:
    """Rules for positives and negatives.

    Attributes:
        num_positives: |P_i| is at most this.
        num_negatives: rows of each side of anomaly/inlier that may be in N_i, at most.
        hard_negative_fraction: share of the negatives that are the most difficult ones; the rest is random.
        cross_domain: positives of other domains first; False: of the same domain first.
        negatives: of the opposite side of anomaly/inlier, or of every other type: other inlier classes, too.
    """

    num_positives: int = CaclDefaults.num_positives
    num_negatives: int = CaclDefaults.num_negatives
    hard_negative_fraction: float = CaclDefaults.hard_negative_fraction
    cross_domain: bool = CaclDefaults.cross_domain
    negatives: Negatives = CaclDefaults.negatives


@dataclass(frozen=True)
class Choice:
    """The choice of one step among R candidate rows.

    Attributes:
        kind: R, int64: rows of different kinds repel each other; the side of anomaly/inlier, or the type.
        is_negative: R, bool: the row is in N_i of every anchor i of another kind.
        positive_rank: M×R, int64: rank of a row among the rows of its type, in the order in which an anchor of domain d
            takes positives.
        num_positives: R, int64: |P_i| if the row is an anchor.
        limit: at most so many positives.
    """

    kind: Tensor
    is_negative: Tensor
    positive_rank: Tensor
    num_positives: Tensor
    limit: int

    @classmethod
    def of(
        cls,
        rows: PixelMetadata,
        *,
        num_domains: int,
        anomaly_type: int,
        selection: Selection,
        key: int,
        counter: Tensor,
    ) -> Choice:
        """Choose positives and negatives among candidate rows.

        Args:
            rows: the candidates: the global batch and the memory, in the same order on every rank.
            num_domains: M.
            anomaly_type: C.
            selection: the rules.
            key: of the random draws, from `stream_key`.
            counter: scalar, int64: the first slot of the micro-batch; micro-batches of a step draw differently.
        """
        chance = uniform(key, counter, rows.id)
        side = (rows.type == anomaly_type).to(torch.int64)
        num_hard = round(selection.num_negatives * selection.hard_negative_fraction)
        by_difficulty = rank_within(side[None], -rows.difficulty[None])[0]
        is_hard = by_difficulty < num_hard
        # The most difficult come first, in order of difficulty; all others follow at random.
        order = rank_within(side[None], torch.where(is_hard, by_difficulty.to(chance.dtype) - len(side), chance)[None])

        own_domain = torch.arange(num_domains, device=side.device).unsqueeze(1) == rows.domain  # M×R
        later = own_domain if selection.cross_domain else ~own_domain
        order_of_type = rank_within(rows.type.expand(num_domains, -1), chance + later.to(chance.dtype))
        of_type = torch.bincount(rows.type, minlength=anomaly_type + 1)[rows.type]
        return cls(
            rows.type if selection.negatives == "other_type" else side,
            order[0] < selection.num_negatives,
            order_of_type,
            (of_type - 1).clamp(max=selection.num_positives),
            selection.num_positives,
        )

    def in_use(self) -> Tensor:
        """R, bool: rows that some anchor contrasts with; an anchor among its own positives takes one row more."""
        return self.is_negative | (self.positive_rank.amin(dim=0) <= self.limit)

    def negatives(self, anchors: Tensor, rows: Tensor) -> Tensor:
        """N_i for A anchors among R' rows, both given as indices of candidates: A×R' bool."""
        return self.is_negative[rows] & (self.kind[anchors].unsqueeze(1) != self.kind[rows])

    def positives(self, anchors: Tensor, rows: Tensor, candidates: PixelMetadata) -> Tensor:
        """P_i for A anchors among R' rows, both given as indices of `candidates`: A×R' bool."""
        domain = candidates.domain[anchors]
        rank = self.positive_rank[domain][:, rows]  # A×R'
        own_rank = self.positive_rank[domain, anchors].unsqueeze(1)
        # An anchor is no positive of its own: rows after it move up by one.
        chosen = rank - (own_rank < rank).to(rank.dtype) < self.limit
        same_type = candidates.type[anchors].unsqueeze(1) == candidates.type[rows]
        return chosen & same_type & (anchors.unsqueeze(1) != rows)

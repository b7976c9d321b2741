"""Selection of positives and negatives of a step.

The choice reads metadata of the rows (type, domain, difficulty, random draws) and never their embeddings. It is the
same on every rank wherever the embeddings are stored, and costs R log R for R rows: anchors of a type and domain share
an order of the rows of their type, in which each takes those from its own turn on. Rows may be empty (type -1): the
shapes are those of the rows, and never depend on how many are filled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mgcda_dist.choices import CaclDefaults, Negatives, NegativesBy, Positives
from mgcda_dist.method.cacl.queue import PixelMetadata
from mgcda_dist.method.cacl.sampler import NO_TYPE, order_within, rank_within

__all__ = ["Choice", "PositiveOrder", "Selection", "shared_negatives"]

Draw = Callable[[str], Tensor]
"""Purpose → one number in [0, 1) per row, R float64; another purpose is another, independent draw."""


@dataclass(frozen=True)
class Selection:
    """Rules for positives and negatives.

    Attributes:
        num_positives: |P_i| is at most this.
        num_negatives: rows of each side of anomaly/inlier that may be in N_i, at most.
        hard_negative_fraction: share of the negatives that are the most difficult ones; the rest is random.
        cross_domain: positives of other domains first; False: of the same domain first.
        negatives: of the opposite side of anomaly/inlier, or of every other type: other inlier classes, too.
        positives: anchors of a type and domain share them, by the draw of the negatives; or each anchor has its own.
        negatives_by: the most difficult ones by difficulty, of each side; or those nearest to the anchor, of all rows
            of another kind (`nearest`).
    """

    num_positives: int = CaclDefaults.num_positives
    num_negatives: int = CaclDefaults.num_negatives
    hard_negative_fraction: float = CaclDefaults.hard_negative_fraction
    cross_domain: bool = CaclDefaults.cross_domain
    negatives: Negatives = CaclDefaults.negatives
    positives: Positives = CaclDefaults.positives
    negatives_by: NegativesBy = CaclDefaults.negatives_by

    @property
    def num_hard(self) -> int:
        """Negatives that are the most difficult ones, at most."""
        return round(self.num_negatives * self.hard_negative_fraction)

    @property
    def num_nearest(self) -> int:
        """k: negatives that each anchor chooses by similarity, at most."""
        return self.num_hard if self.negatives_by == "similarity" else 0


@dataclass(frozen=True)
class Choice:
    """The choice of one step among R candidate rows.

    Attributes:
        kind: R, int64: rows of different kinds repel each other; the side of anomaly/inlier, or the type; -1: empty.
        is_negative: R, bool: the row is in N_i of every anchor i of another kind. With `negatives_by: similarity` only
            the random share; the rest is each anchor's own.
        order: in which anchors take positives.
        max_negatives: bound on the number of rows that `is_negative` names.
        shares_positives: anchors of a type and domain have the same ones; or each its own.
        num_nearest: k, negatives that each anchor chooses by similarity.
    """

    kind: Tensor
    is_negative: Tensor
    order: PositiveOrder
    max_negatives: int
    shares_positives: bool
    num_nearest: int

    @classmethod
    def of(
        cls, rows: PixelMetadata, *, num_domains: int, anomaly_type: int, selection: Selection, draw: Draw
    ) -> Choice:
        """Choose positives and negatives among candidate rows.

        Args:
            rows: the candidates: the global batch and the memory, in the same order on every rank.
            num_domains: M.
            anomaly_type: C.
            selection: the rules.
            draw: of this step and micro-batch.
        """
        side = torch.where(rows.is_filled, (rows.type == anomaly_type).to(torch.int64), NO_TYPE)
        is_negative = shared_negatives(side, rows.difficulty, selection, draw("contrast"))
        order = PositiveOrder.of(rows, num_domains, anomaly_type + 1, selection, draw)
        return cls(
            kind=rows.type if selection.negatives == "other_type" else side,
            is_negative=is_negative,
            order=order,
            max_negatives=2 * (selection.num_negatives - selection.num_nearest),
            shares_positives=selection.positives == "shared",
            num_nearest=selection.num_nearest,
        )

    def of_other_kind(self, anchors: Tensor, rows: Tensor) -> Tensor:
        """Rows that may be in N_i for A anchors among R' rows, both given as indices of candidates: A×R' bool."""
        return (self.kind[anchors].unsqueeze(1) != self.kind[rows]) & (self.kind[rows] != NO_TYPE)


def shared_negatives(side: Tensor, difficulty: Tensor, selection: Selection, chance: Tensor) -> Tensor:
    """Rows that are a negative of all anchors of another kind: per side the most difficult ones, the rest at random.

    With `negatives_by: similarity` the random rest alone: the others are each anchor's own.

    Args:
        side: R, int64: 0 of inliers, 1 of anomalies, -1 of empty rows.
        difficulty: R.
        selection: the rules.
        chance: R, in [0, 1).

    Returns:
        R bool: at most `num_negatives`, less those by similarity, of each side.
    """
    sides = side.unsqueeze(0)
    num_hard = selection.num_hard - selection.num_nearest
    by_difficulty = rank_within(sides, -difficulty.unsqueeze(0))
    # The most difficult come first, in order of difficulty; all others follow at random.
    key = torch.where(by_difficulty < num_hard, by_difficulty.to(chance.dtype) - len(chance), chance)
    return (rank_within(sides, key)[0] < selection.num_negatives - selection.num_nearest) & (side != NO_TYPE)


@dataclass(frozen=True)
class PositiveOrder:
    """The order in which anchors take positives: rows of their type, in two groups (other domains, own domain).

    `shared`: from the first row of each group on. `per_anchor`: from the anchor's own place u_i·(rows of the group) on,
    and around; so every row has the same chance, and anchors differ.

    Attributes:
        order: M×R, int64: rows by type, then group, then draw, as an anchor of domain d sees them.
        begin: C+1, int64: first place of a type in that order, behind the empty rows.
        of_type: C+1, int64: rows of a type.
        of_first_group: M×(C+1), int64: rows of a type that an anchor of domain d takes first.
        turn: R: u_i in [0, 1), 0 if shared.
        type, domain: R, int64; 0 of empty rows.
        is_filled: R, bool.
        limit: at most so many positives.
        cross_domain: the first group is that of other domains.
    """

    order: Tensor
    begin: Tensor
    of_type: Tensor
    of_first_group: Tensor
    turn: Tensor
    type: Tensor
    is_filled: Tensor
    domain: Tensor
    limit: int
    cross_domain: bool

    @classmethod
    def of(
        cls, rows: PixelMetadata, num_domains: int, num_types: int, selection: Selection, draw: Draw
    ) -> PositiveOrder:
        """The order for candidate rows; the groups swap places without `cross_domain`."""
        is_shared = selection.positives == "shared"
        chance = draw("contrast" if is_shared else "positives")
        own_domain = torch.arange(num_domains, device=rows.domain.device).unsqueeze(1) == rows.domain  # M×R
        later = own_domain if selection.cross_domain else ~own_domain
        types = torch.arange(num_types, device=rows.type.device).unsqueeze(1) == rows.type  # (C+1)×R
        of_type = types.sum(dim=1)
        return cls(
            order=order_within(rows.type.expand(num_domains, -1), chance + later.to(chance.dtype)),
            begin=(~rows.is_filled).sum() + of_type.cumsum(0) - of_type,
            of_type=of_type,
            of_first_group=(types & ~later.unsqueeze(1)).sum(dim=2),
            turn=torch.zeros_like(chance) if is_shared else draw("turn"),
            type=rows.type.clamp(min=0),
            is_filled=rows.is_filled,
            domain=rows.domain,
            limit=selection.num_positives,
            cross_domain=selection.cross_domain,
        )

    def num_positives(self) -> Tensor:
        """R, int64: |P_i| if the row is an anchor."""
        return (self.of_type[self.type] - 1).clamp(max=self.limit) * self.is_filled

    def num_crossing(self) -> Tensor:
        """R, int64: those of P_i that are of another domain than the row."""
        taken, first = self.num_positives(), self.of_first_group[self.domain, self.type]
        # Without `cross_domain` the row itself is in the first group.
        return taken.minimum(first) if self.cross_domain else (taken - (first - 1)).clamp(min=0) * self.is_filled

    @property
    def max_in_use(self) -> int:
        """Bound on the number of rows that `in_use` names.

        Those that an anchor takes are, of each type, the first n in one order, but for those of its own domain; for
        each of them it takes one from behind. No row counts in two domains, so that all anchors together take 2n. Where
        they take their own domain first, each domain has n of its own.
        """
        num_domains, num_types = self.of_first_group.shape
        return num_types * (self.limit + 1) * (min(num_domains, 2) if self.cross_domain else num_domains)

    def in_use(self) -> Tensor:
        """R, bool: rows that some anchor may take if they share them; one among its own positives takes one more."""
        place = torch.arange(len(self.type), device=self.type.device) - self.begin[self.type[self.order]]
        used = (place <= self.limit) & self.is_filled[self.order]  # M×R, by place
        return torch.zeros_like(used).scatter(1, self.order, used).any(dim=0)

    def taken(self, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """P_i of A anchors, given as indices of candidates: indices A×(limit+1), and which of them count, bool.

        With n rows in a group and u the anchor's draw, the k-th that it takes stands at place (k + ⌊u·n⌋) mod n.
        """
        domain, kind = self.domain[anchors], self.type[anchors]
        nth = torch.arange(self.limit + 1, device=anchors.device)  # one more: the anchor itself may be among them
        first, all_rows = self.of_first_group[domain, kind].unsqueeze(1), self.of_type[kind].unsqueeze(1)
        start = torch.where(nth < first, 0, first)
        size = torch.where(nth < first, first, all_rows - first).clamp(min=1)
        shift = (self.turn[anchors].unsqueeze(1) * size).to(torch.int64)
        place = self.begin[kind].unsqueeze(1) + start + (nth - start + shift) % size
        row = self.order[domain.unsqueeze(1), place.clamp(max=len(self.type) - 1)]
        counts = (nth < all_rows) & (row != anchors.unsqueeze(1)) & self.is_filled[anchors].unsqueeze(1)
        return row, counts & (counts.cumsum(dim=1) <= self.limit)

    def columns(self, anchors: Tensor, rows: Tensor, exists: Tensor) -> tuple[Tensor, Tensor]:
        """P_i for A anchors among R' rows, both given as indices of candidates.

        Args:
            anchors: A, int64.
            rows: R', int64.
            exists: R', bool: others are not there, whatever their index says.

        Returns:
            A×(limit+1): places in `rows`, int64, and which of them count, bool.
        """
        row, counts = self.taken(anchors)
        num_rows = len(self.type)
        column = row.new_full((num_rows + 1,), -1)  # the last for those that are not there
        column = column.scatter(0, torch.where(exists, rows, num_rows), torch.arange(len(rows), device=rows.device))
        found = column[:num_rows][row]
        return found.clamp(min=0), counts & (found >= 0)

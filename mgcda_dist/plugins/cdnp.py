"""cDNP, a floor without training (Galesso, Argus, Brox, "Far away in the deep space", ICCV workshops 2023).

    score = ((1 - lse(L)) - min) / (max - min) + d / d_max,   d = mean of the Euclidean distances to the 3 nearest cells

L are the logits, d is of a cell of dense features to a bank of cells of training images; the ranges are those of the
images that the bank is of, without void and anomalies. There features are the keys of the last attention block, heads
concatenated; here they are a stage of the network, so any of its networks has them, and of a transformer the keys: a
stage on the layer that makes them, `attention.k_proj` of transformers' blocks, or with `keys` on `attn.qkv` of timm's,
which makes queries, keys and values in one. The bank is a head without parameters that is measured
after training, so that it is exported, loaded strictly and a part of graphs like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgcda_dist.errors import ConfigError
from mgcda_dist.method.batch import ANOMALY, VOID
from mgcda_dist.models.measured import Observation
from mgcda_dist.models.scores import Outputs

__all__ = ["CdnpScore", "NeighbourBank"]

_BLOCK = 8192
"""Rows of the bank that are compared at a time: memory is cells × rows of a block."""
_LEAST = 1e-12
"""Width of a range that has none."""


class NeighbourBank(nn.Module):
    """Distances to the nearest cells of a bank: N×c×h×w → N×3×h×w, d / d_max, and min and max - min in every cell.

    Args:
        channels: c; with `keys` three times as many as the bank's.
        rows: of the bank; 100000 there, drawn from 500 images.
        neighbours: whose mean distance is d.
        keys: the middle third of the channels is compared: the keys of a layer that makes queries, keys and values.

    Attributes:
        arguments: of the constructor, for the same bank.
    """

    bank: Tensor
    centre: Tensor
    ranges: Tensor

    def __init__(self, channels: int, rows: int = 100_000, neighbours: int = 3, keys: bool = False) -> None:
        super().__init__()
        if keys and channels % 3:
            problem = f"the stage has {channels} channels, which are no queries, keys and values"
            raise ConfigError("keys", problem, "a stage on attn.qkv, or keys: false")
        for name, value, least in (("neighbours", neighbours, 1), ("rows", rows, neighbours)):
            if value < least:
                raise ConfigError(name, f"is {value}", f"at least {least}")
        self.neighbours, self.keys = neighbours, keys
        self.arguments = {"rows": rows, "neighbours": neighbours} | ({"keys": True} if keys else {})
        channels = channels // 3 if keys else channels
        # Rows are differences to the centre: products of what is far from 0 would hide which are nearest.
        self.register_buffer("bank", torch.zeros(rows, channels))
        self.register_buffer("centre", torch.zeros(channels))
        self.register_buffer("ranges", torch.tensor([0.0, 1.0, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        least, span, farthest = self.ranges.to(x.dtype)
        d = self.distance(self.compared(x).flatten(2).transpose(1, 2)).unflatten(1, x.shape[2:]) / farthest
        return torch.stack([d, least.expand_as(d), span.expand_as(d)], dim=1)

    def compared(self, x: Tensor) -> Tensor:
        """The channels of N×c×h×w that the bank has."""
        return x.chunk(3, dim=1)[1] if self.keys else x

    def distance(self, cells: Tensor) -> Tensor:
        """d of features …×c: their mean distance to the nearest rows."""
        cells, bank = cells - self.centre.to(cells.dtype), self.bank.to(cells.dtype)
        found: list[tuple[Tensor, Tensor]] = []
        for first in range(0, len(bank), _BLOCK):
            rows = bank[first : first + _BLOCK]
            squares = rows.square().sum(dim=1) - 2 * cells @ rows.T  # without the cell's own, which all rows share
            best, index = squares.topk(min(self.neighbours, len(rows)), dim=-1, largest=False)
            found.append((best, index + first))
        order = torch.cat([best for best, _ in found], dim=-1).topk(self.neighbours, dim=-1, largest=False).indices
        nearest = torch.cat([index for _, index in found], dim=-1).gather(-1, order)
        # From the differences: a product of large numbers has no digits left for a distance near 0.
        return (cells.unsqueeze(-2) - bank[nearest]).square().sum(dim=-1).sqrt().mean(dim=-1)

    @classmethod
    def measured(cls, channels: int, observe: Callable[[], Iterable[Observation]], **arguments: Any) -> NeighbourBank:
        """A bank of cells drawn at random from all that are neither void nor anomalous; see `measured.MeasuredHead`.

        With fewer cells than `rows` it holds all of them.

        Raises:
            ConfigError: fewer cells than neighbours.
        """
        asked = cls(channels, **arguments)
        rows, random = len(asked.bank), torch.Generator().manual_seed(0)
        cells, order = torch.empty(0, asked.bank.shape[1]), torch.empty(0, dtype=torch.float64)
        values: list[Tensor] = []
        for seen in observe():
            new = _known(asked.compared(seen.features), seen.label)
            cells = torch.cat([cells, new.cpu()])
            order = torch.cat([order, torch.rand(len(new), generator=random, dtype=torch.float64)])
            # The first of all cells so far, in a random order: each has the same chance, whichever frame it is of.
            kept = order.argsort()[:rows]
            cells, order = cells[kept], order[kept]
            energy = _known(1 - torch.logsumexp(seen.prediction.logits, dim=1, keepdim=True), seen.label)
            values.append(torch.stack(energy.aminmax()) if len(energy) else energy.new_empty(0))
        if len(cells) < asked.neighbours:
            problem = f"{len(cells)} cells of the frames are neither void nor anomalous"
            raise ConfigError("data", problem, f"labelled frames with at least {asked.neighbours}")
        bank = cls(channels, len(cells), asked.neighbours, asked.keys)
        bank.centre = cells.mean(dim=0)
        bank.bank = cells - bank.centre
        least, most = torch.cat(values).aminmax()
        bank.to(least.device)
        seen_again = (_known(asked.compared(seen.features), seen.label) for seen in observe())
        farthest = max(float(bank.distance(each).max()) for each in seen_again if len(each))
        ranges = [float(least), max(float(most - least), _LEAST), max(farthest, _LEAST)]
        bank.ranges = torch.tensor(ranges, device=least.device)
        return bank


class CdnpScore(Outputs):
    """The sum of the energy and the distance, each in its range; logits and distances are averaged over views."""

    reads: Collection[str] = ("neighbours",)
    remedy = "first: `mgcda calibrate` with a head of plugin:cdnp_bank, called neighbours (docs/add-a-method.md)"

    def of(self, maps: Tensor) -> Tensor:
        """See `Score`."""
        logits, found = self.split(maps, 3)
        distance, least, span = found.unbind(dim=1)
        return (1 - torch.logsumexp(logits, dim=1) - least) / span + distance


def _known(maps: Tensor, label: Tensor) -> Tensor:
    """The cells of N×c×h×w whose centre is neither void nor anomalous, float32: M×c."""
    at_cells = F.interpolate(label[:, None].float(), size=maps.shape[2:], mode="nearest-exact")[:, 0]
    known = (at_cells != VOID) & (at_cells != ANOMALY)
    return maps.permute(0, 2, 3, 1)[known].float()

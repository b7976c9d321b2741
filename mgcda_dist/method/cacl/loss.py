"""CACL, sample level: the cross-domain contrastive loss over sampled pixels.

    L_cacl = mean_i -1/|P_i| Σ_{p∈P_i} log( e^{z_i·z_p/T} / ( e^{z_i·z_p/T} + Σ_{n∈N_i} e^{z_i·z_n/T} ) )

P_i: rows of the anchor's type, other domains first; N_i: rows of the opposite side of anomaly/inlier. They are rows of
the batch and of the memory (`rows`), or distributions in their place (`distributions`). An anchor without a positive
contributes nothing and is not counted. The mean may balance the sides (`groups_of_mean`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mgcda_dist.choices import Balance, CaclDefaults, Contrast, GatherDtype
from mgcda_dist.method.batch import Batch, Prediction, score_on_grid
from mgcda_dist.method.cacl.distributions import Distributions, contrast_expected, expected_similarity
from mgcda_dist.method.cacl.exchange import GatheredSample, PendingSample, gathered_sample, start_exchange
from mgcda_dist.method.cacl.projection import ProjectionHead
from mgcda_dist.method.cacl.queue import MemoryQueue, PixelMetadata, few_per_image
from mgcda_dist.method.cacl.rows import contrast_rows, share_of_rows
from mgcda_dist.method.cacl.sampler import (
    PIXEL,
    Budget,
    Pixels,
    describe_pixels,
    image_difficulty,
    image_quota,
    num_sent,
    sample_pixels,
    sent_rows,
)
from mgcda_dist.method.cacl.selection import Choice, Selection
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.method.randomness import stream_key, uniform
from mgcda_dist.method.reduce import LossTerm, StepCounts, local_mean

__all__ = ["CACL", "groups_of_mean"]

_EXTREME = 1e30
"""Stands for an infinite score: a mean of infinite difficulties could not be compared."""
_PURPOSES = (PIXEL, "sent rows", "rows", "contrast", "positives", "turn")
"""Of the draws in the loss."""
_PAIRS = "cacl/pairs"  # 2×2, per side of inlier and anomaly: positives, and those that cross domains


class _Contrasted(NamedTuple):
    """Anchors A and their loss before the mean over P_i, A; |P_i| and how many of them cross domains, of all R rows."""

    anchors: Tensor
    loss: Tensor
    num_positives: Tensor
    num_crossing: Tensor


class CACL(nn.Module):
    """Projection head, sampling budget, memory queue and the loss over them.

    Args:
        embedding_dim: D.
        num_domains: M.
        budget: how many pixels are sampled.
        selection: how positives and negatives are chosen.
        projection_dim: K.
        temperature: T; with a sharded memory in single precision at least 0.025, or e^{-2/T} leaves its range.
        queue_rows: memory rows per (domain, side).
        queue_rows_per_image: rows of each type that an image gives to the memory; None: all that are sampled.
        queue_shard: (rank, W) to shard the memory over ranks; None: replicated.
        balance: see `groups_of_mean`.
        contrast: with rows of batch and memory, or with `distributions`; these have no queue.
        distribution_momentum: see `Distributions`.
        unlabelled_confidence: see `sampler.describe_pixels`.
        max_rows: of a global micro-batch, drawn from those sampled; an image sends at most twice its share. None: all.
        gather_dtype: in which z travels between ranks; `bf16`: rounded to it.
        seed: of all draws.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_domains: int,
        budget: Budget,
        selection: Selection,
        *,
        projection_dim: int = CaclDefaults.projection_dim,
        temperature: float = CaclDefaults.temperature,
        queue_rows: int = CaclDefaults.queue_rows,
        queue_rows_per_image: int | None = CaclDefaults.queue_rows_per_image,
        queue_shard: tuple[int, int] | None = None,
        balance: Balance = CaclDefaults.balance,
        contrast: Contrast = CaclDefaults.contrast,
        distribution_momentum: float = CaclDefaults.distribution_momentum,
        unlabelled_confidence: float | None = CaclDefaults.unlabelled_confidence,
        max_rows: int | None = CaclDefaults.max_rows,
        gather_dtype: GatherDtype = CaclDefaults.gather_dtype,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.num_domains, self.budget, self.selection = num_domains, budget, selection
        self.temperature, self.seed = temperature, seed
        self.balance: Balance = balance
        self.max_rows = max_rows
        self.gather_dtype: GatherDtype = gather_dtype
        self.unlabelled_confidence, self.queue_rows_per_image = unlabelled_confidence, queue_rows_per_image
        self.projection = ProjectionHead(embedding_dim, projection_dim)
        self.distributions: Distributions | None = None
        if contrast == "distribution":
            queue_rows, queue_shard = 0, None
            self.distributions = Distributions(num_domains, budget.num_classes, projection_dim, distribution_momentum)
        self.queue = MemoryQueue(num_domains, budget.num_classes, queue_rows, projection_dim, queue_shard)

    def start(
        self,
        prediction: Prediction,
        batch: Batch,
        score: Callable[[Prediction], Tensor],
        counts: StepCounts,
        *,
        taught: Tensor | None = None,
        keys: Mapping[str, int] | None = None,
    ) -> PendingSample:
        """Sample this rank's pixels and start their all-gather; what runs before `forward` overlaps with it.

        Args:
            prediction: of the segmenter; logits and embedding on one grid.
            batch: of this rank.
            score: prediction → N×h×w at any stride, higher is more anomalous.
            counts: of the step; the difficulties of its images are summed over ranks beside them.
            taught: see `sampler.describe_pixels`.
            keys: `draw_keys` of the step; None: they are made here, which no compiler can follow.
        """
        pixels, keys = self._describe(prediction, batch, score, taught), keys or self.draw_keys(batch.step)
        mean, present = image_difficulty(pixels, self.budget.num_classes)
        quota, slot = self._quota(mean, present, counts), batch.slot
        index = sample_pixels(pixels, quota, self.budget, slot, self.seed, batch.step, keys[PIXEL])
        world = counts.collectives
        number = num_sent(self.budget, len(index) * world.size, self.max_rows)
        row = sent_rows(index, number, slot, keys["sent rows"])
        index = index.gather(1, row)
        z = self.project(prediction.embedding, index)
        pending = start_exchange(z, index, pixels.difficulty, batch, world, row=row, dtype=self.gather_dtype, keys=keys)
        return pending._replace(zero=0.0 * mean.sum().to(z.dtype))

    def forward(self, pending: PendingSample, counts: StepCounts) -> tuple[LossTerm, GatheredSample]:
        """L_cacl as this rank and micro-batch has it, and the sample that enters the memory.

        The mean runs over the anchors of a micro-batch, as `groups_of_mean` says, then over micro-batches: an anchor's
        positives and negatives come from its own micro-batch and the memory (docs/equations.md says how much that
        differs).
        """
        world = counts.collectives
        draw = partial(self._draw, pending, "rows", keys=pending.keys)
        sample = gathered_sample(pending, self.budget, world, self.max_rows, draw)
        total, num_anchors, pairs = self.contrast(sample, world, pending.keys)
        # The count is one micro-batch's. Difficulties that are no numbers would leave no row, and a loss of 0.
        local_loss = local_mean(total, num_anchors, world.size) + pending.zero
        once = int(world.rank == 0)  # every rank knows the numbers of all
        sums = {"loss/cacl": local_loss / counts.num_parts, "cacl/anchors": num_anchors.sum() * once}
        return LossTerm(local_loss, {**sums, _PAIRS: pairs * once}), sample

    def project(self, embedding: Tensor, index: Tensor) -> Tensor:
        """z of the sampled pixels: N×D×h×w, N×R → N·R×K; empty rows (index -1) give a value that is masked later."""
        # Channels last, as networks have them here: the gradient is laid out as what it is added to.
        by_pixel = embedding.permute(0, 2, 3, 1).flatten(1, 2)  # N×P×D
        pixel = index.clamp(min=0).unsqueeze(2).expand(-1, -1, by_pixel.shape[2])
        return self.projection(by_pixel.gather(1, pixel).flatten(0, 1))

    def draw_keys(self, step: int) -> dict[str, int]:
        """Keys of all draws of a step, by purpose: a function of the seed, for `uniform`."""
        return {purpose: stream_key(self.seed, step, purpose) for purpose in _PURPOSES}

    def contrast(
        self, sample: GatheredSample, collectives: Collectives, keys: Mapping[str, int] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Per group of the mean: Σ over a share of the anchors of their mean over positives, and the number of all.

        With a sharded memory Σ over all anchors of what the rows of this rank contribute: the sum over ranks is the
        same. An anchor without a positive contributes nothing and is not counted.

        Returns:
            G sums, G counts; and, of inliers and of anomalies, the positives of all ranks' anchors and those of another
            domain: 2×2.
        """
        groups = groups_of_mean(sample.metadata.type == self.budget.num_classes, self.balance)
        if self.distributions is None:
            found = self._against_rows(sample, collectives, keys)
        else:
            found = self._against_distributions(sample, self.distributions, collectives)
        per_anchor = found.loss / found.num_positives[found.anchors].clamp(min=1)
        total = torch.stack([(per_anchor * group[found.anchors]).sum() for group in groups]) + 0.0 * sample.z.sum()
        sides = groups_of_mean(sample.metadata.type == self.budget.num_classes, "sides")
        numbers = torch.stack([found.num_positives, found.num_crossing])
        pairs = (sides.unsqueeze(1) * numbers).sum(dim=2)  # a GPU has no matrix product of integers
        return total, (groups & (found.num_positives > 0)).sum(dim=1), pairs

    def _against_rows(
        self, sample: GatheredSample, collectives: Collectives, keys: Mapping[str, int] | None
    ) -> _Contrasted:
        """A share of the anchors, or all with a sharded memory."""
        candidates = PixelMetadata.concat(sample.metadata, self.queue.rows())
        choice = Choice.of(
            candidates,
            num_domains=self.num_domains,
            anomaly_type=self.budget.num_classes,
            selection=self.selection,
            draw=lambda purpose: self._draw(sample, purpose, candidates.id, keys=keys),
        )
        anchors, per_anchor = contrast_rows(sample, self.queue, choice, self.temperature, collectives)
        numbers = (choice.order.num_positives(), choice.order.num_crossing())
        return _Contrasted(anchors, per_anchor, *(number[: len(sample.metadata)] for number in numbers))

    def _against_distributions(
        self, sample: GatheredSample, distributions: Distributions, collectives: Collectives
    ) -> _Contrasted:
        """The same with distributions: a share of the anchors, whatever the layout of the memory."""
        positives, negatives = distributions.choose(sample.metadata.type, sample.metadata.domain, self.selection)
        anchors, is_anchor = share_of_rows(sample.metadata.is_filled, collectives.rank, collectives.size)
        expected = expected_similarity(sample.z[anchors], distributions.mean, distributions.variance, self.temperature)
        per_anchor = contrast_expected(*expected, positives[anchors], negatives[anchors]) * is_anchor
        others = sample.metadata.domain.unsqueeze(1) != distributions.groups()[0]
        return _Contrasted(anchors, per_anchor, positives.sum(dim=1), (positives & others).sum(dim=1))

    def remember(self, samples: Sequence[GatheredSample]) -> None:
        """Let the samples of a step's micro-batches enter the memory: no collective, every rank has them all."""
        entering = [self._entering(sample) for sample in samples]
        for sample, (rows, z) in zip(samples, entering, strict=True):
            self.queue.push(rows, z, sample.step)
        if self.distributions is not None:
            all_rows = PixelMetadata.concat(*(rows for rows, _ in entering))
            self.distributions.update(all_rows, torch.cat([z for _, z in entering]))

    def signals(self, step: int, totals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scalars that tell how the memory fares, and the share of positives that cross domains; NaN: no positives.

        Args:
            step: of training.
            totals: of the step, over ranks and micro-batches.
        """
        positives, crossing = totals[_PAIRS].unbind(dim=1)
        shares = dict(zip(("crossing_inlier", "crossing_anomaly"), crossing / positives, strict=True))
        return self.queue.signals(step) | (self.distributions.signals() if self.distributions else {}) | shares

    def _entering(self, sample: GatheredSample) -> tuple[PixelMetadata, Tensor]:
        """Rows that enter the memory: all, or of each image and type a few by draw."""
        rows = sample.metadata
        if self.queue_rows_per_image is None:
            return rows, sample.z
        image = rows.id // self.budget.rows_per_image
        few = few_per_image(image, rows.type, self._draw(sample, "memory", rows.id), self.queue_rows_per_image)
        return rows.emptied(few), sample.z

    def _draw(
        self,
        sample: PendingSample | GatheredSample,
        purpose: str,
        row: Tensor,
        *,
        keys: Mapping[str, int] | None = None,
    ) -> Tensor:
        """A number in [0, 1) per row id, R → R float64: a function of (seed, step, purpose, micro-batch, row)."""
        key = keys[purpose] if keys else stream_key(self.seed, sample.step, purpose)
        return uniform(key, sample.first_slot, row)

    @torch.no_grad()
    def _describe(
        self,
        prediction: Prediction,
        batch: Batch,
        score: Callable[[Prediction], Tensor],
        taught: Tensor | None,
    ) -> Pixels:
        """Type and difficulty of every pixel, on the grid that logits and embedding share."""
        logits, num_classes = _at_least_float32(prediction.logits.detach()), self.budget.num_classes
        if logits.shape[2:] != prediction.embedding.shape[2:]:
            grids = ("×".join(map(str, x.shape[2:])) for x in (prediction.embedding, logits))
            raise ValueError("the embedding is {} but the logits are {}: resize one to the other's grid".format(*grids))
        if logits.shape[1] != num_classes:
            raise ValueError(
                f"the segmenter has {logits.shape[1]} logits but the contrastive budget {num_classes} classes: make "
                "them one number (further columns belong into `Prediction.extra`)"
            )
        size = logits.shape[2], logits.shape[3]
        found = _at_least_float32(score(prediction._replace(logits=logits)))
        difficulty = score_on_grid(found.clamp(-_EXTREME, _EXTREME), size)  # what is no number stays so
        return describe_pixels(batch, logits, difficulty, self.unlabelled_confidence, taught)

    def _quota(self, mean: Tensor, present: Tensor, counts: StepCounts) -> Tensor:
        """Pixels that each image of this rank may give, N×2; image-aware shares need the difficulties of all ranks."""
        world, num_images = counts.collectives, len(mean)
        if not self.budget.image_aware:
            return image_quota(mean, present, self.budget)
        local = mean.new_zeros(2, world.size, num_images, 2)
        local[:, world.rank] = torch.stack([mean, present])
        everywhere = counts.sum_beside({"difficulty": local}, "difficulty")["difficulty"]
        quota = image_quota(everywhere[0].flatten(0, 1), everywhere[1].flatten(0, 1), self.budget)
        return quota.view(world.size, num_images, 2)[world.rank]


def groups_of_mean(is_anomaly: Tensor, balance: Balance) -> Tensor:
    """Groups of anchors, G×A bool from A: L_cacl = 1/|G| Σ_g 1/|g| Σ_{i∈g} …, over the groups that have an anchor."""
    return torch.ones_like(is_anomaly).unsqueeze(0) if balance == "anchors" else torch.stack([~is_anomaly, is_anomaly])


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))

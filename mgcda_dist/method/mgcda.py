"""THE PAPER: MGCDA around any segmenter (a reconstruction of arXiv 2308.08696).

    L = L_seg + α(p)·L_mdat + β(p)·L_cacl

`MGCDA.forward` returns this rank's share of L; `MGCDA.commit` moves the memory and the running accuracies once the step
is accepted. Besides the gradient reduction a step costs one gather (CACL) and two small sums (counts, values), and one
sum over the anchors where the memory is sharded.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from mgcda_dist.choices import CaclDefaults, MdatDefaults
from mgcda_dist.method.batch import Batch, MaskedSums, Prediction
from mgcda_dist.method.cacl.loss import CACL, GatheredSample
from mgcda_dist.method.cacl.sampler import Pixels, describe_pixels, image_difficulty, image_quota, sample_pixels
from mgcda_dist.method.collectives import Collectives, PendingSum, to_host
from mgcda_dist.method.mdat.loss import MDAT
from mgcda_dist.method.mdat.reversal import reversal_strength

__all__ = ["MGCDA", "Outcome", "ScoreFunction", "SegmentationLoss", "ramp"]


_NO_SIGNALS: Mapping[str, float] = MappingProxyType({})


class SegmentationLoss(Protocol):
    """L_seg: the first group is the cross-entropy over inliers, the others are the outlier term."""

    weights: tuple[float, ...]

    def __call__(self, logits: Tensor, label: Tensor) -> MaskedSums:
        """Sums and counts for N×C×h×w logits and N×H×W labels."""
        ...


class ScoreFunction(Protocol):
    """Anomaly score, higher is more anomalous."""

    def __call__(self, logits: Tensor, /) -> Tensor:
        """N×C×h×w → N×h×w."""
        ...


class Outcome(NamedTuple):
    """What one micro-batch gave.

    Attributes:
        loss: scalar to call backward on: this rank's share, so that averaging gradients over ranks gives the gradient
            of the global loss.
        values: pending sum over ranks of the logged values, named by `names`.
    """

    loss: Tensor
    step: int
    names: tuple[str, ...]
    values: PendingSum
    counts: Tensor
    sample: GatheredSample | None

    def terms(self) -> dict[str, float]:
        """Global value of each term; waits for the sum over ranks. Not finite on one rank means not finite on all."""
        return dict(zip(self.names, to_host(self.values.wait()[: len(self.names)]), strict=True))


class MGCDA(nn.Module):
    """A segmenter, trained with MDAT and CACL; nothing of either remains in `self.segmenter`.

    Args:
        segmenter: image → `Prediction`.
        segmentation_loss: L_seg.
        score: anomaly score that tells difficulty.
        mdat: scene level; None switches the term off.
        cacl: sample level; None switches the term off.
        segmentation_weight: of L_seg; 1, or 0 to switch the term off.
        mdat_weight, cacl_weight: α and β at full strength.
        mdat_warmup, cacl_warmup: share of training over which each rises linearly.
        collectives: over which ranks a global batch is spread.
    """

    def __init__(
        self,
        segmenter: nn.Module,
        segmentation_loss: SegmentationLoss,
        score: ScoreFunction,
        *,
        mdat: MDAT | None = None,
        cacl: CACL | None = None,
        segmentation_weight: float = 1.0,
        mdat_weight: float = MdatDefaults.weight,
        cacl_weight: float = CaclDefaults.weight,
        mdat_warmup: float = MdatDefaults.warmup,
        cacl_warmup: float = CaclDefaults.warmup,
        collectives: Collectives | None = None,
    ) -> None:
        super().__init__()
        self.segmenter, self.mdat, self.cacl = segmenter, mdat, cacl
        self.segmentation_loss, self.score = segmentation_loss, score
        self.segmentation_weight, self.mdat_weight, self.cacl_weight = segmentation_weight, mdat_weight, cacl_weight
        self.mdat_warmup, self.cacl_warmup = mdat_warmup, cacl_warmup
        self.collectives = collectives or Collectives()

    def forward(self, batch: Batch, progress: float, signals: Mapping[str, float] = _NO_SIGNALS) -> Outcome:
        """Losses of one micro-batch. Every rank runs every branch (law 3).

        Args:
            batch: this rank's slice.
            progress: p in [0, 1].
            signals: numbers that are averaged over ranks with the values, as `signal/NAME`: the trainer's wish to stop,
                or that its part of a checkpoint is written, so that agreeing costs no collective of its own. The
                names are the same on every rank.
        """
        num_ranks, rank, n = self.collectives.size, self.collectives.rank, len(batch.slot)
        prediction: Prediction = self.segmenter(batch.image)
        seg = self.segmentation_loss(prediction.logits, batch.label)

        # First sum over ranks: how many pixels, locations and images each mean runs over.
        counts = [seg.counts.to(torch.float64)]
        kept = self.mdat.kept(prediction.stages, batch.label) if self.mdat else []
        if self.mdat:
            counts.append(self.mdat.counts(kept, batch.domain).flatten())
        pixels = self._describe(batch, prediction, self.cacl.unlabelled_confidence) if self.cacl else None
        if self.cacl and pixels:
            mean, present = image_difficulty(pixels, self.cacl.budget.num_classes)
            difficulty = mean.new_zeros(num_ranks, 2, n, 2)
            difficulty[rank] = torch.stack([mean, present])
            counts.append(difficulty.flatten())
        pending_counts = self.collectives.start_sum(torch.cat(counts), "counts")

        parts = list(torch.split(pending_counts.wait(), [len(part) for part in counts]))
        seg_counts = parts.pop(0)
        stage_counts = parts.pop(0).view(len(self.mdat.stages), self.mdat.num_domains) if self.mdat else counts[0][:0]

        # Sample level: draw this rank's pixels, and send them.
        pending_rows = None
        if self.cacl and pixels:
            mean, present = parts.pop(0).view(num_ranks, 2, n, 2).transpose(0, 1).flatten(1, 2)  # 2 × B×2
            quota = image_quota(mean, present, self.cacl.budget)[rank * n : (rank + 1) * n]
            index = sample_pixels(pixels, quota, self.cacl.budget, batch.slot, self.cacl.seed, batch.step)
            z = self.cacl.project(prediction.embedding, index)
            pending_rows = self.cacl.send(z, index, pixels.difficulty, batch.domain, self.collectives)

        shares = seg.sums / seg_counts.clamp(min=1) * num_ranks
        weights = shares.new_tensor(self.segmentation_loss.weights)
        terms = {"loss/seg": (weights * shares)[0], "loss/outlier": (weights * shares)[1:].sum()}
        loss = self.segmentation_weight * (weights * shares).sum()

        # Scene level, while the rows travel; on the way back its gradients hide the sum of theirs.
        extra: list[Tensor] = []
        if self.mdat:
            domains = self.mdat(prediction.stages, batch.domain, kept, progress)
            terms["loss/mdat"] = self.mdat.share(domains, stage_counts, num_ranks)
            loss = loss + self.mdat_weight * ramp(progress, self.mdat_warmup) * terms["loss/mdat"]
            extra = [domains.correct.flatten(), domains.epsilon.flatten()]

        # Sample level: contrast.
        sample = None
        if self.cacl and pending_rows:
            sample = self.cacl.receive(pending_rows, self.collectives)
            first_slot = batch.slot[0] - rank * n
            terms["loss/cacl"], anchors = self.cacl.share(sample, batch.step, first_slot, self.collectives)
            # Every rank knows the number. One says it: W-ths of it add up to 56.00000000000001.
            terms["cacl/anchors"] = anchors.to(torch.float64) * (num_ranks if rank == 0 else 0)
            loss = loss + self.cacl_weight * ramp(progress, self.cacl_warmup) * terms["loss/cacl"]

        # Second sum over ranks: the values to log and the discriminators' hits; nothing waits for it before `terms`.
        terms["loss/total"] = loss
        terms["data/bad_samples"] = loss.new_tensor(float(len(batch.bad) * num_ranks))
        terms |= {f"signal/{name}": loss.new_tensor(signal) for name, signal in signals.items()}
        logged = torch.stack([term.detach().to(torch.float64) for term in terms.values()]) / num_ranks
        values = self.collectives.start_sum(torch.cat([logged, *extra]), "values")
        return Outcome(loss, batch.step, tuple(terms), values, stage_counts, sample)

    def _describe(self, batch: Batch, prediction: Prediction, unlabelled_confidence: float | None) -> Pixels:
        """Type and difficulty of every pixel, on the grid that logits and embedding share."""
        logits = prediction.logits.detach().float()
        if logits.shape[2:] != prediction.embedding.shape[2:]:
            grids = ("×".join(map(str, x.shape[2:])) for x in (prediction.embedding, logits))
            raise ValueError("the embedding is {} but the logits are {}: resize one to the other's grid".format(*grids))
        assert self.cacl is not None
        num_classes, abstains = self.cacl.budget.num_classes, bool(getattr(self.segmenter, "abstains", False))
        if logits.shape[1] - num_classes not in (0, int(abstains)):
            raise ValueError(
                f"the segmenter has {logits.shape[1]} logits but the contrastive budget {num_classes} classes: make "
                "them one number (a logit more, abstention's, is for segmenters with `abstains`)"
            )
        logits = logits[:, :num_classes]  # without abstention's, which some losses train
        return describe_pixels(batch.label, logits, self.score(logits), unlabelled_confidence)

    def commit(self, outcome: Outcome) -> None:
        """Accept a micro-batch: move A_s and fill the memory. All state of the method lives in buffers (law 4)."""
        if self.mdat:
            hits = outcome.values.wait()[len(outcome.names) :].view(2, *outcome.counts.shape)
            self.mdat.update(hits[0], outcome.counts)
        if self.cacl and outcome.sample is not None:
            self.cacl.queue.push(outcome.sample.rows, outcome.sample.z, outcome.step)

    def health(self, outcome: Outcome, progress: float) -> dict[str, float]:
        """Signals of a dead or overpowering part, named as they are logged."""
        signals: dict[str, float] = {}
        if self.mdat:
            signals["mdat/lambda"] = reversal_strength(progress, self.mdat.lambda_max)
            epsilon = outcome.values.wait()[len(outcome.names) :].view(2, *outcome.counts.shape)[1]
            mean_epsilon = epsilon.sum(dim=1) / outcome.counts.sum(dim=1).clamp(min=1)
            chance = 1.0 / self.mdat.num_domains
            for stage, accuracy, eps in zip(
                self.mdat.stages, to_host(self.mdat.accuracy), to_host(mean_epsilon), strict=True
            ):
                signals[f"mdat/{stage}/accuracy"] = accuracy
                signals[f"mdat/{stage}/accuracy_over_chance"] = accuracy / chance
                signals[f"mdat/{stage}/epsilon"] = eps
                signals[f"mdat/{stage}/a_distance"] = max(0.0, 2.0 * (1.0 - (1.0 - accuracy) / (1.0 - chance)))
        if self.cacl:
            signals |= {f"cacl/{name}": value for name, value in self.cacl.queue.health(outcome.step).items()}
        return signals


def ramp(progress: float, warmup: float) -> float:
    """α(p) and β(p) as a share of full strength: a linear rise over `warmup`, then 1."""
    return min(1.0, progress / warmup) if warmup > 0 else 1.0

"""MGCDA around any segmenter: the total loss (a reconstruction of arXiv 2308.08696).

    L = L_seg + α(p)·L_mdat + β(p)·L_cacl + γ(p)·L_teacher

One optimizer step over A micro-batches:

    counts = model.count(batches)                                             # from the labels of the whole step
    outcomes = [model(batch, progress, counts) for batch in batches]          # call backward on each loss / A
    totals = model.total(outcomes)                                            # values and running state, over ranks
    model.commit(outcomes, totals)                                            # once the optimizer has stepped

Besides the gradient reduction a step costs two small sums (counts, values), and each micro-batch one gather (CACL).
Image-aware sampling adds one sum to each micro-batch after the first, a sharded memory one to every micro-batch, and
with negatives by similarity one more gather.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn

from mgcda_dist.choices import CaclDefaults, Exported, MdatDefaults, TeacherDefaults
from mgcda_dist.method.batch import VOID, Batch, Prediction
from mgcda_dist.method.cacl.exchange import GatheredSample, PendingSample
from mgcda_dist.method.cacl.loss import CACL
from mgcda_dist.method.collectives import Collectives, to_device
from mgcda_dist.method.forwards import ForwardContext, drawing_modules, telling
from mgcda_dist.method.mdat.loss import MDAT
from mgcda_dist.method.reduce import LossTerm, NamedSum, NamedTensors, StepCounts, known, local_mean, read_scalars
from mgcda_dist.method.teacher.average import Teacher
from mgcda_dist.method.teacher.labels import Taught, num_teachable, taught_sum
from mgcda_dist.method.terms import LossContext, Weight, weight_at

__all__ = ["MGCDA", "Outcome", "ScoreFunction", "SegmentationLoss", "StepNumbers", "ramp"]

_OFF = LossTerm(torch.zeros(()), {})
_TEACHABLE = "teacher/pixels"
_NOTHING: Mapping[str, float] = MappingProxyType({})


class SegmentationLoss(Protocol):
    """L_seg = Σ_name weights[name] · (sum / count of that name over ranks and micro-batches).

    Attributes:
        num_classes: C.
        weights: by name; the first is how inliers are classified, the others are the outlier loss.
        reported: names whose own value is logged, as `outlier/NAME`.
    """

    num_classes: int
    weights: Mapping[str, Weight]
    reported: Collection[str]

    def counts(self, label: Tensor) -> dict[str, Tensor]:
        """Number of pixels per name for labels N×H×W, int64: no prediction is needed to know it."""
        ...

    def __call__(self, prediction: Prediction, label: Tensor, context: LossContext) -> dict[str, Tensor]:
        """Local sums per name for a prediction and labels N×H×W, int64."""
        ...

    def inlier_sum(self, logits: Tensor, inlier: Tensor) -> Tensor:
        """Sum of the outlier loss over inliers of unknown class: N×C×h×w logits, N×h×w bool → scalar."""
        ...


class ScoreFunction(Protocol):
    """Anomaly score, higher is more anomalous."""

    def __call__(self, prediction: Prediction, /) -> Tensor:
        """N×h×w, at any stride."""
        ...


class _Sizes(NamedTuple):
    """Height and width of every stage by name, and of the logits, for images of one size."""

    stages: dict[str, tuple[int, int]]
    logits: tuple[int, int]


class Outcome(NamedTuple):
    """The result of one micro-batch.

    Attributes:
        loss: scalar to call backward on: this part's share, so that averaging gradients over ranks and micro-batches
            gives the gradient of the loss of the step.
        sums: local parts of the named sums of the step.
        counts: of the step.
        step: of training.
        sample: for the memory; None without CACL.
    """

    loss: Tensor
    sums: dict[str, Tensor]
    counts: StepCounts
    step: int
    sample: GatheredSample | None


class StepNumbers(NamedTuple):
    """Numbers of a step that the host computes: in a graph of a compiler they would be constants, or in nobody's reach.

    Attributes:
        keys: of the draws of CACL, by purpose.
        strength: λ(p) of MDAT.
    """

    keys: dict[str, int]
    strength: float


class MGCDA(nn.Module):
    """A segmenter, trained with MDAT and CACL; nothing of either remains in `self.segmenter`.

    Args:
        segmenter: image → `Prediction`.
        segmentation_loss: L_seg.
        score: anomaly score that tells difficulty.
        mdat: scene level; None switches the term off.
        cacl: sample level; None switches the term off.
        teacher: average of the segmenter, which labels unlabelled images; None: there is none.
        heads: prediction → prediction with more extras, for losses; like the discriminators dropped at export.
        frozen: parts of the segmenter that do not learn, and stay in evaluation mode.
        segmentation_weight: of L_seg; 1, or 0 to switch the term off.
        mdat_weight, cacl_weight, teacher_weight: α, β and γ at full strength.
        teacher_outlier_weight: ω, of the outlier loss on pixels that the teacher takes for inliers.
        mdat_warmup, cacl_warmup, teacher_warmup: share of training over which each rises linearly.
        teacher_contrast: pixels that the teacher labels are rows of CACL, too.
        seed: of the random numbers that a loss or a forward pass may ask for.
        collectives: over which ranks a global batch is spread.

    Attributes:
        looks_at_first: set for a loop of one's own: what the first batch holds is looked at on any device. On
            processors that of every batch is.
    """

    def __init__(
        self,
        segmenter: nn.Module,
        segmentation_loss: SegmentationLoss,
        score: ScoreFunction,
        *,
        mdat: MDAT | None = None,
        cacl: CACL | None = None,
        teacher: Teacher | None = None,
        heads: nn.Module | None = None,
        frozen: Sequence[nn.Module] = (),
        segmentation_weight: float = 1.0,
        mdat_weight: float = MdatDefaults.weight,
        cacl_weight: float = CaclDefaults.weight,
        mdat_warmup: float = MdatDefaults.warmup,
        cacl_warmup: float = CaclDefaults.warmup,
        teacher_weight: float = TeacherDefaults.weight,
        teacher_outlier_weight: float = TeacherDefaults.outlier_weight,
        teacher_contrast: bool = TeacherDefaults.contrast,
        teacher_warmup: float = TeacherDefaults.warmup,
        seed: int = 0,
        collectives: Collectives | None = None,
    ) -> None:
        super().__init__()
        self.segmenter, self.mdat, self.cacl, self.teacher, self.heads = segmenter, mdat, cacl, teacher, heads
        self.segmentation_loss, self.score = segmentation_loss, score
        self.segmentation_weight, self.mdat_weight, self.cacl_weight = segmentation_weight, mdat_weight, cacl_weight
        self.mdat_warmup, self.cacl_warmup = mdat_warmup, cacl_warmup
        self.teacher_weight, self.teacher_warmup = teacher_weight, teacher_warmup
        self.teacher_contrast, self.teacher_outlier_weight = teacher_contrast, teacher_outlier_weight
        self.seed, self.collectives = seed, collectives or Collectives()
        self._frozen, self._sizes = list(frozen), dict[tuple[int, int], _Sizes]()
        self.looks_at_first = False
        self._drawing = [module for _, module in drawing_modules(segmenter, heads)]
        self._rest()

    def train(self, mode: bool = True) -> Self:
        """As of any module, but for the parts that do not learn."""
        super().train(mode)
        self._rest()
        return self

    def _rest(self) -> None:
        for part in self._frozen:
            part.eval()

    def forward(self, batch: Batch, progress: float, counts: StepCounts | None = None) -> Outcome:
        """Loss of one micro-batch. Every rank computes every term (law 3).

        Args:
            batch: this rank's slice.
            progress: p in [0, 1].
            counts: of the step, from `count`; None: the step has this one micro-batch.

        Raises:
            ValueError: a batch that cannot be counted, see `Batch.check`; a progress that is none.
        """
        if not 0 <= progress <= 1:
            raise ValueError(f"the progress is {progress}: it must be the share of training that is done, 0…1")
        counts, numbers = counts or self.count([batch]), self.numbers(batch.step, progress)
        with telling(self._drawing, ForwardContext(batch.step, progress, batch.slot, self.seed)):
            return self.loss(self.segmenter(batch.image), batch, progress, counts, numbers)

    def numbers(self, step: int, progress: float) -> StepNumbers:
        """Those of a step that `loss` needs from the host."""
        keys = self.cacl.draw_keys(step) if self.cacl else {}
        return StepNumbers(keys, self.mdat.strength(progress) if self.mdat else 0.0)

    def loss(
        self, prediction: Prediction, batch: Batch, progress: float, counts: StepCounts, numbers: StepNumbers
    ) -> Outcome:
        """L of a prediction: all that follows the segmenter, in one graph that a compiler can trace with one rank.

        Args:
            prediction: of the segmenter.
            batch, progress, counts: as of `forward`.
            numbers: of the step.
        """
        if self.heads is not None:
            prediction = self.heads(prediction)
        taught = self._teach(prediction, batch)
        # Its all-gather is in flight while MDAT computes.
        pending = self._start_cacl(prediction, batch, taught, counts, numbers.keys)

        seg = self.segmentation(prediction, batch, progress, counts)
        mdat = self.mdat(prediction, batch, progress, counts, numbers.strength) if self.mdat else _OFF
        cacl, sample = self.cacl(pending, counts) if self.cacl else (_OFF, None)
        teacher = self.taught(prediction, taught, counts) if taught else _OFF
        alpha = self.mdat_weight * ramp(progress, self.mdat_warmup)
        beta = self.cacl_weight * ramp(progress, self.cacl_warmup)
        gamma = self.teacher_weight * ramp(progress, self.teacher_warmup)
        loss = seg.local_loss + alpha * mdat.local_loss + beta * cacl.local_loss + gamma * teacher.local_loss

        sums = {**seg.sums, **mdat.sums, **cacl.sums, **teacher.sums, "loss/total": loss / counts.num_parts}
        return Outcome(loss, {name: x.detach() for name, x in sums.items()}, counts, batch.step, sample)

    def segmentation(self, prediction: Prediction, batch: Batch, progress: float, counts: StepCounts) -> LossTerm:
        """L_seg: classification of inliers, and the outlier loss."""
        context = LossContext(batch.step, progress, batch.slot, self.seed)
        sums, totals = self.segmentation_loss(prediction, batch.wide_label, context), counts.total()
        weights = self.segmentation_loss.weights
        terms = torch.stack(
            [
                weight_at(weight, progress) * local_mean(sums[name], totals[f"seg/{name}"], counts.num_parts)
                for name, weight in weights.items()
            ]
        )
        values = {"loss/seg": terms[0] / counts.num_parts, "loss/outlier": terms[1:].sum() / counts.num_parts}
        own = {name: terms[i] for i, name in enumerate(weights) if name in self.segmentation_loss.reported}
        values |= {f"outlier/{name}": term / counts.num_parts for name, term in own.items()}
        return LossTerm(self.segmentation_weight * terms.sum(), values)

    def taught(self, prediction: Prediction, taught: Taught, counts: StepCounts) -> LossTerm:
        """L_teacher: its labels, and the normal side of the outlier loss; and the share of pixels that it labels."""
        total, logits = counts.total()[_TEACHABLE], prediction.logits
        local_sum = taught_sum(logits, taught)
        if self.teacher_outlier_weight > 0:
            local_sum = local_sum + self.teacher_outlier_weight * self.segmentation_loss.inlier_sum(
                logits, taught.inlier
            )
        local_loss = local_mean(local_sum, total, counts.num_parts)
        labelled = (taught.label != VOID).sum() / total.clamp(min=1)
        return LossTerm(local_loss, {"loss/teacher": local_loss / counts.num_parts, "teacher/labelled": labelled})

    def count(self, batches: Sequence[Batch]) -> StepCounts:
        """Counts of one step, from the labels of this rank's part of all its micro-batches."""
        local = _summed([self._counts(batch) for batch in batches])
        counts = StepCounts(local, len(batches), self.collectives)
        # Image-aware sampling sums difficulties after the forward pass; the counts share that collective.
        return counts if self.cacl and self.cacl.budget.image_aware else counts.start()

    def total(self, outcomes: Sequence[Outcome], beside: Mapping[str, float] = _NOTHING) -> NamedSum:
        """Start the sum over ranks and micro-batches of a step's values; it is awaited when it is read.

        Args:
            outcomes: of all micro-batches of the step.
            beside: this rank's part of other named sums, which then cost no collective of their own; the same names on
                every rank.

        Raises:
            ValueError: not the outcomes of one step.
        """
        counted = outcomes[0].counts.num_parts // self.collectives.size
        if len(outcomes) != counted:
            raise ValueError(
                f"{len(outcomes)} outcomes of micro-batches that were counted as {counted}: "
                "counts = model.count(batches) before, and model(batch, progress, counts) for each"
            )
        local, loss = _summed([outcome.sums for outcome in outcomes]), outcomes[0].loss
        others = to_device(list(beside.values()), loss.device)
        return NamedSum({**local, **dict(zip(beside, others, strict=True))}, self.collectives, "values")

    def commit(self, outcomes: Sequence[Outcome], totals: NamedSum) -> None:
        """Accept a step: move A_s and the teacher once, and fill the memory.

        All state of the method lives in buffers (law 4). A teacher reads the segmenter's parameters, which have to be
        whole where an engine slices them.
        """
        if self.mdat:
            self.mdat.update(totals.wait(), outcomes[0].counts)
        if self.cacl:
            self.cacl.remember([outcome.sample for outcome in outcomes if outcome.sample is not None])
        if self.teacher:
            self.teacher.follow(self.segmenter, outcomes[0].step)

    def health(self, outcomes: Sequence[Outcome], totals: NamedSum, progress: float) -> dict[str, float]:
        """Signals of a dead or overpowering part, named as they are logged."""
        summed, counts, step = totals.wait(), outcomes[0].counts, outcomes[0].step
        mdat = self.mdat.signals(summed, counts) if self.mdat else {}
        cacl = self.cacl.signals(step, summed) if self.cacl else {}
        values = known(read_scalars(mdat | {f"cacl/{name}": value for name, value in cacl.items()}))
        return values | (self.mdat.derived(values, progress) if self.mdat else {})

    def network(self, kind: Exported) -> nn.Module:
        """The bare network that is validated and exported: the segmenter, or the teacher's average of it."""
        if kind == "student":
            return self.segmenter
        if self.teacher is None:
            raise ValueError("there is no average to export: the model has no teacher")
        return self.teacher.network

    def stage_sizes(self, height: int, width: int) -> dict[str, tuple[int, int]]:
        """Height and width of every stage's feature map for images H×W, measured once per size with one image.

        Call it before an engine slices the parameters; the network runs in evaluation mode, without gradient.
        """
        return self._sizes_of(height, width).stages

    def _sizes_of(self, height: int, width: int) -> _Sizes:
        if (height, width) not in self._sizes:
            device = next(self.parameters()).device
            training = self.segmenter.training
            with torch.no_grad():
                image = torch.zeros(1, 3, height, width, dtype=torch.uint8, device=device)
                prediction: Prediction = self.segmenter.eval()(image)
            self.segmenter.train(training)
            self._rest()
            stages, logits = prediction.stages, prediction.logits
            stage_sizes = {name: (x.shape[2], x.shape[3]) for name, x in stages.items()}
            self._sizes[height, width] = _Sizes(stage_sizes, (logits.shape[2], logits.shape[3]))
        return self._sizes[height, width]

    def _counts(self, batch: Batch) -> dict[str, Tensor]:
        part = self.mdat or self.cacl
        # On a GPU the host would wait for what it looks at; on `meta` there is nothing to see.
        looks = batch.label.device.type == "cpu" or (self.looks_at_first and not batch.label.is_meta)
        batch.check(self.segmentation_loss.num_classes, part.num_domains if part else None, looks=looks)
        self.looks_at_first = self.looks_at_first and not looks
        seg = {f"seg/{name}": number for name, number in self.segmentation_loss.counts(batch.wide_label).items()}
        size = batch.label.shape[1], batch.label.shape[2]
        mdat = self.mdat.counts(batch, self.stage_sizes(*size)) if self.mdat else {}
        teacher = {_TEACHABLE: num_teachable(batch, self._sizes_of(*size).logits)} if self._teaches else {}
        return seg | mdat | teacher

    @property
    def _teaches(self) -> bool:
        """True where something reads the teacher's labels."""
        contrasts = self.teacher_contrast and self.cacl is not None
        return self.teacher is not None and (self.teacher_weight > 0 or contrasts)

    def _teach(self, prediction: Prediction, batch: Batch) -> Taught | None:
        """The teacher's labels for the unlabelled images, on the grid of the logits; None: nobody reads them."""
        size = prediction.logits.shape[2], prediction.logits.shape[3]
        return self.teacher(batch, self.score, size) if self.teacher and self._teaches else None

    def _start_cacl(
        self,
        prediction: Prediction,
        batch: Batch,
        taught: Taught | None,
        counts: StepCounts,
        keys: Mapping[str, int],
    ) -> PendingSample | None:
        if self.cacl is None:
            return None
        label = taught.label if taught and self.teacher_contrast else None
        return self.cacl.start(prediction, batch, self.score, counts, taught=label, keys=keys)


def _summed(parts: Sequence[NamedTensors]) -> dict[str, Tensor]:
    """Sums over micro-batches, by name, float64."""
    return {name: torch.stack([part[name].to(torch.float64) for part in parts]).sum(dim=0) for name in parts[0]}


def ramp(progress: float, warmup: float) -> float:
    """α(p), β(p) and γ(p) as a share of full strength: a linear rise over `warmup`, then 1."""
    return min(1.0, progress / warmup) if warmup > 0 else 1.0

"""MDAT, scene level: the multi-source, multi-stage domain adversarial loss.

    L_mdat = Σ_s w_s · mean over domains m of mean over locations of images with d = m of CE(D_s(f_s), q_s(d))

Balanced over domains by construction: a domain with more images does not win. Two players: the discriminators D_s
minimise L_mdat; the features f_s are given -λ times the gradient of CE(D_s(f_s), target), or λ times it where the
target is uniform (`smoothing.feature_epsilon`); of a discriminator that answers for each class, CE within the class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mgcda_dist.choices import Condition, FeatureTarget, MdatDefaults
from mgcda_dist.method.batch import Batch, Prediction
from mgcda_dist.method.mdat.conditioning import certainty, class_conditional, class_probabilities, outer_product
from mgcda_dist.method.mdat.discriminators import PatchDiscriminator
from mgcda_dist.method.mdat.masks import CellMasks, cell_masks
from mgcda_dist.method.mdat.reversal import reversal_strength, reverse_gradient
from mgcda_dist.method.mdat.smoothing import LabelSmoothing, feature_epsilon, smoothed_cross_entropy
from mgcda_dist.method.reduce import LossTerm, StepCounts, local_mean

__all__ = ["MDAT", "Answer"]

# Counts, then sums, per stage and domain: S×M.
_CELLS, _LOCATIONS, _NEAR, _FAR = "mdat/cells", "mdat/locations", "mdat/near", "mdat/far"
_HITS, _NEAR_HITS, _FAR_HITS, _EPSILON = "mdat/hits", "mdat/near_hits", "mdat/far_hits", "mdat/epsilon"


class Answer(NamedTuple):
    """A discriminator's answer, all N×M×h×w.

    Attributes:
        logits: of the domains.
        log_p: log-probabilities for the discriminator's cross-entropy.
        features_log_p: … for that of the features; others than `log_p` where the discriminator answers for each class.
    """

    logits: Tensor
    log_p: Tensor
    features_log_p: Tensor


class MDAT(nn.Module):
    """One discriminator per stage.

    Args:
        stage_channels: channels of each discriminated stage, in order; the keys name the stages.
        num_domains: M ≥ 2.
        stage_weights: w_s, in the same order; None: all 1.
        smoothing: how ε is chosen.
        lambda_max: ceiling of λ(p).
        channels: width of a discriminator.
        momentum: of the running accuracy A_s.
        target: of the features.
        condition: how a discriminator is told the predicted class.
        certainty: weigh locations by the certainty of the prediction.
        num_classes: C, where class predictions are used.
        mask_anomalies: leave anomalous and void pixels out (align roads, not pasted toasters).
        reach_px: per stage, how far a location sees beyond itself (`receptive_field.reach_px`): those that see an
            anomaly are left out, too; None: only those that show one.
        domain_names: for what is logged; None: their numbers.
    """

    accuracy: Tensor

    def __init__(
        self,
        stage_channels: Mapping[str, int],
        num_domains: int,
        *,
        stage_weights: Sequence[float] | None = None,
        smoothing: LabelSmoothing | None = None,
        lambda_max: float = MdatDefaults.lambda_max,
        channels: int = MdatDefaults.channels,
        momentum: float = MdatDefaults.momentum,
        target: FeatureTarget = MdatDefaults.target,
        condition: Condition = MdatDefaults.condition,
        certainty: bool = MdatDefaults.certainty,
        num_classes: int = 1,
        mask_anomalies: bool = MdatDefaults.mask_anomalies,
        reach_px: Sequence[int] | None = None,
        domain_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if num_domains < 2:
            raise ValueError(f"MDAT needs at least two domains, not {num_domains}: there is nothing to align")
        self.num_domains, self.num_classes = num_domains, num_classes
        self.domain_names = tuple(domain_names) if domain_names is not None else tuple(map(str, range(num_domains)))
        self.stages = tuple(stage_channels)
        self.weights = tuple(stage_weights) if stage_weights is not None else (1.0,) * len(self.stages)
        self.smoothing = smoothing or LabelSmoothing()
        self.lambda_max, self.momentum, self.mask_anomalies = lambda_max, momentum, mask_anomalies
        self.target: FeatureTarget = target
        self.condition: Condition = condition
        self.certainty = certainty
        seen = num_classes if condition == "outer" else 1
        answers = num_domains * (num_classes if condition == "class" else 1)
        self.discriminators = nn.ModuleDict(
            {name: PatchDiscriminator(width * seen, answers, channels) for name, width in stage_channels.items()}
        )
        self.register_buffer("accuracy", torch.full((len(self.stages),), 1.0 / num_domains))
        self.reach_px = reach_px

    def masks(self, batch: Batch, stage_sizes: Mapping[str, tuple[int, int]]) -> list[CellMasks]:
        """Per stage masks over the locations of its discriminator.

        Args:
            batch: its labels.
            stage_sizes: height and width of the feature map of every stage.
        """
        reach = self.reach_px or [None] * len(self.stages)
        sizes = [PatchDiscriminator.output_size(*stage_sizes[name]) for name in self.stages]
        return cell_masks(batch, sizes, mask_anomalies=self.mask_anomalies, reach_px=reach)

    def counts(self, batch: Batch, stage_sizes: Mapping[str, tuple[int, int]]) -> dict[str, Tensor]:
        """Local numbers of cells per stage and domain, S×M: they follow from the labels, before any forward pass.

        All of them, those that are aligned (the locations of L_mdat), near to objects and far from them.
        """
        member = self._member(batch.domain)
        per_stage = [
            _per_domain([torch.ones_like(masks.aligned), *masks], member) for masks in self.masks(batch, stage_sizes)
        ]
        kinds = torch.stack(per_stage, dim=1)  # 4×S×M
        return dict(zip((_CELLS, _LOCATIONS, _NEAR, _FAR), kinds.unbind(), strict=True))

    def strength(self, progress: float) -> float:
        """λ(p)."""
        return reversal_strength(progress, self.lambda_max)

    def forward(
        self,
        prediction: Prediction,
        batch: Batch,
        progress: float,
        counts: StepCounts,
        strength: float | None = None,
    ) -> LossTerm:
        """L_mdat as this rank and micro-batch has it.

        Args:
            prediction: its stages N×c×h×w by name, and logits for what is conditional.
            batch: labels and domains.
            progress: p in [0, 1].
            counts: of the step, with those of `counts`.
            strength: λ(p); None: it is computed here.
        """
        masks = self.masks(batch, {name: (x.shape[2], x.shape[3]) for name, x in prediction.stages.items()})
        locations, domain, member = counts.total()[_LOCATIONS], batch.domain, self._member(batch.domain)
        strength = self.strength(progress) if strength is None else strength
        local_losses: list[Tensor] = []
        sums: list[Tensor] = []
        for s, (name, mask) in enumerate(zip(self.stages, masks, strict=True)):
            features, logits = prediction.stages[name], prediction.logits
            one_pass = self.target == "smoothed" and self.condition != "class"  # both players have one loss
            answer = self.answer(name, reverse_gradient(features, strength) if one_pass else features.detach(), logits)
            epsilon = self.smoothing.per_image(answer.logits, domain, mask.aligned, self.accuracy[s], progress)  # N
            ce = smoothed_cross_entropy(answer.log_p, domain, epsilon)  # N×h×w
            if not one_pass:
                towards = feature_epsilon(self.target, epsilon, self.num_domains)
                sign = -1.0 if self.target == "uniform" else 1.0
                again = self.answer(name, reverse_gradient(features, sign * strength), logits, learns=False)
                theirs = smoothed_cross_entropy(again.features_log_p, domain, towards)
                ce = ce + (theirs - theirs.detach())  # its gradient alone: the value is the discriminator's
            if self.certainty:
                ce = ce * certainty(class_probabilities(logits, self.num_classes, (ce.shape[1], ce.shape[2])))
            hit = answer.logits.detach().argmax(dim=1) == domain.view(-1, 1, 1)
            hits = [hit & cells for cells in mask]
            per_domain = _per_domain([ce * mask.aligned, *hits, epsilon.view(-1, 1, 1) * mask.aligned], member)
            local_losses.append(self.weights[s] * local_mean(per_domain[0], locations[s], counts.num_parts))
            sums.append(per_domain[1:].detach())
        local_loss = torch.stack(local_losses).sum()
        kinds = torch.stack(sums, dim=1)  # 4×S×M
        named = dict(zip((_HITS, _NEAR_HITS, _FAR_HITS, _EPSILON), kinds.unbind(), strict=True))
        return LossTerm(local_loss, {"loss/mdat": local_loss / counts.num_parts, **named})

    def answer(self, name: str, features: Tensor, logits: Tensor, *, learns: bool = True) -> Answer:
        """D_s of features N×c×h×w, told the classes of N×C×H×W logits if it is conditional.

        Args:
            learns: gradients reach the parameters of D_s, too.
        """
        if self.condition == "outer":
            size = (features.shape[2], features.shape[3])
            features = outer_product(features, class_probabilities(logits, self.num_classes, size))
        answer: Tensor = self.discriminators[name](features, learns=learns)
        answer = answer.to(torch.promote_types(answer.dtype, torch.float32))
        if self.condition == "class":
            size = (answer.shape[2], answer.shape[3])
            return Answer(*class_conditional(answer, class_probabilities(logits, self.num_classes, size)))
        log_p = answer.log_softmax(dim=1)
        return Answer(answer, log_p, log_p)

    @torch.no_grad()
    def update(self, totals: Mapping[str, Tensor], counts: StepCounts) -> None:
        """Move A_s towards the domain-balanced accuracy of a step, given its sums over ranks and micro-batches."""
        locations = counts.total()[_LOCATIONS]
        balanced = _balanced(totals[_HITS], locations)
        moved = self.momentum * self.accuracy + (1.0 - self.momentum) * balanced
        self.accuracy.copy_(torch.where(balanced.isnan(), self.accuracy, moved))

    def signals(self, totals: Mapping[str, Tensor], counts: StepCounts) -> dict[str, Tensor]:
        """Scalars that tell how the discriminators fare, named as they are logged.

        Per stage A_s, mean ε, and of the step's batch the share of cells that are aligned, the accuracy in each domain,
        and near to objects and far from them, over the domains that have both; NaN for a share of no location.
        """
        counted = counts.total()
        cells, locations = counted[_CELLS], counted[_LOCATIONS]
        near, far = _compared(totals[_NEAR_HITS] / counted[_NEAR], totals[_FAR_HITS] / counted[_FAR])
        columns = {
            "accuracy": self.accuracy.to(torch.float64),
            "epsilon": totals[_EPSILON].sum(dim=1) / locations.sum(dim=1).clamp(min=1),
            "aligned_share": locations.sum(dim=1) / cells.sum(dim=1),
            "near_objects": near,
            "far_from_objects": far,
        }
        for kind, of_domains in {"domain": totals[_HITS] / locations, "aligned": locations / cells}.items():
            by_name = zip(self.domain_names, of_domains.unbind(dim=1), strict=True)
            columns |= {f"{kind}/{name}": share for name, share in by_name}
        return {
            f"mdat/{stage}/{name}": column[s] for s, stage in enumerate(self.stages) for name, column in columns.items()
        }

    def derived(self, signals: Mapping[str, float], progress: float) -> dict[str, float]:
        """λ, and what follows from the values of `signals`: per stage A_s over chance, and the proxy A-distance."""
        chance, found = 1.0 / self.num_domains, {"mdat/lambda": self.strength(progress)}
        for stage in self.stages:
            accuracy = signals[f"mdat/{stage}/accuracy"]
            found[f"mdat/{stage}/accuracy_over_chance"] = accuracy / chance
            found[f"mdat/{stage}/a_distance"] = max(0.0, 2.0 * (1.0 - (1.0 - accuracy) / (1.0 - chance)))
        return found

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MDAT:
        # Cast to bf16, a running mean would stand still: a step moves it by less than the format resolves.
        exact = self.accuracy
        super()._apply(fn, recurse)  # pyright: ignore[reportUnknownMemberType]
        if self.accuracy.element_size() < 4:
            self.accuracy = exact.to(self.accuracy.device, torch.float32)
        return self

    def _member(self, domain: Tensor) -> Tensor:
        """1 where an image is of a domain, else 0: N → N×M, float64."""
        # Location counts of large clusters pass 2^24, where float32 stops counting.
        return F.one_hot(domain, self.num_domains).to(torch.float64)


def _per_domain(per_location: Sequence[Tensor], member: Tensor) -> Tensor:
    """Sums of K values per location over the images of each domain: K times N×h×w, N×M → K×M, float64."""
    return torch.stack([each.sum(dim=(1, 2)).to(torch.float64) for each in per_location]) @ member


def _balanced(hits: Tensor, locations: Tensor) -> Tensor:
    """Mean over the domains present of hits / locations: S×M, S×M → S; NaN where there is none."""
    return (hits / locations).nanmean(dim=1)


def _compared(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Means of two shares over the domains that have both: S×M, S×M → S, S; NaN where there is none.

    Over all domains that have it, each would be of other domains, which are not equally easy to tell.
    """
    unknown = one.isnan() | other.isnan()
    one, other = one.masked_fill(unknown, torch.nan), other.masked_fill(unknown, torch.nan)
    return one.nanmean(dim=1), other.nanmean(dim=1)

"""Sections of the method: the terms of the loss."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from mgcda_dist.choices import (
    OUTLIER_LOSSES,
    SMOOTHING_MODES,
    Balance,
    CaclDefaults,
    Condition,
    Contrast,
    FeatureTarget,
    GatherDtype,
    LossDefaults,
    MaskWidth,
    MdatDefaults,
    Negatives,
    NegativesBy,
    OutlierKind,
    Positives,
    QueueLayout,
    SmoothingMode,
    TeacherDefaults,
)
from mgcda_dist.config.fields import (
    FIXED,
    OVERRIDE,
    Count,
    NonNegative,
    Positive,
    Probability,
    Section,
    StageName,
)
from mgcda_dist.errors import near_or_all
from mgcda_dist.references import PATTERN, PREFIX

__all__ = [
    "CaclConfig",
    "MdatConfig",
    "SegmentationLossConfig",
    "SmoothingConfig",
    "StageConfig",
    "TeacherConfig",
]

_LIMITS = {name: value for loss in OUTLIER_LOSSES.values() for name, value in loss.limits.items()}


class StageConfig(Section):
    """A network stage that gets a discriminator."""

    name: Annotated[StageName, FIXED] = Field(
        description="stride4 … stride32: of the backbone; a name of model.taps.stages; embedding"
    )
    weight: Annotated[NonNegative, OVERRIDE] = Field(default=1.0, description="w_s of L_mdat; ours")


class SmoothingConfig(Section):
    """Dynamic label smoothing of the discriminator's target (method: MDAT)."""

    mode: SmoothingMode = Field(default=MdatDefaults.smoothing, description="how ε of a label is found; ours")
    epsilon: Probability = Field(
        default=MdatDefaults.epsilon,
        description=", ".join(f"{mode}: {entry.parameter}" for mode, entry in SMOOTHING_MODES.items()) + "; ours",
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=MdatDefaults.momentum, description="of the running accuracy A_s; ours"
    )


class MdatConfig(Section):
    """Scene level: multi-source domain adversarial training."""

    enabled: Annotated[bool, FIXED] = Field(
        default=True, description="scene-level alignment, L_mdat; false: the network is trained without it"
    )
    weight: Annotated[NonNegative, OVERRIDE] = Field(
        default=MdatDefaults.weight, description="α of the total loss; ours"
    )
    warmup: Annotated[Probability, OVERRIDE] = Field(
        default=MdatDefaults.warmup, description="share of training over which α rises linearly"
    )
    lambda_max: Annotated[NonNegative, OVERRIDE] = Field(
        default=MdatDefaults.lambda_max, description="ceiling of λ(p); DANN (arXiv 1409.7495) uses 1; ours"
    )
    stages: Annotated[list[StageConfig], Field(min_length=1)] = Field(
        default=[StageConfig(name="stride16"), StageConfig(name="embedding")]
    )
    channels: Annotated[Count, FIXED] = Field(
        default=MdatDefaults.channels, description="width of a discriminator; ours"
    )
    smoothing: Annotated[SmoothingConfig, OVERRIDE] = SmoothingConfig()
    target: Annotated[FeatureTarget, OVERRIDE] = Field(
        default=MdatDefaults.target,
        description="what the features are trained towards: `smoothed`, as the discriminator and reversed; `hard`, the "
        "own domain, reversed (DANN); `uniform`, 1/M (domain confusion)",
    )
    condition: Annotated[Condition, FIXED] = Field(
        default=MdatDefaults.condition,
        description="`class`: a discriminator has one output per domain and class (FADA, arXiv 2007.09222); `outer`: "
        "it sees features ⊗ class probabilities (CDAN, arXiv 1705.10667)",
    )
    certainty: Annotated[bool, OVERRIDE] = Field(
        default=MdatDefaults.certainty, description="locations weigh (1 + e^{-H}) / 2, H of the prediction (CDAN+E)"
    )
    mask_anomalies: Annotated[bool, OVERRIDE] = Field(
        default=MdatDefaults.mask_anomalies,
        description="pasted anomalies and void pixels do not reach the discriminators",
    )
    mask_width: Annotated[MaskWidth, FIXED] = Field(
        default=MdatDefaults.mask_width,
        description="`receptive_field`: neither do locations that see an anomaly around them; measured at the start",
    )


class CaclConfig(Section):
    """Sample level: cross-domain anomaly-aware contrastive learning."""

    enabled: Annotated[bool, FIXED] = Field(
        default=True, description="sample-level contrast, L_cacl; false: the network is trained without it"
    )
    weight: Annotated[NonNegative, OVERRIDE] = Field(
        default=CaclDefaults.weight, description="β of the total loss; ours"
    )
    warmup: Annotated[Probability, OVERRIDE] = Field(
        default=CaclDefaults.warmup, description="share of training over which β rises linearly; ours"
    )
    temperature: Annotated[Positive, OVERRIDE] = Field(
        default=CaclDefaults.temperature, description="T; supervised contrastive learning (arXiv 2004.11362)"
    )
    projection_dim: Annotated[Count, FIXED] = Field(
        default=CaclDefaults.projection_dim, description="K; MoCo (arXiv 1911.05722)"
    )
    anomaly_pixels: Annotated[Count, OVERRIDE] = Field(
        default=CaclDefaults.anomaly_pixels, description="anomaly pixels sampled per image; ours"
    )
    inlier_pixels: Annotated[Count, OVERRIDE] = Field(
        default=CaclDefaults.inlier_pixels, description="pixels sampled per inlier class and image; ours"
    )
    hard_fraction: Annotated[Probability, OVERRIDE] = Field(
        default=CaclDefaults.hard_fraction, description="share drawn from the hardest; ours"
    )
    image_aware: Annotated[bool, OVERRIDE] = Field(
        default=CaclDefaults.image_aware, description="harder images of a micro-batch get more"
    )
    num_positives: Annotated[Count, OVERRIDE] = Field(
        default=CaclDefaults.num_positives, description="positives per anchor, other domains first; ours"
    )
    positives: Annotated[Positives, OVERRIDE] = Field(
        default=CaclDefaults.positives,
        description="shared: anchors of a type and domain have the same ones; per_anchor: each draws its own; ours",
    )
    balance: Annotated[Balance, OVERRIDE] = Field(
        default=CaclDefaults.balance,
        description="anchors: a mean over all; sides: over those of each side of anomaly/inlier, then over sides; ours",
    )
    num_negatives: Annotated[Count, OVERRIDE] = Field(
        default=CaclDefaults.num_negatives, description="negatives per side of anomaly/inlier; ours"
    )
    hard_negative_fraction: Annotated[Probability, OVERRIDE] = Field(
        default=CaclDefaults.hard_negative_fraction,
        description="share of the negatives that are the most difficult; the rest is random. ours",
    )
    negatives_by: Annotated[NegativesBy, OVERRIDE] = Field(
        default=CaclDefaults.negatives_by,
        description="the most difficult ones: by anomaly score, one set for all anchors; or the nearest to each anchor "
        "(with a random share beside them, after arXiv 2101.11939)",
    )
    cross_domain: Annotated[bool, OVERRIDE] = Field(
        default=CaclDefaults.cross_domain, description="false: positives from the same domain first (ablation)"
    )
    negatives: Annotated[Negatives, OVERRIDE] = Field(
        default=CaclDefaults.negatives,
        description="what an anchor is pushed away from: the opposite side of anomaly/inlier; or all other types",
    )
    contrast: Annotated[Contrast, FIXED] = Field(
        default=CaclDefaults.contrast,
        description="rows of batch and memory; or a Gaussian per (domain, type) in their place, in closed form "
        "and without a queue: SePiCo (arXiv 2204.08808)",
    )
    distribution_momentum: Annotated[Probability, OVERRIDE] = Field(
        default=CaclDefaults.distribution_momentum,
        description="share of its weight that a distribution keeps per step; 1: all rows weigh alike (SePiCo); ours",
    )
    queue_rows: Annotated[int, Field(ge=0), FIXED] = Field(
        default=CaclDefaults.queue_rows, description="memory rows per (domain, side) ring; 0: no memory"
    )
    queue_rows_per_image: Annotated[Count | None, OVERRIDE] = Field(
        default=CaclDefaults.queue_rows_per_image,
        description="rows of each type that an image gives to the memory, drawn from those sampled; null: all. "
        "Few rows of many images make a memory of more than a step or two; ours",
    )
    queue_layout: Annotated[QueueLayout, FIXED] = Field(
        default=CaclDefaults.queue_layout,
        description="every rank holds all rows, or a W-th of them; same loss. Sharded pays from some 100 MB of rows on",
    )
    unlabelled_confidence: Annotated[Probability | None, OVERRIDE] = Field(
        default=CaclDefaults.unlabelled_confidence,
        description="pixels of unlabelled images whose top probability exceeds this count as inliers; null: none",
    )
    max_rows: Annotated[Count | None, OVERRIDE] = Field(
        default=CaclDefaults.max_rows,
        description="most rows of a global micro-batch, drawn from those sampled, the same at every number of workers; "
        "null: all. All rows of all workers cost every one of them memory and time: for hundreds of GPUs; ours",
    )
    gather_dtype: Annotated[GatherDtype, OVERRIDE] = Field(
        default=CaclDefaults.gather_dtype,
        description="bf16: rows are rounded to it, with one worker too, and travel in half the bytes",
    )

    @model_validator(mode="after")
    def _of_rows(self) -> CaclConfig:
        defaults = {
            "positives": CaclDefaults.positives,
            "negatives_by": CaclDefaults.negatives_by,
            "queue_layout": CaclDefaults.queue_layout,
        }
        for name, default in defaults.items():
            if self.contrast == "distribution" and getattr(self, name) != default:
                raise ValueError(
                    f"{name}: {getattr(self, name)!r} is about rows, and `contrast: distribution` has none; leave it "
                    "out, or set contrast: rows"
                )
        return self


class TeacherConfig(Section):
    """An exponential moving average of the segmenter, which labels the unlabelled images."""

    enabled: Annotated[bool, FIXED] = Field(
        default=False, description="an average of the network that labels the unlabelled images, L_teacher"
    )
    decay: Annotated[float, Field(ge=0, lt=1), OVERRIDE] = Field(
        default=TeacherDefaults.decay,
        description="γ of the average, of step t at most 1 - 1/(t+1); Mean Teacher (arXiv 1703.01780), DAFormer",
    )
    weight: Annotated[NonNegative, OVERRIDE] = Field(
        default=TeacherDefaults.weight,
        description="of the cross-entropy to its labels; DACS (arXiv 2007.08702); 0: the average alone",
    )
    outlier_weight: Annotated[NonNegative, OVERRIDE] = Field(
        default=TeacherDefaults.outlier_weight,
        description="ω: of the outlier loss (without loss.outlier_weight) on all that it does not find anomalous "
        "(score_quantile), beside the cross-entropy; `weight` scales both; ours",
    )
    warmup: Annotated[Probability, OVERRIDE] = Field(
        default=TeacherDefaults.warmup, description="share of training over which those weights rise linearly"
    )
    confidence: Annotated[Probability, OVERRIDE] = Field(
        default=TeacherDefaults.confidence,
        description="τ: no label where its top probability is below; an image weighs as much as its share of others: "
        "DACS, DAFormer (arXiv 2111.14887)",
    )
    score_quantile: Annotated[Probability, OVERRIDE] = Field(
        default=TeacherDefaults.score_quantile,
        description="q: no label where its anomaly score is above this quantile of the image; 1: everywhere; ours",
    )
    contrast: Annotated[bool, OVERRIDE] = Field(
        default=TeacherDefaults.contrast,
        description="pixels that it labels enter CACL under their class, in the place of cacl.unlabelled_confidence",
    )

    @property
    def is_asked(self) -> bool:
        """True where something reads what it says of unlabelled images, beside the average itself."""
        return self.enabled and (self.weight > 0 or self.contrast)


def _known_loss(name: str) -> str:
    if name not in OUTLIER_LOSSES and re.fullmatch(PATTERN, name) is None:
        raise ValueError(f"no such loss; {near_or_all(name, OUTLIER_LOSSES, own='python:MODULE:NAME')}")
    return name


class SegmentationLossConfig(Section):
    """Cross-entropy and the outlier exposure term."""

    enabled: bool = Field(default=True, description="false: L_seg is measured and not trained (ablation)")
    outlier: Annotated[OutlierKind | str, AfterValidator(_known_loss), FIXED] = Field(
        default=LossDefaults.outlier,
        description="abstention (PEBAL): one logit more; the term takes the place of cross-entropy. "
        "python:MODULE:NAME: a loss of your own, an object or a class; plugin:NAME: a registered one",
    )
    arguments: dict[str, Any] = Field(default={}, description="of the class of a loss of your own")
    outlier_weight: NonNegative = Field(
        default=LossDefaults.outlier_weight,
        description="weight of the outlier term; energy: arXiv 2010.03759 uses 0.1. A loss of your own has its own",
    )
    class_weights: Annotated[dict[str, Positive] | None, AfterValidator(lambda given: given or {})] = Field(
        default={},
        description="class → factor of its pixels in the cross-entropy; a class that is not named: 1; null: none of a "
        "`base`; ours",
    )
    inlier_energy: float = Field(default=_LIMITS["inlier_energy"], description="m_in of energy_hinge; ours")
    outlier_energy: float = Field(default=_LIMITS["outlier_energy"], description="m_out of energy_hinge; ours")
    inlier_rba: float = Field(
        default=_LIMITS["inlier_rba"], description="s_in of rba_hinge, in (-C, 0]; 0: anomalies only; ours"
    )
    outlier_rba: float = Field(default=_LIMITS["outlier_rba"], description="s_out of rba_hinge, in (-C, 0); ours")

    @model_validator(mode="after")
    def _of_own(self) -> SegmentationLossConfig:
        if self.arguments and not self.outlier.startswith(PREFIX):
            raise ValueError(f"arguments: are for a loss of your own, python:MODULE:NAME; {self.outlier!r} takes none")
        return self
